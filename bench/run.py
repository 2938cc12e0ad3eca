"""Measure Coffer beside Orthanc and DCMTK in one alternating run, and print the table of the speed targets.

    make bench                                       everything, under 15 minutes
    make bench BENCHARGS=--write                     and write bench/RESULTS.md and the table of README.md
    make bench BENCHARGS="--quick --without-peers"   a minute: only checks that it runs
    make bench BENCHARGS="--only store,verify"       some parts
    make bench BENCHARGS="--only keys --write"       the rotation of a million keys, three minutes by itself

The kit that drives the peers is outside the repository, in `bench` of the folder that COFFER_SHARED names (by default
`../shared`). Every server runs with its default settings; the client is the same for all; every C-STORE run has a fresh
server and an empty folder. Each measured row is kept in bench-work/lines.jsonl.
"""

import argparse
import datetime as dt
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from bench import kit, verify_bench
from bench.figures import Figures
from bench.finding import finding
from bench.growth import growth
from bench.kit import DCMQRSCP, ORTHANC, REAL, ROOT, STORESCP
from bench.pages import write
from bench.report import keys_table, targets_table
from bench.retrieving import retrieving
from bench.rotating import rotating
from bench.simulate import simulate
from bench.verify_bench import Amount

PARTS = ("store", "find", "retrieve", "codec", "profile", "growth", "simulate", "verify")
BY_NAME = ("keys",)  # not part of a full run, which would take too long with it
WITH_PEERS = ("store", "find", "retrieve", "profile")  # parts that need the kit or the corpora that it makes
LONGEST_SECONDS = 900
Row = dict[str, Any]


class Size(NamedTuple):
    """How much is measured: instances per C-STORE run, studies, runs, seconds of a stretch beside a rotation."""

    images: int
    reports: int
    find_studies: int
    runs: int
    rounds: int
    batch: int
    studies: int
    simulated: int
    stretch: float
    keys: int
    verified: Amount


QUICK = Size(
    images=20, reports=80, find_studies=200, runs=1, rounds=1, batch=20, studies=1000, simulated=5000, stretch=0.3,
    keys=2000, verified=verify_bench.QUICK,
)  # fmt: skip
FULL = Size(
    images=300, reports=800, find_studies=20_000, runs=3, rounds=2, batch=300, studies=200_000, simulated=1_000_000,
    stretch=2.0, keys=1_000_000, verified=Amount(200_000, 10_000, 100),
)  # fmt: skip


class Run(NamedTuple):
    """Folders and amounts of a run; `coffer` is the kit's name for the server under test."""

    data: Path
    work: Path
    size: Size
    coffer: str

    def part(self, name: str) -> Iterator[Row]:
        """Yield the rows of one part."""
        size = self.size
        match name:
            case "store":
                yield from self.store()
            case "find":
                yield from finding(self.data, self.work, size.find_studies, size.rounds, [ORTHANC, self.coffer])
            case "retrieve":
                yield from self.retrieve()
            case "codec":
                yield from codec()
            case "profile":
                for corpus in ("ct", "tiny"):
                    yield from profile(self.data / corpus, size.images)
            case "growth":
                yield from growth(self.data, self.work, size.studies, size.batch, rounds=size.rounds * 4)
            case "simulate":
                yield from simulate(self.work, size.simulated)
            case "keys":
                yield from rotating(self.data, self.work, size.keys, size.stretch * 5)
            case "verify":
                yield from verify_rates(self.work, size.verified)

    def real(self) -> list[str]:
        """Return the names of the real series that exist."""
        return [name for name in REAL if (self.data / name).is_dir()]

    def retrieve(self) -> Iterator[Row]:
        """Measure C-MOVE and C-GET of the synthetic and of the first real series."""
        specs = [ORTHANC, DCMQRSCP, self.coffer]
        for corpus in ("ct", *self.real()[:1]) if self.size.runs > 1 else ("ct",):
            yield from retrieving(self.data, self.work, corpus, self.size.runs, specs)

    def store(self) -> Iterator[Row]:
        """Measure C-STORE; the peers alternate."""
        size, peers = self.size, f"{ORTHANC};{STORESCP};{self.coffer}"
        common = ["--data", str(self.data), "--work", str(self.work), "--peers", peers]
        whole = (
            ("ct", "1,4", size.images, size.runs),
            ("tiny", "1,4", size.reports, size.runs),
            ("mf", "1", 0, size.runs),
            (",".join(self.real()), "1,4", 0, 1),  # for its stored size; its speed is that of the synthetic series
        )
        least = (("ct", "1", size.images, 1), ("tiny", "4", size.reports, 1))
        for corpora, assoc, limit, runs in whole if size.runs > 1 else least:
            if corpora:
                more = ["--corpus", corpora, "--assoc", assoc, "--limit", str(limit), "--runs", str(runs)]
                yield from kit.script("store_bench.py", *common, *more)


