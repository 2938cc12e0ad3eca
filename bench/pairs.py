"""What a change costs: this checkout beside another one, in alternating rounds, as CPU of the server per operation.

    python -m bench.pairs OTHER [--rounds 5] [--keys 20000] [--studies 200000]

OTHER is a checkout of another commit with its own `.venv`. Each round starts a fresh server of either on an empty
archive, stores a CT study by DCMTK's storescu, asks for it by its UID, gets it back by getscu, starts the server again,
and rotates a keyring. With --studies, each side also opens and verifies an archive of so many studies, which is filled
once. Prints a line for each operation: both medians with their ranges, and whether ours lies inside the other's range.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Final

import pydicom

from bench.kit import REAL, ROOT
from bench.scu import IMPLICIT_LE, STUDY_ROOT_FIND, Client
from bench.served import Served

_QUERIES: Final = 300
_FILL: Final = """
import sys
from pathlib import Path
from bench.rotating import filled
print(filled(Path(sys.argv[1]), int(sys.argv[2]))[0])
"""
Costs = dict[str, float]


def _quiet(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _study_uid(series: Path) -> str:
    first = next(iter(sorted(series.iterdir())))
    return str(pydicom.dcmread(first, specific_tags=["StudyInstanceUID"]).StudyInstanceUID)


def _round(checkout: Path, work: Path, series: Path) -> Costs:
    """CPU in milliseconds for each operation."""
    count, found, uid = len(list(series.iterdir())), Costs(), _study_uid(series)
    with Served(work / "archive", coffer=checkout / ".venv/bin/coffer") as server:
        time.sleep(2)
        found["start, empty"] = 1e3 * server.cpu()
        begun = server.cpu()
        _quiet("/usr/bin/storescu", "-aec", "PEER", "--scan-directories", "127.0.0.1", str(server.port), str(series))
        found["store a CT"] = 1e3 * (server.cpu() - begun) / count
        begun = server.cpu()
        with Client(server.port, [(STUDY_ROOT_FIND, IMPLICIT_LE)]) as client:
            for _ in range(_QUERIES):
                list(client.find({0x00080052: b"STUDY", 0x0020000D: uid.encode(), 0x00100010: b""}))
        found["find by UID"] = 1e3 * (server.cpu() - begun) / _QUERIES
        out = work / "got"
        out.mkdir()
        begun = server.cpu()
        _quiet(
            "/usr/bin/getscu", "-S", "-aec", "PEER", "-od", str(out), "-k", "0008,0052=STUDY", "-k", f"0020,000d={uid}",
            "127.0.0.1", str(server.port),
        )  # fmt: skip
        found["retrieve a CT"] = 1e3 * (server.cpu() - begun) / count
        assert len(list(out.iterdir())) == count
    with Served(work / "archive", coffer=checkout / ".venv/bin/coffer") as server:
        time.sleep(2)
        found["start, one study"] = 1e3 * server.cpu()
    return found


def _cpu_of(*command: str) -> float:
    """CPU seconds of a command that must succeed; of verify, also without a key from outside (17)."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert done.returncode in {0, 17}, done.stderr
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _rotate(checkout: Path, work: Path, keyring: Path, keys: int) -> float:
    folder = work / "keys"
    shutil.copytree(keyring, folder)
    config = folder / "coffer.toml"
    config.write_text(
        f'archive = "{folder}/archive"\n[http]\nenabled = false\n'
        f'[keys]\nkey_file = "{folder}/coffer.key"\n[log]\nlevel = "error"\n'
    )
    return 1e6 * _cpu_of(str(checkout / ".venv/bin/coffer"), "--config", str(config), "keys", "rotate") / keys


def _large(checkout: Path, folder: Path, studies: int) -> Costs:
    """Open and verify the large archive in `folder`; verification in us per record."""
    found, coffer = Costs(), checkout / ".venv/bin/coffer"
    with Served(folder, coffer=coffer) as server:
        time.sleep(2)
        found[f"start, {studies:,} studies"] = 1e3 * server.cpu()
    verify = [str(coffer), "--config", str(folder / "coffer.toml"), "verify", "--level"]
    for level in ("headers", "bodies", "decrypt"):
        found[f"verify {level} (us per object)"] = 1e6 * _cpu_of(*verify, level) / studies
    return found


def _filled(checkout: Path, cache: Path, keys: int) -> Path:
    """A keyring of that checkout's format."""
    python = checkout / ".venv/bin/python"
    cache.mkdir()
    done = subprocess.run(
        [python, "-c", _FILL, str(cache), str(keys)], cwd=checkout, check=True, capture_output=True, text=True
    )
    return Path(done.stdout.split("\n")[-2])


def _filled_large(checkout: Path, folder: Path, studies: int) -> Path:
    """An archive of so many studies in that checkout's format."""
    python = str(checkout / ".venv/bin/python")
    subprocess.run([python, "-m", "bench.fill", str(folder), str(studies)], cwd=checkout, check=True, stdout=sys.stderr)
    return folder


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keys", type=int, default=20_000, help="study keys to rotate")
    parser.add_argument("--studies", type=int, default=0, help="studies of the archive that is opened and verified")
    args = parser.parse_args()
    sides = {"ours": ROOT, "other": args.other.resolve()}
    figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as base:
        keyrings = {name: _filled(checkout, Path(base) / name, args.keys) for name, checkout in sides.items()}
        large = {
            name: _filled_large(checkout, Path(base) / f"{name}-large", args.studies)
            for name, checkout in sides.items()
            if args.studies
        }
        for number in range(args.rounds):
            for name, checkout in sorted(sides.items(), reverse=number % 2 == 1):
                work = Path(base) / f"{name}-{number}"
                work.mkdir()
                costs = _round(checkout, work, REAL["real-ct"])
                costs["rotate a key (us)"] = _rotate(checkout, work, keyrings[name], args.keys)
                if args.studies:
                    costs |= _large(checkout, large[name], args.studies)
                for what, cost in costs.items():
                    figures[what][name].append(cost)
                shutil.rmtree(work)
            print(f"round {number + 1} of {args.rounds}", file=sys.stderr, flush=True)
    print("| CPU in ms | other | ours | inside |\n|---|---|---|---|")
    for what, by in figures.items():
        print(f"| {what} | {_shown(by['other'])} | {_shown(by['ours'])} | {_verdict(by)} |")


def _shown(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _verdict(by: dict[str, list[float]]) -> str:
    median = statistics.median(by["ours"])
    return "yes" if median <= max(by["other"]) else f"no: {median / statistics.median(by['other']):.2f} times"


if __name__ == "__main__":
    main()
