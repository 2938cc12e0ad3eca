"""The listener on a real socket: hostile peers get their A-ABORT or are dropped, and everybody else is served."""

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from keys.errors import UnavailableError
from server.config import Config, Dimse, Peer
from server.dimse import negotiation, pdu
from server.dimse.acceptor import Acceptor
from server.dimse.associations import Associations
from server.dimse.connection import Connection
from server.dimse.listener import Listener
from server.dimse.negotiation import EXPLICIT_LE, IMPLICIT_LE, Offer
from server.dimse.requestor import Requestor
from server.dimse.services import Caller, Instance, Matches, StoreOutcome, StoreRequest
from server.metrics import Metrics

CT = "1.2.840.10008.5.1.4.1.1.2"
OFFERS = [Offer(1, negotiation.VERIFICATION, (IMPLICIT_LE,)), Offer(3, CT, (EXPLICIT_LE,))]


class Kept:
    """A reception that keeps what it gets; a data set that begins with `full` meets a full disk."""

    def __init__(self, request: StoreRequest, store: dict[str, bytes]) -> None:
        self._request, self._store, self._data = request, store, bytearray()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._data += data
        if self._data.startswith(b"full"):
            raise UnavailableError("the archive's volume is full up to its reserve")

    def finish(self) -> StoreOutcome:
        self._store[self._request.sop_instance] = bytes(self._data)
        return StoreOutcome(0)

    def abort(self) -> None:
        self._data.clear()


class Memory:
    """The archive's services over a dictionary."""

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}
        self.ingest = self.finder = self.retriever = self

    def begin(self, request: StoreRequest) -> Kept:
        return Kept(request, self.stored)

    def find(self, identifier: bytes, *, implicit: bool, model: str, caller: Caller) -> Matches:
        return Matches(iter([identifier] * 3))

    def plan(self, identifier: bytes, *, implicit: bool, model: str, caller: Caller) -> Sequence[Instance]:
        return []


class InThisProcess:
    """Serves what the listener accepts, with threads."""

    def __init__(self, config: Config, memory: Memory) -> None:
        self._config, self._memory = config, memory
        self._associations = Associations()
        self.stop = self._associations.stop

    def dispatch(self, connection: socket.socket, host: str, ended: Callable[[], None]) -> None:
        settings = self._config.dimse
        pdus = Connection(connection, max_pdu=settings.max_pdu, gap_seconds=settings.gap_seconds)
        self._associations.begin(Acceptor(pdus, host, self._config, self._memory, Metrics()), ended)


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def listener(memory: Memory, tmp_path: Path) -> Iterator[Listener]:
    dimse = Dimse(port=_free_port(), handshake_seconds=0.5, gap_seconds=1.0, idle_seconds=5.0, max_associations=3)
    config = Config(archive=tmp_path, dimse=dimse, peers=(Peer(ae_title="NOBODY", host="127.0.0.1", port=1),))
    here = InThisProcess(config, memory)
    made = Listener(config, here, Metrics())
    made.start()
    yield made
    made.stop()
    here.stop(1.0)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def connect(listener: Listener) -> Requestor:
    return Requestor("127.0.0.1", listener.port, "TESTER", "COFFER", OFFERS, 5.0)


def raw(listener: Listener) -> socket.socket:
    return socket.create_connection(("127.0.0.1", listener.port), 5.0)


def established(listener: Listener) -> socket.socket:
    sock = raw(listener)
    sock.sendall(negotiation.request("TESTER", "COFFER", OFFERS, 16384))
    head = receive(sock, 6)
    assert head[0] == pdu.ASSOCIATE_AC
    receive(sock, struct.unpack(">I", head[2:])[0])
    return sock


