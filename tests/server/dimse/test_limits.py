"""Every limit of the DICOM door over a real socket: the reaction is the one that the page states, and it is counted."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from coffer.server.dimse.listener import Listener
from coffer.server.dimse.protocol import channel, negotiation, pdu
from coffer.server.dimse.protocol import command as dimse
from coffer.server.dimse.protocol.connection import ConnectionClosed
from coffer.server.dimse.protocol.negotiation import EXPLICIT_LE, IMPLICIT_LE, Offer
from tests.server.dimse.conftest import Memory
from tests.server.dimse.raw_peer import Broken, RawRequestor

CT = "1.2.840.10008.5.1.4.1.1.2"
FIND = next(iter(negotiation.FIND))
OFFERS = [
    Offer(1, negotiation.VERIFICATION, (IMPLICIT_LE,)),
    Offer(3, CT, (EXPLICIT_LE,)),
    Offer(5, FIND, (IMPLICIT_LE,)),
]
SILENT = pdu.abort(pdu.PROVIDER, pdu.NOT_SPECIFIED)
INVALID = pdu.abort(pdu.PROVIDER, pdu.INVALID_VALUE)
Listen = Callable[..., Listener]


@contextlib.contextmanager
def raw(listener: Listener, source: str = "127.0.0.1") -> Iterator[socket.socket]:
    """A connection that has sent nothing."""
    with socket.create_connection(("127.0.0.1", listener.port), 20.0, (source, 0)) as sock:
        yield sock


@contextlib.contextmanager
def established(listener: Listener) -> Iterator[socket.socket]:
    """A connection with an association."""
    with raw(listener) as sock:
        sock.sendall(negotiation.request("TESTER", "COFFER", OFFERS, 16384))
        head = read(sock, 6)
        assert head[0] == pdu.ASSOCIATE_AC
        read(sock, struct.unpack(">I", head[2:])[0])
        yield sock


def read(sock: socket.socket, count: int = 1000) -> bytes:
    """So many bytes, or fewer if the other side closes before."""
    data = b""
    while len(data) < count and (piece := sock.recv(count - len(data))):
        data += piece
    return data


def piece(context: int, data: bytes, flags: int) -> bytes:
    """A P-DATA-TF with one fragment; `flags`: 1 command, 2 last."""
    return struct.pack(">BxIIBB", pdu.P_DATA, len(data) + 6, len(data) + 2, context, flags) + data


def find_command() -> bytes:
    """The command set of a C-FIND."""
    return dimse.encode_command({
        dimse.AFFECTED_CLASS: FIND, dimse.FIELD: dimse.C_FIND, dimse.MESSAGE_ID: 1, dimse.PRIORITY: 0,
        dimse.DATA_SET_TYPE: 0,
    })  # fmt: skip


def aborts(memory: Memory, reason: str) -> float:
    return memory.counted("coffer_aborts", reason=reason)


@pytest.mark.parametrize("sent", [0, 3, 80])
def test_a_request_that_does_not_come_is_not_waited_for(listen: Listen, memory: Memory, sent: int) -> None:
    """Nor is the rest of one that began: its first bytes gain no time."""
    with raw(listen(handshake_seconds=0.2, gap_seconds=60.0)) as sock:
        sock.sendall(negotiation.request("TESTER", "COFFER", OFFERS, 16384)[:sent])
        assert read(sock) == b""
    assert aborts(memory, "first-pdu") == 1


def dripping_pdu(sock: socket.socket) -> None:
    sock.sendall(struct.pack(">BxI", pdu.P_DATA, 100) + bytes(20))


def command_without_data(sock: socket.socket) -> None:
    sock.sendall(piece(5, find_command(), 3))


def silent(_: socket.socket) -> None:
    """Send nothing."""


TIMES = {
    "gap in a PDU": ({"gap_seconds": 0.1}, dripping_pdu, "gap"),
    "gap in a message": ({"gap_seconds": 0.1}, command_without_data, "gap"),
    "idle": ({"idle_seconds": 0.1}, silent, "idle"),
    "lifetime": ({"association_seconds": 0.1}, silent, "lifetime"),
}


@pytest.mark.parametrize("name", TIMES)
def test_whoever_uses_up_the_time_is_told_so(listen: Listen, memory: Memory, name: str) -> None:
    settings, act, reason = TIMES[name]
    with established(listen(**settings)) as sock:
        act(sock)
        assert read(sock) == SILENT
    assert aborts(memory, reason) == 1


def test_an_association_that_works_ends_between_two_messages_when_its_life_is_over(
    listen: Listen, memory: Memory
) -> None:
    with RawRequestor(listen(association_seconds=0.2).port, OFFERS) as peer:
        echoes(peer, 1)
        with pytest.raises((Broken, ConnectionClosed)):
            echoes(peer, 1_000_000)
    assert aborts(memory, "lifetime") == 1


def test_a_message_that_drips_ends_and_one_that_flows_does_not(
    listen: Listen, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "LEAST_BYTES_A_SECOND", 1000)
    listener = listen(message_seconds=0.2, gap_seconds=5.0)
    with RawRequestor(listener.port, OFFERS) as peer:  # 16 KB earn 16 seconds

        def slowly() -> Iterator[bytes]:
            yield bytes(1 << 20)  # sent at once
            time.sleep(0.4)
            yield bytes(1 << 20)

        peer.request(peer.context(CT), dimse.C_STORE, slowly(), AFFECTED_INSTANCE="1.2")
        assert peer.final().status == 0
    with established(listener) as sock, contextlib.suppress(ConnectionError):
        sock.sendall(piece(5, find_command(), 3))
        for _ in range(1000):
            sock.sendall(piece(5, b"\x08\0", 0))
            sock.settimeout(0.02)
            with contextlib.suppress(TimeoutError):
                assert read(sock) == SILENT
                break
    assert aborts(memory, "message") == 1


def with_contexts(count: int) -> bytes:
    """A request with so many presentation contexts, whose ids begin anew after 128."""
    whole = negotiation.request("TESTER", "COFFER", [OFFERS[0]], 16384)
    ids = [2 * (n % 128) + 1 for n in range(count)]
    one = whole[whole.index(b"\x20\0", 74) : whole.index(b"\x50\0", 74)]
    body = whole[6:].replace(one, b"".join(one[:4] + bytes([each]) + one[5:] for each in ids))
    return struct.pack(">BxI", pdu.ASSOCIATE_RQ, len(body)) + body


BEFORE = {
    "a request of 4 GiB": (struct.pack(">BxI", pdu.ASSOCIATE_RQ, 0xFFFFFFFF), "pdu-length"),
    "129 contexts": (with_contexts(129), "contexts"),
}


@pytest.mark.parametrize("name", BEFORE)
def test_a_request_beyond_the_limits_is_aborted(listener: Listener, memory: Memory, name: str) -> None:
    data, reason = BEFORE[name]
    with raw(listener) as sock:
        sock.sendall(data)
        assert read(sock, 10) == INVALID
    assert aborts(memory, reason) == 1


def test_128_contexts_are_no_excess(listener: Listener) -> None:
    with raw(listener) as sock:
        sock.sendall(with_contexts(128))
        assert read(sock, 1) == bytes((pdu.ASSOCIATE_AC,))


LARGE = 30_000
AFTER = {
    "a PDU of 4 GiB": ([struct.pack(">BxI", pdu.P_DATA, 0xFFFFFFFF)], "pdu-length"),
    "a command of 90 KB": ([piece(1, bytes(LARGE), 1)] * 3, "command-length"),
    "an identifier of 1 MiB": ([piece(5, find_command(), 3)] + [piece(5, bytes(LARGE), 0)] * 36, "identifier-length"),
    "a context that was not accepted": ([piece(99, find_command(), 3)], "contexts"),
    "a data set without a command": ([piece(1, b"data", 2)], "protocol"),
}


@pytest.mark.parametrize("name", AFTER)
def test_a_message_beyond_the_limits_is_aborted(listener: Listener, memory: Memory, name: str) -> None:
    pieces, reason = AFTER[name]
    with established(listener) as sock:
        for each in pieces:
            sock.sendall(each)
        assert read(sock, 10)[:8] == INVALID[:8]
    assert aborts(memory, reason) == 1


def rejection(listener: Listener, source: str = "127.0.0.1") -> bytes:
    """What a newcomer from this address is answered, if it is not accepted."""
    with raw(listener, source) as sock:
        sock.sendall(negotiation.request("TESTER", "COFFER", OFFERS, 16384))
        answer = read(sock, 10)
        return b"" if answer[0] == pdu.ASSOCIATE_AC else answer


def test_one_address_that_comes_too_often_is_rejected_and_another_is_not(listen: Listen, memory: Memory) -> None:
    listener = listen(associations_per_second_per_peer=1, max_associations=50)
    assert [rejection(listener, "127.0.0.9") for _ in range(7)][-1] == negotiation.reject(negotiation.TOO_MANY)
    assert rejection(listener) == b""
    assert memory.counted("coffer_associations_rejected", reason="rate") >= 1


def test_strangers_who_come_too_often_are_rejected_and_known_peers_are_not(listen: Listen, memory: Memory) -> None:
    listener = listen(associations_per_second=1, max_associations=50, strangers="127.0.7.")
    answers = [rejection(listener, f"127.0.7.{n}") for n in range(1, 9)]
    assert answers[-1] == negotiation.reject(negotiation.TOO_MANY)
    assert rejection(listener) == b""
    assert memory.counted("coffer_associations_rejected", reason="rate") >= 1


def test_strangers_leave_the_reserved_places_to_known_peers(listen: Listen, memory: Memory) -> None:
    listener = listen(max_associations=4, reserved_associations=1, handshake_seconds=20.0, strangers="127.0.7.")
    with contextlib.ExitStack() as held:
        for number in range(3):
            held.enter_context(raw(listener, f"127.0.7.{number + 1}"))
        assert rejection(listener, "127.0.7.9") == negotiation.reject(negotiation.TOO_MANY)
        assert memory.counted("coffer_limits_reached", limit="reserve") == 1
        assert rejection(listener) == b""


def test_one_address_has_its_share_of_places(listen: Listen, memory: Memory) -> None:
    listener = listen(max_associations=10, max_associations_per_peer=2, handshake_seconds=20.0)
    with raw(listener, "127.0.0.9"), raw(listener, "127.0.0.9"):
        assert rejection(listener, "127.0.0.9") == negotiation.reject(negotiation.TOO_MANY)
        assert rejection(listener) == b""
    assert memory.counted("coffer_associations_rejected", reason="limit") == 1


def echoes(peer: RawRequestor, count: int) -> None:
    for _ in range(count):
        peer.request(peer.context(negotiation.VERIFICATION), dimse.C_ECHO)
        assert peer.final().status == 0


def test_too_many_requests_are_answered_later_and_objects_are_stored_at_once(listen: Listen, memory: Memory) -> None:
    listener = listen(requests_per_second=2)

    def slow() -> float:
        return memory.counted("coffer_limits_reached", limit="request-rate")

    with RawRequestor(listener.port, OFFERS) as peer:
        for number in range(30):  # three times the burst, none of which counts
            peer.request(peer.context(CT), dimse.C_STORE, b"data", AFFECTED_INSTANCE=f"1.2.{number}")
            assert peer.final().status == 0
        echoes(peer, 9)
        assert slow() == 0
        echoes(peer, 3)
        assert slow() >= 1
    before = slow()
    with RawRequestor(listener.port, OFFERS) as again:  # a new association is no new rate
        echoes(again, 1)
    deadline = time.monotonic() + 20
    while slow() == before:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_is_refused_and_what_is_cancelled_counts_as_a_request(listen: Listen, memory: Memory) -> None:
    listener = listen(requests_per_second=4)
    with RawRequestor(listener.port, OFFERS) as peer:
        for _ in range(10):
            peer.cancel(peer.context(FIND), 7)
        for number in range(13):  # more than are left of the burst
            peer.request(peer.context(CT), dimse.C_STORE, b"full", AFFECTED_INSTANCE=f"1.3.{number}")
            assert peer.final().status == 0xA700
    assert memory.counted("coffer_limits_reached", limit="request-rate") >= 1


def test_whoever_waits_for_the_rate_holds_up_no_stop(listen: Listen, memory: Memory) -> None:
    listener = listen(requests_per_second=0.001)
    with RawRequestor(listener.port, OFFERS) as peer:
        echoes(peer, 2)
        deadline = time.monotonic() + 20
        while not memory.counted("coffer_limits_reached", limit="request-rate"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        stop = threading.Thread(target=listener._dispatcher.stop, args=(0.0,), daemon=True)  # type: ignore[attr-defined]
        stop.start()
        stop.join(20)
        assert not stop.is_alive()
    assert aborts(memory, "ordered") == 1
