"""Backup, verification and restore of one archive, beside restic and Borg on the same bytes, in alternating rounds.

    python -m bench.backup [--mb 1000] [--rounds 3] [--folder DIR]

Each tool backs the archive folder up to an empty repository on the same disk, reads everything in it back (`coffer
backup verify`, `restic check --read-data`, `borg check --verify-data`), and restores it into an empty folder.
Everything is in the page cache. Prints MB/s of the archive's bytes by wall clock, median and range, and by CPU. Ours
verifies what it has sent and what it has restored, which the others do not. Nothing is compressed: ciphertext does not
get smaller.
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
from collections.abc import Callable
from functools import partial
from pathlib import Path

from coffer.archive.format.entry import Entry
from coffer.archive.log import LogWriter
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.checkpoint_history import begin
from coffer.keys.crypto.signing import CheckpointSigner
from coffer.keys.memory.secret import Secret

ORIGIN = "bench/backup"
_BODY = 250_000  # bytes: a CT image, sealed
Steps = dict[str, Callable[[], None]]


def log_of(path: Path, mb: int) -> int:
    """Make a signed log of so many megabytes, all bodies different. Returns its bytes."""
    signer = CheckpointSigner(Secret(bytes(32)))
    ArchiveFolder.prepare(path)
    folder = ArchiveFolder(path, bytes(16), ORIGIN, signer.vkey(ORIGIN))
    begin(folder, partial(signer.sign_note, ORIGIN))
    folder.commit()
    writer = LogWriter(folder, sign=signer.sign_statement, now_ms=lambda: 1, segment_bytes=256 << 20)
    for number in range(mb * 1_000_000 // _BODY):
        writer.append([Entry(1, bytes(16), 0, number.to_bytes(32, "big"), os.urandom(_BODY))])
    writer.checkpoint(partial(signer.sign_note, ORIGIN))
    writer.close()
    return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())


def _run(*command: str, cwd: Path | None = None, codes: tuple[int, ...] = (0,)) -> None:
    told = {"RESTIC_PASSWORD": "bench", "BORG_PASSPHRASE": "bench", "HOME": tempfile.gettempdir()}
    done = subprocess.run(command, cwd=cwd, env=os.environ | told, capture_output=True, check=False)
    if done.returncode not in codes:
        raise SystemExit(f"{' '.join(command)}: {done.stdout.decode()}{done.stderr.decode()}")


def coffer(archive: Path, work: Path) -> Steps:
    """Ours. A verification without a key from outside ends with 17."""
    program, to, out = str(Path(sys.executable).with_name("coffer")), work / "target", work / "out"
    to.mkdir()
    at = ("--archive", str(archive))
    return {
        "backup": lambda: _run(program, *at, "backup", "run", str(to), "--no-keys"),
        "verify": lambda: _run(program, *at, "backup", "verify", "latest", str(to), codes=(0, 17)),
        "restore": lambda: _run(program, "restore", "latest", str(out), "--from", str(to), "--no-keys"),
    }


def restic(archive: Path, work: Path) -> Steps:
    """restic with its defaults; format 2 would try to compress."""
    to = ("-r", str(work / "repository"))
    _run("restic", "init", "--repository-version", "1", *to)
    return {
        "backup": lambda: _run("restic", "backup", *to, str(archive)),
        "verify": lambda: _run("restic", "check", "--read-data", *to),
        "restore": lambda: _run("restic", "restore", *to, "latest", "--target", str(work / "out")),
    }


def borg(archive: Path, work: Path) -> Steps:
    """Borg with BLAKE2, its faster hash, and without compression."""
    to, out = str(work / "repository"), work / "out"
    out.mkdir()
    _run("borg", "init", "--encryption", "repokey-blake2", to)
    return {
        "backup": lambda: _run("borg", "create", "--compression", "none", f"{to}::one", str(archive)),
        "verify": lambda: _run("borg", "check", "--verify-data", to),
        "restore": lambda: _run("borg", "extract", f"{to}::one", cwd=out),
    }


TOOLS = {"coffer": coffer, "restic": restic, "borg": borg}


def _cpu() -> float:
    """CPU seconds of all processes that were run so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Parse the arguments, run the rounds, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None)
    given = parser.parse_args()
    tools = {name: made for name, made in TOOLS.items() if name == "coffer" or shutil.which(name)}
    rates: dict[tuple[str, str], list[float]] = defaultdict(list)
    by_cpu: dict[tuple[str, str], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        archive = Path(folder) / "archive"
        size = log_of(archive, given.mb)
        for _ in range(given.rounds):
            for name, made in tools.items():
                work = Path(folder) / "work"
                work.mkdir()
                for step, do in made(archive, work).items():
                    began, used = time.monotonic(), _cpu()
                    do()
                    rates[name, step].append(size / 1e6 / (time.monotonic() - began))
                    print(f"{name} {step}: {rates[name, step][-1]:.0f} MB/s", file=sys.stderr, flush=True)
                    by_cpu[name, step].append(size / 1e6 / (_cpu() - used))
                shutil.rmtree(work)
    for step in ("backup", "verify", "restore"):
        for name in tools:
            found = sorted(rates[name, step])
            cpu = statistics.median(by_cpu[name, step])
            rate, span = statistics.median(found), f"({found[0]:.0f}-{found[-1]:.0f})"
            print(f"{step:8} {name:8} {rate:7.0f} MB/s {span:12} {cpu:7.0f} MB a CPU second")


if __name__ == "__main__":
    main()
