"""Try every sequence of up to so many steps of an epoch's life, and hold what Coffer calls erased against the model.

python -m tests.erasure --steps 5 --jobs 2
python -m tests.erasure --steps 5 --shard 3/16      a sixteenth of it
python -m tests.erasure --only 'split, recover, shred, finish'
"""

import argparse
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from tests.erasure.campaign import Tally, prefixes, walk


def tried(prefix: tuple[str, ...], depth: int, *, alone: bool) -> Tally:
    """One stretch, in a folder of memory where there is one."""
    memory, tally = Path("/dev/shm"), Tally()
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        walk(Path(folder), prefix, depth, tally, alone=alone)
    return tally


def main() -> int:
    """Run them all and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--shard", default="1/1", help="which part, of how many")
    parser.add_argument("--only", default="", help="one sequence, its steps parted by commas")
    args = parser.parse_args()
    part, of = (int(each) for each in args.shard.split("/"))
    started, total, deep = time.monotonic(), Tally(), min(2, args.steps)
    whole = partial(tried, depth=args.steps - deep, alone=False)
    if args.only:
        total.add(tried(tuple(each.strip() for each in args.only.split(",")), 0, alone=True))
    else:
        with ProcessPoolExecutor(args.jobs) as pool:
            if part == 1:
                for length in range(1, deep):
                    for tally in pool.map(partial(tried, depth=0, alone=True), prefixes(length)):
                        total.add(tally)
            for number, tally in enumerate(pool.map(whole, prefixes(deep)[part - 1 :: of])):
                total.add(tally)
                print(f"{number + 1}: {total.sequences} sequences, {len(total.wrong)} wrong", flush=True)
    print(*total.wrong[:50], sep="\n")
    print(
        f"{total.sequences} sequences, {time.monotonic() - started:.0f} s: {total.erased} ended erased,"
        f" {len(total.wrong)} were wrong"
    )
    return 1 if total.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
