"""Rotate the keys of many studies: time, memory, and what making a key costs meanwhile in another process.

python bench/keys_bench.py [--studies 1000000]
"""

import argparse
import multiprocessing
import resource
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

from keys.keyfile import KeyFileProvider, generate_keyfile
from keys.keyring import Keyring

_AT_ONCE = 5000


def make_keys(base: Path, told: Connection) -> None:
    """Make a key every 50 ms, as a server does for new studies; tell how long each took, in ms."""
    keyring = Keyring.open(base / "keyring", KeyFileProvider(base / "key"))
    took = []
    told.send("ready")
    while not told.poll(0.05):
        started = time.perf_counter()
        keyring.new_study()
        took.append((time.perf_counter() - started) * 1e3)
    keyring.close()
    told.send(took)


def main() -> None:
    """Make the keyring, rotate, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1_000_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        generate_keyfile(base / "key")
        keyring = Keyring.create(base / "keyring", KeyFileProvider(base / "key"), bytes(16))
        for _ in range(0, args.studies, _AT_ONCE):
            keyring.new_studies(_AT_ONCE)
        keyring.close()
        ours, theirs = multiprocessing.Pipe()
        other = multiprocessing.get_context("spawn").Process(target=make_keys, args=(base, theirs))
        other.start()
        ours.recv()
        keyring = Keyring.open(base / "keyring", KeyFileProvider(base / "key"))
        started = time.perf_counter()
        done = keyring.rotate()
        seconds = time.perf_counter() - started
        keyring.close()
        ours.send("stop")
        took = ours.recv()
        other.join()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{done.rewrapped} study keys moved in {seconds:.1f} s, {memory:.0f} MB at most; a new key beside it took")
    print(f"{statistics.median(took):.1f} ms (median), {max(took):.1f} ms (longest) of {len(took)}")


if __name__ == "__main__":
    main()
