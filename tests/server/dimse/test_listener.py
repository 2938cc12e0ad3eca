"""The listener on a real socket: hostile peers get their A-ABORT or are dropped, and everybody else is served."""

import contextlib
import errno
import socket
import struct
import time
from collections.abc import Callable

import pytest

from coffer.keys.errors import UnavailableError
from coffer.server.config.settings import Storage
from coffer.server.dimse.listener import Listener
from coffer.server.dimse.places import AssociationPlace
from coffer.server.dimse.protocol import command as dimse
from coffer.server.dimse.protocol import negotiation, pdu
from coffer.server.dimse.protocol.negotiation import EXPLICIT_LE, IMPLICIT_LE, Offer
from coffer.server.dimse.protocol.requestor import Requestor
from coffer.server.host.headroom import CongestedError
from tests.captured_logs import capture_logs
from tests.server.dimse.conftest import Memory
from tests.server.dimse.raw_peer import RawRequestor

CT, WORKLIST = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.31"
OFFERS = [Offer(1, negotiation.VERIFICATION, (IMPLICIT_LE,)), Offer(3, CT, (EXPLICIT_LE,))]


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
    assert memory.failures("store", "A700") == 1


def test_a_silent_association_is_told_that_it_ends(listen: Callable[..., Listener]) -> None:
    listener = listen(idle_seconds=0.3, gap_seconds=0.4)
    ended = pdu.abort(pdu.PROVIDER, pdu.NOT_SPECIFIED)
    idle, cut = established(listener), established(listener)
    cut.sendall(struct.pack(">BxI", pdu.P_DATA, 100) + bytes(20))
    for sock in (idle, cut):
        assert receive(sock, 11) == ended
        sock.close()


REJECTED = {
    "application context": ({}, (1, 1, 2)),
    "calling AE title": ({"known_peers_only": True}, (1, 1, 3)),
    "called AE title": ({"require_called_ae": True}, (1, 1, 7)),
}


@pytest.mark.parametrize("title", ["", "PA\\CS"])
def test_without_a_calling_title_an_association_is_rejected_and_not_aborted(
    listen: Callable[..., Listener], title: str
) -> None:
    with capture_logs() as said, raw(listen()) as sock:
        sock.sendall(negotiation.request(title, "COFFER", OFFERS, 16384))
        assert receive(sock, 10) == bytes((3, 0, 0, 0, 0, 4, 0, 1, 1, 3))
    assert [each["reason"] for each in said if each.get("name") == "association.rejected"] == ["calling-ae"]


@pytest.mark.parametrize("name", REJECTED)
def test_a_rejection_says_why(listen: Callable[..., Listener], name: str) -> None:
    settings, code = REJECTED[name]
    request = negotiation.request("TESTER", "NOBODY", OFFERS, 16384)
    if name == "application context":
        request = request.replace(b"1.2.840.10008.3.1.1.1", b"1.2.840.10008.3.1.1.9")
    with raw(listen(**settings)) as sock:
        sock.sendall(request)
        assert receive(sock, 10) == bytes((3, 0, 0, 0, 0, 4, 0, *code))


