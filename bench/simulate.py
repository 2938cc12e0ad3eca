"""The index's LMDB file alone, grown to a million objects: the cost of writing one object's rows as the trees deepen.

The simulation writes, for each object of a new study, what `index.backends.lmdb_store.LmdbRowStore.write` gets from a
flush: one sealed study row, one series row, one instance row (random bytes of the lengths that header-only objects
have) and three random UID tokens, in commits of 100 objects, each synced. Nothing is parsed, sealed, logged, or held in
memory.
"""

import random
import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from coffer.index.backends.lmdb_store import LmdbRowStore
from coffer.index.backends.row_store import Change
from coffer.keys.memory.secret import Secret

_ROW_BYTES: Final = {"study": 600, "series": 344, "instance": 344}  # as `bench.fill` writes them
_COMMIT: Final = 100
_BULK: Final = 5000  # objects per commit between the measured stretches
_MEASURED: Final = 2000
_STOPS: Final = (1_000, 10_000, 100_000, 200_000, 500_000, 1_000_000)


def changes(dice: random.Random, first: int, count: int) -> list[Change]:
    """Return the rows and tokens of objects [first, first + count)."""
    out: list[Change] = []
    for number in range(first, first + count):
        ref = struct.pack(">Q", number)
        for kind, (table, size) in enumerate(_ROW_BYTES.items(), 1):
            out.append((table, ref, dice.randbytes(size)))
            out.append(("uid", bytes((kind,)) + dice.randbytes(16), ref))
            ref += bytes(4)
    return out


def simulate(work: Path, objects: int) -> Iterator[dict[str, Any]]:
    """Yield one row for each stop: microseconds of CPU and of wall time per object."""
    dice = random.Random(1)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        store = LmdbRowStore(Path(folder) / "index")
        store.authenticate(Secret(bytes(32)), dice.randbytes)
        at = 0
        for stop in [each for each in _STOPS if each < objects] + [objects]:
            begin = max(stop - _MEASURED, at)
            while at < begin:
                step = min(_BULK, begin - at)
                store.write(0, changes(dice, at, step))
                at += step
            commits = [changes(dice, n, min(_COMMIT, stop - n)) for n in range(at, stop, _COMMIT)]
            wall, cpu = time.perf_counter(), time.process_time()
            for each in commits:
                store.write(0, each)
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            yield {
                "bench": "simulate", "objects": stop, "cpu_us": round(1e6 * cpu / (stop - at), 2),
                "wall_us": round(1e6 * wall / (stop - at), 2),
                "file_mb": round((Path(folder) / "index/data.mdb").stat().st_size / 1e6),
            }  # fmt: skip
            at = stop
        store.close()
