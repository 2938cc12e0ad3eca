"""Measure Coffer beside Orthanc and DCMTK in one alternating run, and write the tables.

    python bench/run.py [--quick]

The kit that drives the peers lies outside the repository, in `bench` of the folder COFFER_SHARED names (by default
`../shared`). Every server runs with the settings a user would get; the client is the same for all; a fresh server and
an empty folder serve every C-STORE run. Figures go to bench/RESULTS.md and, shortened, to README.md.
"""

import argparse
import datetime as dt
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from report import Figures, readme_section, results_page

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("COFFER_SHARED", ROOT.parent / "shared"))
KIT = SHARED / "bench"
REAL = {
    "real-ct": SHARED / "data/real/neurolabusc-dcm_qa_ct/ct-phantom-140",
    "real-mr": SHARED / "data/real/neurolabusc-dcm_qa_deident/mr-t1-196",
}
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"


class Size(NamedTuple):
    """How much is measured: instances per C-STORE run, studies for C-FIND, repetitions."""

    images: int
    reports: int
    studies: int
    runs: int
    rounds: int


QUICK = Size(images=100, reports=400, studies=2000, runs=1, rounds=1)
FULL = Size(images=300, reports=800, studies=20000, runs=3, rounds=3)


def kit(script: str, *args: str) -> Iterator[dict[str, Any]]:
    """Run a script of the kit; yield each JSON line it prints as soon as it comes."""
    command = [sys.executable, str(KIT / script), *args]
    print("+ " + " ".join([script, *args]), file=sys.stderr, flush=True)
    # The kit calls DCMTK by absolute path, because pynetdicom installs scripts of the same names.
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=KIT) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("{"):
                row = json.loads(line)
                print("  " + brief(row), file=sys.stderr, flush=True)
                yield row
    if process.returncode:
        raise SystemExit(f"{script} ended with {process.returncode}")


def brief(row: dict[str, Any]) -> str:
    """One line of progress."""
    keys = (
        "peer",
        "corpus",
        "assoc",
        "query",
        "inst_s",
        "p50_ms",
        "server_cpu_ms",
        "rss_peak_mb",
        "stored_ratio",
        "error",
    )
    return " ".join(f"{k}={row[k]}" for k in keys if row.get(k) is not None)


def make_data(folder: Path, size: Size) -> None:
    """Generate the corpora; what is there already is kept."""
    links = [a for name, source in REAL.items() for a in ("--link", f"{name}={source}") if source.is_dir()]
    wanted = ["--ct", str(size.images), "--tiny", str(size.reports), "--studies", str(size.studies)]
    list(kit("make_data.py", "--out", str(folder), "--only", "ct,tiny,mf,find", *wanted, *links))


def measure(data: Path, work: Path, size: Size, coffer: str) -> Iterator[dict[str, Any]]:
    """All measurements: store, find, move; the peers alternate inside each."""
    common = ["--data", str(data), "--work", str(work)]
    real = [name for name in REAL if (data / name).is_dir()]
    store = ["orthanc+nd", "storescp-pdu128k+nd", coffer]
    for corpora, limit in (("ct", size.images), ("tiny", size.reports), ("mf", 0), (",".join(real), 0)):
        if corpora:
            yield from kit(
                "store_bench.py",
                *common,
                "--peers",
                ";".join(store),
                "--corpus",
                corpora,
                "--assoc",
                "1" if corpora == "mf" else "1,4",
                "--limit",
                str(limit),
                "--runs",
                str(size.runs),
            )
    find = ["orthanc+nd", coffer]
    yield from kit(
        "find_bench.py",
        *common,
        "--peers",
        ";".join(find),
        "--studies",
        str(size.studies),
        "--rounds",
        str(size.rounds),
    )
    move = ["orthanc+nd", "dcmqrscp+nd", coffer]
    for corpus in ("ct", *real[:1]):
        yield from kit(
            "move_bench.py", *common, "--peers", ";".join(move), "--corpus", corpus, "--runs", str(size.runs)
        )


def first_line(*command: str) -> str:
    """What a program prints first, or that it is absent."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except OSError:
        return "absent"
    return (done.stdout or done.stderr).strip().splitlines()[0] if (done.stdout or done.stderr).strip() else "?"


def surroundings(command: str) -> dict[str, str]:
    """Date, machine, versions and the command, for the head of the report."""
    cpu = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    memory = next(int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line)
    commit = first_line("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD")
    packages = ("pydicom", "pynetdicom", "cryptography", "lmdb", "zstandard", "numpy")
    return {
        "Date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "Command": f"`{command}`",
        "Machine": f"{cpu}, {len(os.sched_getaffinity(0))} cores, {memory / 1048576:.0f} GiB; client beside server",
        "Coffer": f"{importlib.metadata.version('coffer')}, commit {commit}",
        "Orthanc": first_line("Orthanc", "--version").removeprefix("Orthanc "),
        "DCMTK": first_line("/usr/bin/storescp", "--version").strip("$ "),
        "Python": f"{platform.python_version()}; "
        + ", ".join(f"{p} {importlib.metadata.version(p)}" for p in packages),
    }


def replace_section(page: Path, section: str) -> None:
    """Put the new table between the markers of a page."""
    text = page.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise SystemExit(f"{page.name} needs exactly one {BEGIN} and one {END}")
    head, rest = text.split(BEGIN)
    tail = rest.split(END)[1]
    page.write_text(f"{head}{BEGIN}\n{section.strip()}\n{END}{tail}", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, then write RESULTS.md and the table of README.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less data, one run: minutes instead of half an hour")
    parser.add_argument("--data", type=Path, default=ROOT / "bench-data", help="where the corpora are made")
    parser.add_argument("--work", type=Path, default=ROOT / "bench-work", help="where the servers keep their archives")
    parser.add_argument(
        "--coffer",
        default="",
        metavar="COMMAND",
        help="another server under test: a command with {dir} {port} {http} {aet} {movehost} {moveport}",
    )
    parser.add_argument("--from-lines", type=Path, help="make the tables from an earlier run's lines, measure nothing")
    parser.add_argument("--dry", action="store_true", help="print the tables instead of writing them")
    args = parser.parse_args(argv)
    if not args.from_lines and not (KIT / "store_bench.py").is_file():
        raise SystemExit(f"no measuring kit at {KIT}: set COFFER_SHARED to the folder that holds bench/")
    size = QUICK if args.quick else FULL
    lines = args.work / "lines.jsonl"
    if args.from_lines:
        rows = [json.loads(line) for line in args.from_lines.read_text().splitlines()]
    else:
        script = ROOT / "bench/coffer_peer.sh"
        command = args.coffer or f"sh {script} {{dir}} {{port}} {{http}} {{aet}} {{movehost}} {{moveport}}"
        args.work.mkdir(parents=True, exist_ok=True)
        data = args.data / ("quick" if args.quick else "full")
        make_data(data, size)
        with lines.open("w", buffering=1) as keep:
            rows = []
            for row in measure(data, args.work, size, f"coffer=cmd:{command}"):
                keep.write(json.dumps(row) + "\n")
                rows.append(row)
    figures = Figures(rows)
    around = surroundings("python bench/run.py" + (" --quick" if args.quick else ""))
    if args.dry:
        print(results_page(figures, around), readme_section(figures, around), sep="\n\n")
        return
    (ROOT / "bench/RESULTS.md").write_text(results_page(figures, around), encoding="utf-8")
    replace_section(ROOT / "README.md", readme_section(figures, around))
    print("written: bench/RESULTS.md and the table of README.md", file=sys.stderr)


if __name__ == "__main__":
    main()
