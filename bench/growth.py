"""The cost of an object in a small and in a large archive, and how soon a server on the large one responds.

Two servers run side by side, one with a thousand studies and one with many; batches of header-only objects of new
studies are sent to them in turn, so that noise of the machine affects both. The large archive is filled by `bench.fill`
and kept for the next run; the measurement uses a copy.
"""

import hashlib
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from bench.scu import IMPLICIT_LE, STUDY_ROOT_FIND, Client, Refused
from bench.served import Served
from bench.studies import EXPLICIT_LE, header_only, study_uid

ROOT: Final = Path(__file__).resolve().parent.parent
_SMALL: Final = 1000
_FRESH: Final = 10_000_000  # numbers of studies that no fill uses
_CONTEXTS: Final = [
    *((header_only(n).sop_class, EXPLICIT_LE) for n in range(5)),
    (STUDY_ROOT_FIND, IMPLICIT_LE),
]
_STUDY: Final = 0x0020000D


def format_id() -> str:
    """Return eight digits that change with the documents of the formats and with the code that fills."""
    digest = hashlib.sha256()
    for name in ("keys/FORMAT.md", "archive/FORMAT.md", "index/FORMAT.md", "bench/studies.py", "bench/fill.py"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()[:8]


def filled(cache: Path, studies: int) -> tuple[Path, float]:
    """Return a folder with an archive of so many studies, and the seconds that filling took now; 0 if it was kept."""
    folder = cache / f"filled-{studies}-{format_id()}"
    if folder.exists():
        return folder, 0.0
    making = folder.with_suffix(".making")
    shutil.rmtree(making, ignore_errors=True)
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "bench.fill", str(making), str(studies)], check=True, stdout=sys.stderr, cwd=ROOT
    )
    making.rename(folder)
    return folder, time.perf_counter() - started


def copied(folder: Path, work: Path) -> Path:
    """Return a writable copy."""
    target = work / f"copy-{folder.name}"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target)
    return target


def growth(cache: Path, work: Path, studies: int, batch: int, *, rounds: int) -> Iterator[dict[str, Any]]:
    """Fill, time a start, and compare the cost of objects; yields a row for each."""
    small, _ = filled(cache, min(_SMALL, studies // 2))
    large, seconds = filled(cache, studies)
    yield {"bench": "fill", "studies": studies, "wall_s": round(seconds, 1), "cached": seconds == 0}
    folders = [copied(small, work), copied(large, work)]
    try:
        yield start(folders[1], studies)
        with Served(folders[0]) as first, Served(folders[1]) as second:
            yield from compare([(min(_SMALL, studies // 2), first), (studies, second)], batch, rounds)
    finally:
        for folder in folders:
            shutil.rmtree(folder)


def start(folder: Path, studies: int) -> dict[str, Any]:
    """Start a server; returns the seconds until the first successful C-STORE and C-FIND by Patient ID."""
    server = Served(folder)
    server.launch()
    found: dict[str, float] = {}

    def ask(name: str, once: Callable[[Client], None]) -> None:
        while name not in found and time.perf_counter() - server.started < 300:
            try:
                with Client(server.port, _CONTEXTS, seconds=300) as client:
                    once(client)
                found[name] = time.perf_counter() - server.started
            except (OSError, Refused):
                time.sleep(0.02)

    def find(client: Client) -> None:
        if not list(client.find({0x00080052: b"STUDY", 0x00100020: b"Q00000007", _STUDY: b""})):
            raise Refused("nothing was found")

    asking = [
        threading.Thread(target=ask, args=("store", lambda client: client.store(header_only(_FRESH - 1)))),
        threading.Thread(target=ask, args=("find", find)),
    ]
    try:
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        memory = server.memory()
    finally:
        server.stop()
    return {
        "bench": "start", "studies": studies, "memory_mb": round(memory / 1e6, 1),
        **{f"{name}_s": round(value, 3) for name, value in found.items()},
    }  # fmt: skip


def compare(servers: list[tuple[int, Served]], batch: int, rounds: int) -> Iterator[dict[str, Any]]:
    """Send batches of new studies to each server in turn, with exact queries after each."""
    cpu: dict[int, float] = dict.fromkeys((studies for studies, _ in servers), 0.0)
    store: dict[int, list[float]] = {studies: [] for studies, _ in servers}
    find: dict[int, list[float]] = {studies: [] for studies, _ in servers}
    clients = [Client(server.port, _CONTEXTS) for _, server in servers]
    for client in clients:  # until the searchable table is loaded
        list(client.find({0x00080052: b"STUDY", 0x00100020: b"Q00000007", _STUDY: b""}))
    for turn in range(rounds + 1):
        numbers = range(_FRESH + turn * batch, _FRESH + (turn + 1) * batch)
        for (studies, server), client in zip(servers, clients, strict=True):
            messages = [client.store_message(header_only(n)) for n in numbers]
            before, times = server.cpu(), []
            for message in messages:
                started = time.perf_counter()
                assert client.send(message) == 0
                times.append(time.perf_counter() - started)
            time.sleep(0.3)  # the rows of the index are written after the responses
            if turn:  # the first batch warms up
                cpu[studies] += server.cpu() - before
                store[studies] += times
            for n in range(0, min(_SMALL, 40), 2):
                uid = study_uid(n).encode()
                find[studies].append(client.timed_find({0x00080052: b"STUDY", _STUDY: uid, 0x00100020: b""})[2])
    for client in clients:
        client.close()
    for studies, server in servers:
        yield {
            "bench": "growth", "studies": studies, "objects": rounds * batch,
            "cpu_ms": round(1e3 * cpu[studies] / (rounds * batch), 4),
            "p50_ms": round(1e3 * statistics.median(store[studies]), 3),
            "find_p50_ms": round(1e3 * statistics.median(find[studies]), 3),
            "memory_mb": round(server.memory() / 1e6, 1),
        }  # fmt: skip