def test_whoever_comes_in_a_flood_is_rejected_and_not_cut_off(
    listen: Callable[..., Listener], memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coffer.server.dimse.refusal.MOST_LINGERING", 8)
    listener = listen(handshake_seconds=5.0)
    with contextlib.ExitStack() as held:
        for _ in range(3 + 32):  # all places, and all threads that read a request before they reject it
            held.enter_context(raw(listener))
        for count in range(1, 20):
            sock = held.enter_context(raw(listener))
            while rejected(memory, "flood") < count:
                time.sleep(0.01)
            sock.sendall(negotiation.request("TESTER", "COFFER", OFFERS, 16384))  # after the answer was sent
            assert receive(sock, 10) == bytes((3, 0, 0, 0, 0, 4, 0, 2, 3, 2))
            assert sock.recv(1) == b""


def rejected(memory: Memory, reason: str) -> float:
    """How many associations were counted as rejected for this reason."""
    name = "coffer_associations_rejected_total"
    return memory.metrics.registry.get_sample_value(name, {"reason": reason}) or 0


def test_a_known_peer_is_served(listen: Callable[..., Listener]) -> None:
    with RawRequestor(listen(known_peers_only=True).port, OFFERS, calling="MOVEDST") as peer:
        peer.request(peer.context(negotiation.VERIFICATION), dimse.C_ECHO)
        assert peer.final().status == 0


REFUSED = {
    "no data set": (dimse.C_STORE, CT, {"AFFECTED_INSTANCE": "1.2"}, None, 0xA900, "store"),
    "an empty data set": (dimse.C_STORE, CT, {"AFFECTED_INSTANCE": "1.2"}, b"", 0xC000, "store"),
    "no SOP Instance UID": (dimse.C_STORE, CT, {}, b"data", 0xA900, "store"),
    "a class of another service": (
        dimse.C_STORE,
        CT,
        {"AFFECTED_INSTANCE": "1.2", "AFFECTED_CLASS": WORKLIST},
        b"data",
        0x0122,
        "store",
    ),
    "a full disk": (dimse.C_STORE, CT, {"AFFECTED_INSTANCE": "1.2"}, b"full", 0xA700, "store"),
    "another service on the context": (dimse.C_FIND, CT, {}, b"data", 0x0122, "find"),
    "an unknown operation": (0x0130, CT, {}, bytes(2 << 20), 0x0211, "other"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_is_answered_counted_and_logged(listener: Listener, memory: Memory, name: str) -> None:
    field, context, elements, data, status, service = REFUSED[name]
    with capture_logs() as logged, RawRequestor(listener.port, OFFERS) as peer:
        peer.request(peer.context(context), field, data, **elements)
        answer = peer.final()
        peer.request(peer.context(negotiation.VERIFICATION), dimse.C_ECHO)  # the association goes on
        assert peer.final().status == 0
    assert answer.status == status
    assert answer.comment
    assert memory.failures(service, f"{status:04X}") == 1
    assert memory.metrics.registry.get_sample_value("coffer_request_duration_seconds_count", {"service": "echo"}) == 1
    (line,) = [entry for entry in logged if entry["event"] == "operation failed"]
    assert (line["status"], line["service"], line["calling_ae"]) == (f"{status:04X}", service, "TESTER")
    assert str(line["cause"]).startswith(answer.comment)


@pytest.mark.parametrize("unknown", [True, False])
def test_a_context_of_a_known_class_carries_no_unknown_one_past_the_switch(
    listen: Callable[..., Listener], memory: Memory, unknown: bool
) -> None:
    listener = listen(storage=Storage(accept_unknown_sop_classes=unknown))
    with RawRequestor(listener.port, OFFERS) as peer:
        peer.request(peer.context(CT), dimse.C_STORE, b"data", sop_class="1.2.3.4.5", AFFECTED_INSTANCE="1.2")
        answer = peer.final()
    assert answer.status == (0 if unknown else 0x0122)
    assert answer.offending == ([] if unknown else [0x00080016])
    assert memory.stored == ({"1.2": b"data"} if unknown else {})


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
        with contextlib.suppress(ConnectionError):  # those beyond the limits are rejected at once
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
            assert receive(sock, 10) in {b"", negotiation.reject(negotiation.TOO_MANY)}
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


def test_a_listening_socket_that_breaks_is_opened_again(listener: Listener, memory: Memory) -> None:
    port = listener.port
    assert listener._socket is not None
    listener._socket.shutdown(socket.SHUT_RDWR)
    deadline = time.monotonic() + 20
    while True:
        try:
            assert store(listener, "1.2", b"ok") == 0
            break
        except UnavailableError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert listener.port == port
    assert listener.watched.deaths == 1
    assert memory.stored == {"1.2": b"ok"}


class Short:
    """A dispatcher that something is missing to, so many times."""

    def __init__(self, listener: Listener, errors: list[BaseException]) -> None:
        self._real, self._errors = listener._dispatcher, errors
        listener._dispatcher = self

    def dispatch(self, connection: socket.socket, place: AssociationPlace, ended: Callable[[], None]) -> None:
        if self._errors:
            raise self._errors.pop(0)
        self._real.dispatch(connection, place, ended)

    def end(self, place: AssociationPlace) -> None:
        self._real.end(place)


def test_what_is_missing_for_one_association_is_missed_by_no_other(listener: Listener) -> None:
    refused = [CongestedError("short of it"), UnavailableError("none is running")]
    lost = [OSError(errno.EMFILE, "Too many open files"), MemoryError(), RuntimeError("can't start new thread")]
    Short(listener, [*refused, *lost])
    for _ in refused:
        with raw(listener) as sock:
            sock.sendall(negotiation.request("TESTER", "COFFER", OFFERS, 16384))
            assert receive(sock, 10) == negotiation.reject(negotiation.CONGESTED)
            assert receive(sock, 1) == b""
    for _ in lost:
        with raw(listener) as sock, contextlib.suppress(ConnectionError):
            sock.sendall(negotiation.request("TESTER", "COFFER", OFFERS, 16384))
            assert receive(sock, 1) == b""
    held = [established(listener) for _ in range(3)]  # none of them took a place
    assert listener.watched.deaths == 0
    assert listener.reasons() == []
    for sock in held:
        sock.close()


@pytest.mark.usefixtures("both_families")
def test_every_address_takes_ipv4_too_and_knows_it_by_its_own_name(listen: Callable[..., Listener]) -> None:
    listener = listen(host="::")
    for host in ("127.0.0.1", "::1"):
        with capture_logs() as logged, socket.create_connection((host, listener.port), 5.0) as sock:
            sock.sendall(b"\x09\0\0\0\0\0")
            assert receive(sock, 10) == pdu.abort(pdu.PROVIDER, pdu.UNRECOGNISED_PDU)
        assert [line["host"] for line in logged] == [host]
