"""Run a long campaign against forgeries and print its report.

python -m tests.forgery --cases 100000 --seed 1 --jobs 2 --write
"""

import argparse
import datetime as dt
import gc
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from tests.forgery import table
from tests.forgery.campaign import Tally, run
from tests.forgery.moves import MOVES
from tests.forgery.world import World, make

_A_CALL = 50
_world: list[World] = []


def _prepare(folder: str) -> None:
    """Make this process's own archive in a folder of its own."""
    tempfile.tempdir = folder
    _world.append(make(Path(tempfile.mkdtemp())))
    gc.freeze()  # otherwise a seventh of the time goes into looking at what stays
    gc.set_threshold(20_000)


def some(first: int) -> Tally:
    """A stretch of seeds."""
    tally = Tally()
    run(_world[0], range(first, first + _A_CALL), tally, full=0.15, writes=0.1)
    return tally


def singles() -> Tally:
    """Every change once, as `make test` does."""
    tally = Tally()
    run(_world[0], range(len(MOVES)), tally)
    return tally


def main() -> None:
    """Run until so many cases were done, or the time is over; the exit code is 1 if one breaks the promise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1, help="where the seeds begin, in millions of cases")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=600.0, help="stop after this long")
    parser.add_argument("--write", action="store_true", help="write the table into docs/integrity.md")
    args = parser.parse_args()
    started, total, first = time.monotonic(), Tally(), (args.seed - 1) * 1_000_000 + len(MOVES)
    memory = Path("/dev/shm")
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None))
        pool = stack.enter_context(ProcessPoolExecutor(args.jobs, initializer=_prepare, initargs=(folder,)))
        each_once = pool.submit(singles)
        while total.cases < args.cases and time.monotonic() - started < 60 * args.minutes:
            stretch = range(first, first + 4 * args.jobs * _A_CALL, _A_CALL)
            for tally in pool.map(some, stretch):
                total.add(tally)
                print(*tally.holes, sep="\n", end="\n" if tally.holes else "", flush=True)
            print(f"{total.cases} cases, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
            first = stretch.stop
        total.add(each_once.result())
    for name, row in sorted(total.rows.items()):
        print(f"{row.cases:6} {name}: {', '.join(table.cells(row))} {dict(row.listed) or ''}")
    print(
        f"{total.cases} cases and {total.unchanged} that changed nothing, {time.monotonic() - started:.0f} s;"
        f" {total.written} opened for writing, {total.refused} of them refused; {len(total.holes)} break the promise"
    )
    if args.write:
        part = table.written(total, args.seed, dt.datetime.now(dt.UTC).date().isoformat())
        table.PAGE.write_text(table.put_into(table.PAGE.read_text(encoding="utf-8"), part), encoding="utf-8")
    sys.exit(1 if total.holes else 0)


if __name__ == "__main__":
    main()
