"""Where the time of one store goes: the receive path in one process, its steps timed around the real calls.

    python bench/store_profile.py FOLDER [--limit 300]

FOLDER holds Part 10 files, for example bench-data/quick/ct. The steps do not add up to the whole: what is between them
is Python. A server spreads them over two processes (docs/adr/0004-lanes.md), which costs two wake-ups for each object.
"""

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import archive.body
import archive.codec
import server.commit
import server.ingest
from archive.draft import Draft
from archive.log import LogWriter
from index.index import Index
from keys.durable import AppendFile
from server import logs
from server.config import Config, Keys
from server.dimse.services import Caller, StoreRequest
from server.engine import Engine
from server.founding import create_archive
from server.part10 import Part10, read_part10

STEPS: tuple[tuple[Any, str, str], ...] = (
    (Draft, "write", "receive: copy, SHA-256, hand out frames"),
    (server.ingest, "scan", "parse the header"),
    (server.ingest, "extract", "take the index's attributes"),
    (Draft, "finish", "code what is left, wait for the rest"),
    (archive.codec, "encode", "code the frames, in all threads"),
    (archive.body.aead, "seal", "encrypt"),
    (LogWriter, "append", "append, sync included"),
    (AppendFile, "sync", "of that, fdatasync"),
    (Index, "study_key_for", "look up the study"),
    (Index, "known_content", "look for duplicates"),
    (Index, "apply", "index"),
)
_FRAGMENT = 128 << 10


def timed(owner: Any, name: str, spent: Counter[str]) -> None:
    """Let a function add its time to `spent`."""
    inner = getattr(owner, name)

    def outer(*args: Any, **more: Any) -> Any:
        started = time.perf_counter()
        try:
            return inner(*args, **more)
        finally:
            spent[name] += time.perf_counter() - started

    setattr(owner, name, outer)


def put(engine: Engine, found: Part10, data: bytes) -> None:
    """Store one object as an association would."""
    request = StoreRequest(found.sop_class, found.sop_instance, found.transfer_syntax, Caller("BENCH"))
    reception = engine.ingest.begin(request)
    for at in range(0, len(data), _FRAGMENT):
        reception.write(memoryview(data)[at : at + _FRAGMENT])
    assert reception.finish().status == 0


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit", type=int, default=300)
    args = parser.parse_args()
    objects = []
    for path in sorted(p for p in args.folder.iterdir() if p.is_file())[: args.limit]:
        with path.open("rb") as file:
            found = read_part10(file)
            file.seek(found.start)
            objects.append((found, file.read()))
    spent: Counter[str] = Counter()
    for owner, name, _ in STEPS:
        timed(owner, name, spent)
    with tempfile.TemporaryDirectory() as folder:
        config = Config(archive=Path(folder) / "archive", keys=Keys(key_file=Path(folder) / "key"))
        logs.configure(config.log, level="error")
        create_archive(config)
        with Engine.open(config, write=True) as engine:
            for each in objects[:10]:
                put(engine, *each)
            spent.clear()
            started, cpu = time.perf_counter(), time.process_time()
            for each in objects[10:]:
                put(engine, *each)
            count = len(objects) - 10
            wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    print("| step | µs an object |\n|---|--:|")
    for _, name, label in STEPS:
        print(f"| {label} | {spent[name] / count * 1e6:.0f} |")
    print(f"| all of it, wall | {wall / count * 1e6:.0f} |\n| all of it, CPU | {cpu / count * 1e6:.0f} |")


if __name__ == "__main__":
    main()