def receive(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (piece := sock.recv(count - len(data))):
        data += piece
    return data


def store(listener: Listener, name: str, data: bytes) -> int:
    with connect(listener) as peer:
        context = next(c for c in peer.contexts.values() if c.abstract_syntax == CT)
        return peer.store(context, name, [data])


@pytest.mark.parametrize("size", [2, 1000, 131_060, 131_062, 3_000_000])
def test_a_data_set_of_any_size_arrives(listener: Listener, memory: Memory, size: int) -> None:
    data = bytes(range(256)) * (size // 256 + 1)
    assert store(listener, "1.2.3", data[:size]) == 0
    assert memory.stored == {"1.2.3": data[:size]}


def test_a_full_disk_is_answered_and_the_association_goes_on(listener: Listener, memory: Memory) -> None:
    with connect(listener) as peer:
        context = next(c for c in peer.contexts.values() if c.abstract_syntax == CT)
        assert peer.store(context, "1.1", [b"full", bytes(300_000)]) == 0xA700
        assert peer.store(context, "1.2", [b"fine"]) == 0
    assert memory.stored == {"1.2": b"fine"}


HOSTILE = {
    "a 4 GiB length": (struct.pack(">BxI", pdu.P_DATA, 0xFFFFFFFF), pdu.INVALID_VALUE),
    "an unknown type": (b"\x09\0\0\0\0\x04", pdu.UNRECOGNISED_PDU),
    "a second request": (negotiation.request("A", "B", OFFERS, 0), pdu.UNEXPECTED_PDU),
    "a PDV beyond its PDU": (struct.pack(">BxIIBB", pdu.P_DATA, 6, 99, 1, 3), pdu.INVALID_VALUE),
    "a PDV of no length": (struct.pack(">BxIIBB", pdu.P_DATA, 6, 0, 1, 3), pdu.INVALID_VALUE),
    "a foreign context": (struct.pack(">BxIIBB", pdu.P_DATA, 6, 2, 9, 3), pdu.INVALID_VALUE),
    "data before a command": (struct.pack(">BxIIBB", pdu.P_DATA, 6, 2, 1, 2), pdu.UNEXPECTED_PDU),
    "an empty command": (struct.pack(">BxIIBB", pdu.P_DATA, 6, 2, 1, 3), pdu.INVALID_VALUE),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_broken_rule_earns_its_abort(listener: Listener, name: str) -> None:
    data, reason = HOSTILE[name]
    sock = established(listener)
    sock.sendall(data)
    assert receive(sock, 10) == pdu.abort(pdu.PROVIDER, reason)
    assert receive(sock, 1) == b""
    sock.close()
    assert store(listener, "1.2", b"ok") == 0


def test_silent_and_half_open_clients_are_dropped(listener: Listener) -> None:
    silent = [raw(listener) for _ in range(40)]
    for number, sock in enumerate(silent):
        with contextlib.suppress(ConnectionError):  # those beyond the limits are cut at once
            sock.sendall(b"\x01\0\0"[: number % 4])
    deadline = time.monotonic() + 20
    while True:  # as soon as the handshake time has passed, honest callers get in again
        try:
            assert store(listener, "1.2", b"ok") == 0
            break
        except UnavailableError:
            assert time.monotonic() < deadline
    for sock in silent:
        with contextlib.suppress(ConnectionError):
            assert receive(sock, 1) == b""
        sock.close()


def test_too_many_associations_are_told_so(listener: Listener) -> None:
    held = [established(listener) for _ in range(3)]
    with raw(listener) as sock:
        sock.sendall(negotiation.request("TESTER", "COFFER", OFFERS, 16384))
        assert receive(sock, 10) == negotiation.reject(negotiation.TOO_MANY)
    for sock in held:
        sock.sendall(pdu.release(pdu.RELEASE_RQ))
        assert receive(sock, 10) == pdu.release(pdu.RELEASE_RP)
        sock.close()


def test_a_sender_that_dies_leaves_nothing(listener: Listener, memory: Memory) -> None:
    sock = established(listener)
    sock.sendall(struct.pack(">BxI", pdu.P_DATA, 100) + bytes(20))
    sock.close()
    assert store(listener, "1.2", b"ok") == 0
    assert memory.stored == {"1.2": b"ok"}
