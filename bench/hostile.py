"""How hostile or slow peers on the same server affect one association, and what each of them costs.

A well-behaved peer sends 8 KB objects without pause on one association. For each kind of hostile peer, two stretches of
equal length are compared: alone, and beside the hostile peers. `extra_ms` is the longest wait of one C-STORE beside
them minus the median wait alone; memory per connection is the growth of the server's memory beside them, minus its
growth alone.
"""

import shutil
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from bench.scu import VERIFICATION, Client, associate_request, command, fragments
from bench.served import AE_TITLE, Served
from bench.studies import EXPLICIT_LE, HeaderOnly, header_only

_KINDS: Final = tuple(dict.fromkeys(header_only(n).sop_class for n in range(5)))
_CONTEXTS: Final = [(sop, EXPLICIT_LE) for sop in _KINDS]
_DROP_SECONDS: Final = 0.05
_CONNECTIONS: Final = 200
_PADDING: Final = struct.pack("<HHHHI", 0x0009, 0x0010, 0x424F, 0, 7000) + bytes(7000)  # OB: about 8 KB in all


def _object(number: int) -> HeaderOnly:
    """Return an object of about 8 KB; every tenth begins a new study."""
    item = header_only(30_000_000 + number // 10, number % 10 + 1)
    at = item.data.index(struct.pack("<HH", 0x0010, 0x0010))
    return item._replace(data=item.data[:at] + _PADDING + item.data[at:])


def _connect(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _slow_sender(port: int, stop: threading.Event) -> None:
    """Send a C-STORE a few bytes at a time; it never ends."""
    client = Client(port, _CONTEXTS)
    message = client.store_message(_object(9_000_000))
    at = 0
    while not stop.wait(_DROP_SECONDS) and at < len(message) - 4:
        client.socket.sendall(message[at : at + 4])
        at += 4
    client.drop()


def _huge_length(port: int, stop: threading.Event) -> None:
    """Send PDUs that announce 4 GiB, before and inside an association."""
    inside = False
    while not stop.wait(_DROP_SECONDS):
        inside = not inside
        with _connect(port) as sock:
            try:
                if inside:
                    sock.sendall(associate_request(AE_TITLE, [(VERIFICATION, EXPLICIT_LE)]))
                    sock.recv(4096)
                sock.sendall(struct.pack(">BBI", 4 if inside else 1, 0, 0xFFFFFFFF) + bytes(64 << 10))
                sock.recv(4096)
            except OSError:
                continue


def _idle(port: int, stop: threading.Event) -> None:
    """Hold two hundred connections: half send nothing at all, half are idle established associations."""
    with ExitStack() as stack:
        for _ in range(_CONNECTIONS // 2):
            stack.enter_context(_connect(port))
            stack.enter_context(Client(port, [(VERIFICATION, EXPLICIT_LE)]))
        stop.wait()


def _half_store(port: int, stop: threading.Event) -> None:
    """Announce an object, send only the command set, and stay connected."""
    with ExitStack() as stack:
        for _ in range(8):
            client = Client(port, _CONTEXTS)
            stack.callback(client.drop)
            head = command(1, 1, has_data=True, t00000002=_KINDS[0].encode(), t00001000=b"1.2.3")
            client.socket.sendall(fragments(1, head, is_command=True))
        stop.wait()


_PEERS: Final[tuple[tuple[str, Callable[[int, threading.Event], None], int, int], ...]] = (
    ("200 idle connections", _idle, 1, _CONNECTIONS),
    ("8 slow senders", _slow_sender, 8, 8),
    ("8 that stop after the command", _half_store, 1, 8),
    ("4 that announce 4 GiB", _huge_length, 4, 4),
)


class Sender:
    """One association that sends such objects: the well-behaved peer that is measured."""

    def __init__(self, port: int) -> None:
        self._client = Client(port, _CONTEXTS)
        self._next = 0

    def waits(self, go_on: Callable[[], bool], *, apart: float = 0.0) -> list[float]:
        """Send at least one object, and while `go_on` returns true; returns the seconds of each C-STORE.

        They start `apart` seconds after each other, or back to back.
        """
        times: list[float] = []
        due = time.perf_counter()
        while go_on() or not times:
            message = self._client.store_message(_object(self._next))
            self._next += 1
            time.sleep(max(0.0, due - time.perf_counter()))
            started = time.perf_counter()
            due = max(due, started) + apart
            assert self._client.send(message) == 0
            times.append(time.perf_counter() - started)
        return times

    def worst(self, seconds: float) -> tuple[float, float, int]:
        """Return the longest and the median wait in seconds of the C-STOREs of a stretch, and their number."""
        end = time.perf_counter() + seconds
        times = self.waits(lambda: time.perf_counter() < end)
        return max(times), sorted(times)[len(times) // 2], len(times)

    def close(self) -> None:
        """Release the association."""
        self._client.close()


def hostile(work: Path, seconds: float, rounds: int) -> Iterator[dict[str, Any]]:
    """Yield one row for each kind of peer and round: waits alone and beside them, memory per connection."""
    folder = work / "hostile"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with Served(folder, idle_seconds=300) as server:
            good = Sender(server.port)
            good.worst(seconds)  # warms up
            for name, peer, threads, connections in _PEERS:
                yield from (_stretch(server, good, name, peer, threads, connections, seconds) for _ in range(rounds))
            good.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _stretch(
    server: Served,
    good: Sender,
    name: str,
    peer: Callable[[int, threading.Event], None],
    threads: int,
    connections: int,
    seconds: float,
) -> dict[str, Any]:
    first = server.memory()
    alone, alone_p50, _ = good.worst(seconds)
    stop, before = threading.Event(), server.memory()
    running = [threading.Thread(target=peer, args=(server.port, stop)) for _ in range(threads)]
    for thread in running:
        thread.start()
    beside, beside_p50, count = good.worst(seconds)
    memory = server.memory() - before - (before - first)
    stop.set()
    for thread in running:
        thread.join()
    return {
        "bench": "hostile", "peers": name, "alone_ms": round(1e3 * alone, 2), "beside_ms": round(1e3 * beside, 2),
        "extra_ms": round(1e3 * (beside - alone_p50), 2), "alone_p50_ms": round(1e3 * alone_p50, 3),
        "beside_p50_ms": round(1e3 * beside_p50, 3), "objects": count, "connections": connections,
        "memory_kb": round(max(memory, 0) / 1e3 / connections, 1),
    }  # fmt: skip
