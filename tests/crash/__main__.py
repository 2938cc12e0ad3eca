"""Run a long campaign of power cuts and print its report.

python -m tests.crash --states 100000 --seed 1 --jobs 4
"""

import argparse
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import count
from pathlib import Path

from tests.crash import files
from tests.crash.campaign import Tally, one_run


def some_runs(first: int, runs: int, states_a_call: int) -> Tally:
    """A stretch of seeds, in a folder of memory where there is one."""
    memory = Path("/dev/shm")
    tally = Tally()
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        for seed in range(first, first + runs):
            one_run(seed, Path(folder), tally, states_a_call)
            for kind in files.LIVES:
                files.one_run(kind, seed, Path(folder), tally, 1)
    return tally


def main() -> None:
    """Run until so many states were tried."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--states", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1, help="the first run's seed; each run takes the next")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--states-a-call", type=int, default=8)
    args = parser.parse_args()
    started, total = time.monotonic(), Tally()
    with ProcessPoolExecutor(args.jobs) as pool:
        for first in count(args.seed, 4 * args.jobs):
            for tally in pool.map(
                some_runs, range(first, first + 4 * args.jobs, 4), [4] * args.jobs, [args.states_a_call] * args.jobs
            ):
                total.add(tally)
            if total.states >= args.states:
                break
    seconds = time.monotonic() - started
    print(
        f"{total.states} states after {total.calls} system calls of {total.runs} runs, {seconds:.0f} s: "
        f"every promise held; {total.cuts} had a torn tail, in {total.twice} the power went again during recovery; "
        f"{total.kills} processes killed and {total.failures} syncs failed on the way, "
        f"{total.signed} checkpoints were signed; in {total.short} states the system answered readings short"
    )


if __name__ == "__main__":
    main()
