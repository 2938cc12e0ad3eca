"""The time spent in each step of a store: the receive path in one process, timed around the real calls.

    python bench/store_profile.py FOLDER [--limit 300]

FOLDER holds Part 10 files, for example bench-data/quick/ct. The steps do not add up to the whole: the rest is Python
between them. A server divides them between two processes (docs/adr/0004-lanes.md), which costs two wake-ups per object.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import coffer.archive.codec.frames
import coffer.server.engine.commit
import coffer.server.services.store
from coffer.archive.body.frame_encoder import FrameEncoder
from coffer.archive.log import LogWriter
from coffer.index.index import Index
from coffer.keys.crypto import aead
from coffer.keys.disk.append_file import AppendFile
from coffer.keys.keyring.claims import Claims
from coffer.server.access.principal import Principal
from coffer.server.config.integrity import Integrity
from coffer.server.config.settings import Config, Keys
from coffer.server.engine.create import create_archive
from coffer.server.engine.opening import open_writer
from coffer.server.observe import logs
from coffer.server.services.api import StoreRequest
from coffer.server.services.bundle import WriterServices
from coffer.server.services.part10 import Part10, read_part10

STEPS: tuple[tuple[Any, str, str], ...] = (
    (FrameEncoder, "write", "receive: copy, SHA-256, hand out frames"),
    (coffer.server.services.store, "scan", "parse the header"),
    (coffer.server.services.store, "extract", "take the index's attributes"),
    (FrameEncoder, "finish", "code what is left, wait for the rest"),
    (coffer.archive.codec.frames, "encode", "code the frames, in all threads"),
    (aead, "seal", "encrypt"),
    (LogWriter, "append", "append, sync included"),
    (AppendFile, "sync", "of that, fdatasync"),
    (Claims, "find", "look up the study's key"),
    (Index, "newest_of", "look for duplicates"),
    (Index, "apply", "index"),
)
_FRAGMENT = 128 << 10


def timed(owner: Any, name: str, spent: dict[str, float]) -> None:
    """Wrap a function so that it adds its time to `spent`."""
    inner = getattr(owner, name)

    def outer(*args: Any, **more: Any) -> Any:
        started = time.perf_counter()
        try:
            return inner(*args, **more)
        finally:
            spent[name] += time.perf_counter() - started

    setattr(owner, name, outer)


def put(services: WriterServices, found: Part10, data: bytes) -> None:
    """Store one object as an association would."""
    request = StoreRequest(found.sop_class, found.sop_instance, found.transfer_syntax, Principal.peer("BENCH"))
    reception = services.ingest.begin(request)
    for at in range(0, len(data), _FRAGMENT):
        reception.write(memoryview(data)[at : at + _FRAGMENT])
    assert reception.finish().error is None


def objects_of(folder: Path, limit: int) -> list[tuple[Part10, bytes]]:
    """Return the first files of a folder: their identity and their data sets."""
    objects = []
    for path in sorted(p for p in folder.iterdir() if p.is_file())[:limit]:
        with path.open("rb") as file:
            found = read_part10(file)
            assert found is not None, path
            file.seek(found.start)
            objects.append((found, file.read()))
    return objects


@contextmanager
def fresh_archive() -> Iterator[WriterServices]:
    """Yield the services of an empty archive in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        mark = Integrity(mark=Path(folder) / "mark")
        config = Config(archive=Path(folder) / "archive", keys=Keys(key_file=Path(folder) / "key"), integrity=mark)
        logs.configure(config.log, level="error")
        create_archive(config)
        with open_writer(config) as archive:
            yield WriterServices.of(archive)


def stored_share(folder: Path) -> float:
    """Return the bytes of the log per byte of the data sets of a folder."""
    with fresh_archive() as services:
        for each in objects_of(folder, 10_000):
            put(services, *each)
        return services.archive.stats().ratio


def profile(folder: Path, limit: int) -> Iterator[tuple[str, float]]:
    """Yield each step with its microseconds per object, then the total. Instruments this process permanently."""
    objects = objects_of(folder, limit)
    spent: dict[str, float] = dict.fromkeys((name for _, name, _ in STEPS), 0.0)
    for owner, name, _ in STEPS:
        timed(owner, name, spent)
    warm = min(10, len(objects) // 2)
    with fresh_archive() as services:
        for each in objects[:warm]:
            put(services, *each)
        spent.update(dict.fromkeys(spent, 0.0))
        started, cpu = time.perf_counter(), time.process_time()
        for each in objects[warm:]:
            put(services, *each)
        services.archive.index.follow()  # indexing for which the responses did not wait
        wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    each_us = 1e6 / (len(objects) - warm)
    for _, name, label in STEPS:
        yield label, spent[name] * each_us
    yield "all of it, wall", wall * each_us
    yield "all of it, CPU", cpu * each_us


def main() -> None:
    """Measure and print the table, or lines for `bench/run.py`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--limit", type=int, default=300)
    parser.add_argument("--lines", action="store_true", help="print JSON lines")
    args = parser.parse_args()
    if not args.lines:
        print("| step | µs per object |\n|---|--:|")
    for label, spent in profile(args.folder, args.limit):
        row = {"bench": "profile", "corpus": args.folder.name, "step": label, "us": round(spent, 1)}
        print(json.dumps(row) if args.lines else f"| {label} | {spent:.0f} |")


if __name__ == "__main__":
    main()