def verify_rates(work: Path, amount: Amount) -> Iterator[Row]:
    """Measure the rates of coffer verify, on logs created for it and removed afterwards."""
    folder = work / "verify"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield from verify_bench.verifying(folder, amount)
    finally:
        shutil.rmtree(folder)


def codec() -> Iterator[Row]:
    """Measure share and rates of the real series; yields nothing without the shared data."""
    from bench.codec_bench import load, measure
    from bench.store_profile import stored_share
    from coffer.archive.body.allocator import keep_blocks

    keep_blocks()
    for name, folder in REAL.items():
        if folder.is_dir():
            items = [load(path) for path in sorted(folder.glob("*.dcm"))]
            runs = [measure(items) for _ in range(3)]
            yield {
                "bench": "codec", "series": name.removeprefix("real-").upper(),
                "coded_share": round(runs[0][0], 4), "stored_share": round(stored_share(folder), 4),
                "in_mb_s": round(sorted(run[1] for run in runs)[1]),
                "out_mb_s": round(sorted(run[2] for run in runs)[1]), "filters": runs[0][3],
            }  # fmt: skip


def profile(folder: Path, limit: int) -> Iterator[Row]:
    """Measure the steps of a store in a process of their own, which is instrumented."""
    command = [sys.executable, "-m", "bench.store_profile", str(folder), "--limit", str(limit), "--lines"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    yield from (json.loads(line) for line in done.stdout.splitlines() if line.startswith("{"))


def brief(row: Row) -> str:
    """Return one line of progress."""
    keys = (
        "bench", "peer", "corpus", "assoc", "query", "inst_s", "p50_ms", "first_ms", "server_cpu_ms", "rss_peak_mb",
        "stored_ratio", "error", "studies", "objects", "cpu_ms", "cpu_us", "store_s", "find_s", "series",
        "stored_share", "in_mb_s", "out_mb_s", "peers", "extra_ms", "memory_kb", "step", "us", "wall_s", "seconds",
        "own_peak_mb", "alone_p99_ms", "beside_p99_ms", "beside_max_ms",
        "level", "bodies", "records_s", "gb_s", "mb_s",
    )  # fmt: skip
    return " ".join(f"{k}={row[k]}" for k in keys if row.get(k) is not None)


def measured(run: Run, parts: Sequence[str], lines: Path) -> list[Row]:
    """Return all rows of the parts, with the seconds of each part; each row is appended to a file as it is measured."""
    rows: list[Row] = []
    with lines.open("w", buffering=1) as keep:

        def take(row: Row) -> None:
            print("  " + brief(row), file=sys.stderr, flush=True)
            keep.write(json.dumps(row) + "\n")
            rows.append(row)

        for part in parts:
            started = time.monotonic()
            print(f"+ {part}", file=sys.stderr, flush=True)
            for row in run.part(part):
                take(row)
            take({"bench": "part", "part": part, "wall_s": round(time.monotonic() - started, 1)})
    return rows


def first_line(*command: str) -> str:
    """Return the first line that a program prints, or that it is absent."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except OSError:
        return "absent"
    return (done.stdout or done.stderr).strip().splitlines()[0] if (done.stdout or done.stderr).strip() else "?"


def surroundings(command: str, rows: Sequence[Row]) -> dict[str, str]:
    """Return date, machine, versions and the command, for the head of the report."""
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
    took = {row["part"]: row["wall_s"] for row in rows if row["bench"] == "part"}
    cores = len(os.sched_getaffinity(0))
    return {
        "Date": dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "Command": f"`{command}`, {sum(took.values()):.0f} s ("
        + ", ".join(f"{part} {seconds:.0f}" for part, seconds in took.items()) + ")",
        "Machine": f"{cpu}, {cores} cores, {memory / 1048576:.0f} GiB, load {os.getloadavg()[2]:.1f} over the last "
        "15 minutes; client beside server",
        "Coffer": f"{importlib.metadata.version('coffer-dicom')}, commit {commit}",
        "Orthanc": first_line("Orthanc", "--version").removeprefix("Orthanc "),
        "DCMTK": first_line("/usr/bin/storescp", "--version").strip("$ "),
        "Python": f"{sys.version}; "
        + ", ".join(f"{p} {importlib.metadata.version(p)}" for p in packages),
    }  # fmt: skip


def options() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="bench/run.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="little data, one run: checks that everything runs")
    parser.add_argument("--only", default="", help=f"parts, separated by commas: {', '.join(PARTS + BY_NAME)}")
    parser.add_argument(
        "--without-peers", action="store_true", help="omit the parts that need Orthanc, DCMTK or the kit"
    )
    parser.add_argument("--studies", type=int, help=f"studies of the large archive, {FULL.studies:,} by default")
    parser.add_argument("--simulate", type=int, help=f"objects of the simulated index, {FULL.simulated:,} by default")
    parser.add_argument("--keys", type=int, help=f"study keys of the part keys, {FULL.keys:,} by default")
    parser.add_argument("--runs", type=int, help=f"runs of each C-STORE and retrieval, {FULL.runs} by default")
    parser.add_argument(
        "--data", type=Path, default=ROOT / "bench-data", help="folder of the corpora and filled archives"
    )
    parser.add_argument("--work", type=Path, default=ROOT / "bench-work", help="folder of the servers' archives")
    parser.add_argument(
        "--coffer", default="", metavar="COMMAND",
        help="another server under test: a command with {dir} {port} {http} {aet} {movehost} {moveport}",
    )  # fmt: skip
    parser.add_argument("--from-lines", type=Path, help="make the tables from the rows of an earlier run")
    parser.add_argument("--write", action="store_true", help="write bench/RESULTS.md and the table of README.md")
    return parser


def chosen_parts(only: str, *, quick: bool, without_peers: bool) -> list[str]:
    """Return the parts to measure. Ends the program if a part is unknown or a peer that it needs is missing."""
    parts = only.split(",") if only else list(PARTS + BY_NAME if quick else PARTS)
    if unknown := set(parts) - {*PARTS, *BY_NAME}:
        raise SystemExit(f"no such part: {', '.join(sorted(unknown))}; the parts are {', '.join(PARTS + BY_NAME)}")
    if without_peers:
        return [part for part in parts if part not in WITH_PEERS]
    if (absent := kit.missing()) and set(parts) & set(WITH_PEERS):
        raise SystemExit(f"missing: {', '.join(absent)}. Install them (tests/peers.txt), or use --without-peers")
    return parts


def command_of(args: argparse.Namespace) -> str:
    """Return the command that repeats the measurement, without options that only concern this machine."""
    flags = [f"--{name.replace('_', '-')}" for name in ("quick", "without_peers") if getattr(args, name)]
    values = [
        f"--{name} {getattr(args, name)}"
        for name in ("only", "studies", "simulate", "keys", "runs")
        if getattr(args, name)
    ]
    arguments = " ".join([*flags, *values])
    return f'make bench BENCHARGS="{arguments}"' if arguments else "make bench"


def measure(args: argparse.Namespace) -> list[Row]:
    """Prepare the corpora and measure."""
    parts = chosen_parts(args.only, quick=args.quick, without_peers=args.without_peers)
    size = QUICK if args.quick else FULL
    given = {"studies": args.studies, "simulated": args.simulate, "keys": args.keys, "runs": args.runs}
    size = size._replace(**{name: value for name, value in given.items() if value})
    data = args.data / ("quick" if args.quick else "full")
    data.mkdir(parents=True, exist_ok=True)
    args.work.mkdir(parents=True, exist_ok=True)
    if set(parts) & set(WITH_PEERS):
        kit.make_data(data, size.images, size.reports, size.find_studies)
    return measured(Run(data, args.work, size, kit.coffer_spec(args.coffer)), parts, args.work / "lines.jsonl")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table of the targets, and write the pages with --write."""
    args = options().parse_args(argv)
    kept: Path | None = args.from_lines
    rows = measure(args) if kept is None else [json.loads(line) for line in kept.read_text().splitlines()]
    figures = Figures(rows)
    around = surroundings(command_of(args), rows)
    print("\n".join(f"{key}: {value}" for key, value in around.items()), end="\n\n")
    parts = {row["part"] for row in rows if row["bench"] == "part"}
    if not parts <= {*BY_NAME}:
        print(targets_table(figures))
    if "keys" in parts:
        print(keys_table(figures))
    for error in figures.errors():
        print(f"error: {error}")
    if args.write:
        write(figures, around, with_keys="keys" in parts, keys_alone=parts <= {*BY_NAME})
    if any(row["bench"] != "part" and row.get("error") for row in rows):
        raise SystemExit("some of the measurements failed")


if __name__ == "__main__":
    main()
