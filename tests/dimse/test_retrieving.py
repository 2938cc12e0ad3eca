"""C-MOVE and C-GET on the wire: counters, statuses and lists, and what a bad object or a bad destination costs."""

import contextlib
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pydicom
import pytest
from structlog.testing import capture_logs

from coffer.keys.errors import IntegrityError
from coffer.server.dimse.listener import Listener
from coffer.server.dimse.protocol import command as dimse
from coffer.server.dimse.protocol import negotiation, pdu, requestor
from coffer.server.dimse.protocol.negotiation import EXPLICIT_LE, IMPLICIT_LE, Offer
from coffer.server.dimse.scp import retrieve_scp, suboperations
from tests.dimse.conftest import Memory, free_port
from tests.dimse.raw_peer import Broken, Message, RawDestination, RawRequestor

CT, JPEG = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.4.50"
GET, MOVE = (
    next(uid for uid, model in models.items() if model == "study") for models in (negotiation.GET, negotiation.MOVE)
)
OFFERS = [Offer(1, GET, (IMPLICIT_LE,)), Offer(3, MOVE, (IMPLICIT_LE,)), Offer(5, CT, (EXPLICIT_LE,), scp=True)]


@dataclass(frozen=True)
class Stored:
    """One object in memory."""

    sop_instance: str
    data: bytes = b"data"
    sop_class: str = CT
    transfer_syntax: str = EXPLICIT_LE
    has_problem: bool = False

    @property
    def length(self) -> int:
        return len(self.data)

    def open(self) -> Iterator[bytes]:
        yield self.data

    def convertible_to(self, transfer_syntax: str) -> bool:
        return False

    def convert_to(self, transfer_syntax: str) -> Iterator[bytes]:
        raise AssertionError


class Damaged(Stored):
    """One whose check fails before its last byte."""

    def open(self) -> Iterator[bytes]:
        yield self.data[:-1]
        raise IntegrityError("a sealed body does not match its hash")


class Faulty(Stored):
    """One that meets a fault of ours."""

    def open(self) -> Iterator[bytes]:
        yield self.data[:-1]
        raise ValueError(self.data)


class DamagedLarge(Damaged):
    """One that is not read whole before it is sent."""

    @property
    def length(self) -> int:
        return 17 << 20


class Endless(Stored):
    """One that is on its way for longer than anybody waits."""

    @property
    def length(self) -> int:
        return 1 << 40

    def open(self) -> Iterator[bytes]:
        for _ in range(1000):
            time.sleep(0.01)
            yield bytes(1 << 10)


def named(count: int) -> list[Stored]:
    return [Stored(f"1.2.{number}") for number in range(count)]


def failed_list(message: Message) -> list[str]:
    """The Failed SOP Instance UID List as pydicom reads it."""
    assert message.data is not None
    implicit = message.context.transfer_syntax == IMPLICIT_LE
    ds = pydicom.filereader.read_dataset(io.BytesIO(message.data), is_implicit_VR=implicit, is_little_endian=True)
    assert list(ds.keys()) == [0x00080058]
    value = ds.FailedSOPInstanceUIDList
    if isinstance(value, bytes):  # more than 65,535 bytes in Explicit VR: with VR UN, which pydicom leaves as it is
        value = value.rstrip(b"\0").decode().split("\\")
    return [str(value)] if isinstance(value, str) else [str(uid) for uid in value]


def get(listener: Listener, keep: Callable[[Message], int] = lambda _: 0, offers: list[Offer] = OFFERS) -> Message:
    with RawRequestor(listener.port, offers) as peer:
        peer.request(peer.context(GET), dimse.C_GET, b"")
        return peer.final(keep)


def move(listener: Listener) -> Message:
    with RawRequestor(listener.port, OFFERS) as peer:
        peer.request(peer.context(MOVE), dimse.C_MOVE, b"", DESTINATION="MOVEDST")
        return peer.final()


def test_nothing_found_is_success_with_counters_of_zero(listener: Listener) -> None:
    for final in (get(listener), move(listener)):
        assert (final.status, final.counters, final.data, final.comment) == (0, (-1, 0, 0, 0), None, "")


def test_a_remark_stands_in_the_final_response_where_no_failure_has_to_be_explained(
    listener: Listener, memory: Memory
) -> None:
    memory.remark = "objects of 2 patients have the UIDs that were asked for"
    memory.instances = named(2)
    final = get(listener)
    assert (final.status, final.counters, final.comment) == (0, (-1, 2, 0, 0), memory.remark)
    memory.instances = [*named(1), Damaged("1.2.9")]
    final = get(listener)
    assert (final.status, final.counters) == (0xB000, (-1, 1, 1, 0))
    assert final.comment == "a sealed body does not match its hash"


@pytest.mark.parametrize("syntax", [IMPLICIT_LE, EXPLICIT_LE])
def test_a_list_of_any_length_can_be_read(listener: Listener, memory: Memory, syntax: str) -> None:
    names = [f"1.2.840.113619.2.55.3.604688119.971.1700000000.{number}" for number in range(2000)]
    memory.instances = [Stored(name, transfer_syntax=JPEG) for name in names]
    final = get(listener, offers=[Offer(1, GET, (syntax,)), OFFERS[2]])
    assert (final.status, final.counters) == (0xA702, (-1, 0, 2000, 0))
    assert failed_list(final) == names
    assert JPEG in final.comment
    assert memory.failures("get", "A702") == 1


@pytest.mark.parametrize("way", ["get", "move"])
def test_every_answer_of_a_sub_operation_has_its_counter(
    listen: Callable[..., Listener], memory: Memory, way: str
) -> None:
    statuses = [0x0000, 0xB007, 0xA700, 0xB000, 0xC000]
    memory.instances = named(len(statuses))

    def answer(message: Message) -> int:
        return statuses[int(message.text(dimse.AFFECTED_INSTANCE).rsplit(".", 1)[1])]

    with RawDestination(answer) as destination:
        listener = listen(destination=destination.port)
        final = get(listener, answer) if way == "get" else move(listener)
    assert (final.status, final.counters) == (0xB000, (-1, 1, 2, 2))
    assert failed_list(final) == ["1.2.2", "1.2.4"]
    assert final.comment == "a C-STORE sub-operation ended with B007"
    assert memory.failures(way, "B000") == 1


@pytest.mark.parametrize("way", ["get", "move"])
def test_each_sub_operation_is_reported_and_counted(listen: Callable[..., Listener], memory: Memory, way: str) -> None:
    memory.instances = [*named(2), Stored("1.2.9", transfer_syntax=JPEG), *named(1)]
    with RawDestination(syntaxes=[EXPLICIT_LE]) as destination:
        listener = listen(destination=destination.port)
        with RawRequestor(listener.port, OFFERS) as peer:
            field = dimse.C_GET if way == "get" else dimse.C_MOVE
            peer.request(peer.context(GET if way == "get" else MOVE), field, b"", DESTINATION="MOVEDST")
            told = [(message.status, message.counters) for message in peer.responses()]
            assert memory.sent(way) == (3, 12)
    assert told[-1] == (0xB000, (-1, 3, 1, 0))
    assert told[:-1] == [(0xFF00, counters) for counters in [(3, 1, 0, 0), (2, 2, 0, 0), (1, 2, 1, 0), (0, 3, 1, 0)]]


def test_what_was_sent_before_an_association_breaks_is_counted(listener: Listener, memory: Memory) -> None:
    memory.instances = [*named(2), DamagedLarge("1.2.9")]
    with pytest.raises(Broken):
        get(listener)
    deadline = time.monotonic() + 5
    while memory.sent("get") != (2, 8) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert memory.sent("get") == (2, 8)


def test_warnings_alone_have_no_list(listener: Listener, memory: Memory) -> None:
    memory.instances = named(2)
    final = get(listener, lambda _: 0xB007)
    assert (final.status, final.counters, final.data) == (0xB000, (-1, 0, 0, 2), None)


def test_more_than_can_be_counted_is_refused(listener: Listener, memory: Memory) -> None:
    memory.instances = named(1) * 65536
    for final in (get(listener), move(listener)):
        assert (final.status, final.counters, final.data) == (0xA701, (-1, -1, -1, -1), None)
        assert final.comment == "65536 instances: ask for fewer than 65536 at once"


def test_a_destination_that_is_not_there_fails_all_and_is_named(
    listen: Callable[..., Listener], memory: Memory
) -> None:
    memory.instances = named(3)
    port = free_port()
    with capture_logs() as logged:
        final = move(listen(destination=port))
    assert (final.status, final.counters) == (0xA702, (-1, 0, 3, 0))
    assert failed_list(final) == ["1.2.0", "1.2.1", "1.2.2"]
    assert final.comment.startswith(f"MOVEDST at 127.0.0.1:{port} cannot be reached")
    (line,) = [entry for entry in logged if entry["event"] == "operation failed"]
    assert (line["service"], line["status"]) == ("move", "A702")
    assert str(line["cause"]).startswith(final.comment)


def test_a_destination_that_takes_no_association_is_asked_once(listen: Callable[..., Listener], memory: Memory) -> None:
    memory.instances = named(3)
    calls = 0

    def hang_up() -> None:
        nonlocal calls
        with contextlib.suppress(OSError):
            while True:
                server.accept()[0].close()
                calls += 1

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=hang_up)
        thread.start()
        final = move(listen(destination=server.getsockname()[1]))
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert (final.status, final.counters, calls) == (0xA702, (-1, 0, 3, 0), 1)


def test_an_unknown_destination(listener: Listener, memory: Memory) -> None:
    with capture_logs() as logged, RawRequestor(listener.port, OFFERS) as peer:
        peer.request(peer.context(MOVE), dimse.C_MOVE, b"", DESTINATION="NOWHERE")
        final = peer.final()
    assert (final.status, final.counters) == (0xA801, (-1, -1, -1, -1))
    assert "NOWHERE" in final.comment
    assert memory.failures("move", "A801") == 1
    assert [entry["status"] for entry in logged if entry["event"] == "operation failed"] == ["A801"]


def test_a_destination_is_told_who_moves(listen: Callable[..., Listener], memory: Memory) -> None:
    memory.instances = named(2)
    with RawDestination() as destination:
        listener = listen(destination=destination.port)
        with RawRequestor(listener.port, OFFERS, calling="WORKSTATION") as peer:
            peer.request(peer.context(MOVE), dimse.C_MOVE, b"", DESTINATION="MOVEDST")
            peer.final()
            message_id = peer.request(peer.context(MOVE), dimse.C_MOVE, b"", DESTINATION="MOVEDST")
            assert peer.final().status == 0
    told = [(m.text(dimse.ORIGINATOR_AE), m.number(dimse.ORIGINATOR_ID)) for _, m in destination.came]
    assert told == [("WORKSTATION", message_id - 1)] * 2 + [("WORKSTATION", message_id)] * 2


def test_a_destination_that_breaks_off_costs_one_object(listen: Callable[..., Listener], memory: Memory) -> None:
    memory.instances = named(30)
    bad = {f"1.2.{number}" for number in (3, 4, 8, 11, 14, 17, 20, 29)}
    assert len(bad) > retrieve_scp._MOST_FAILURES
    with RawDestination(lambda m: None if m.text(dimse.AFFECTED_INSTANCE) in bad else 0) as destination:
        final = move(listen(destination=destination.port))
    assert (final.status, final.counters) == (0xB000, (-1, 22, 8, 0))
    assert set(failed_list(final)) == bad
    assert final.comment.endswith("broke the association")
    assert len(destination.came) == 30
    assert destination.associations == len(bad)


def test_a_destination_that_always_breaks_off_is_given_up(listen: Callable[..., Listener], memory: Memory) -> None:
    memory.instances = named(1000)
    with RawDestination(lambda _: None) as destination:
        final = move(listen(destination=destination.port))
    assert (final.status, final.counters) == (0xA702, (-1, 0, 1000, 0))
    assert len(failed_list(final)) == 1000
    assert destination.associations == retrieve_scp._MOST_FAILURES


def doubtful_among_sound() -> list[Stored]:
    """Thirty sound ones with seven after the third that a peer need not be able to read."""
    long = [Stored(f"1.2.{'7' * 66}{number}") for number in range(5)]
    return [*named(30)[:3], *long, Stored("1.3.1", b"odd"), Stored("1.3.2", has_problem=True), *named(30)[3:]]


def test_what_a_destination_cannot_read_costs_no_sound_object(listen: Callable[..., Listener], memory: Memory) -> None:
    memory.instances = doubtful_among_sound()
    sound = [instance.sop_instance for instance in named(30)]
    bad = {instance.sop_instance for instance in memory.instances} - {*sound}
    assert len(bad) > retrieve_scp._MOST_FAILURES
    with RawDestination(lambda m: None if m.text(dimse.AFFECTED_INSTANCE) in bad else 0) as destination:
        final = move(listen(destination=destination.port))
    assert (final.status, final.counters) == (0xB000, (-1, 30, 7, 0))
    assert set(failed_list(final)) == bad
    assert list(destination.data)[:31] == [*sound, "1.3.2"]
    assert destination.associations == len(bad)


@pytest.mark.parametrize("first", [0, 10])
def test_a_row_of_objects_that_only_look_sound_costs_no_other(
    listen: Callable[..., Listener], memory: Memory, first: int
) -> None:
    memory.instances = named(40)
    bad = {f"1.2.{number}" for number in range(first, first + 12)}
    with RawDestination(lambda m: None if m.text(dimse.AFFECTED_INSTANCE) in bad else 0) as destination:
        final = move(listen(destination=destination.port))
    assert (final.status, final.counters) == (0xB000, (-1, 28, 12, 0))
    assert set(failed_list(final)) == bad


def test_what_a_destination_cannot_read_takes_a_bounded_time(
    listen: Callable[..., Listener], memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieve_scp, "_DOUBTFUL_SECONDS", 1e-9)
    memory.instances = doubtful_among_sound()
    with RawDestination(lambda m: None if m.text(dimse.AFFECTED_INSTANCE) == "1.3.2" else 0) as destination:
        final = move(listen(destination=destination.port))
    assert (final.status, final.counters) == (0xB000, (-1, 30, 7, 0))
    assert destination.associations == 1
    assert len(failed_list(final)) == 7


def test_a_requestor_that_breaks_off_over_an_object_has_all_sound_ones(listener: Listener, memory: Memory) -> None:
    memory.instances = doubtful_among_sound()
    came: list[str] = []

    def keep(message: Message) -> int:
        came.append(message.text(dimse.AFFECTED_INSTANCE))
        if len(came) > 30:
            raise Broken
        return 0

    with pytest.raises(Broken):
        get(listener, keep)
    assert came == [*(instance.sop_instance for instance in named(30)), "1.3.2"]


def test_more_contexts_than_one_association_holds(listen: Callable[..., Listener], memory: Memory) -> None:
    memory.instances = [Stored(f"1.2.{n}", b"%d" % n, f"1.2.3.4.{n}", f"1.2.5.{n}") for n in range(300)]
    with RawDestination() as destination:
        final = move(listen(destination=destination.port))
    assert (final.status, final.counters) == (0, (-1, 300, 0, 0))
    assert destination.associations == 3
    assert destination.data == {i.sop_instance: i.data for i in memory.instances if isinstance(i, Stored)}


@pytest.mark.parametrize("way", ["get", "move"])
def test_a_damaged_object_costs_itself(listen: Callable[..., Listener], memory: Memory, way: str) -> None:
    memory.instances = [*named(3), Damaged("1.2.9"), Damaged("1.2.10"), Stored("1.2.11")]
    came: list[str] = []

    def keep(message: Message) -> int:
        came.append(message.text(dimse.AFFECTED_INSTANCE))
        return 0

    with RawDestination(keep) as destination:
        listener = listen(destination=destination.port)
        final = get(listener, keep) if way == "get" else move(listener)
        assert destination.associations == (way == "move")
    assert (final.status, final.counters) == (0xB000, (-1, 4, 2, 0))
    assert failed_list(final) == ["1.2.9", "1.2.10"]
    assert final.comment == "a sealed body does not match its hash"
    assert came == ["1.2.0", "1.2.1", "1.2.2", "1.2.11"]


def test_a_large_damaged_object_is_never_completed(listen: Callable[..., Listener], memory: Memory) -> None:
    bad = [DamagedLarge(f"1.2.{n}", bytes(3000)) for n in range(100, 120)]
    memory.instances = [Stored("1.2.0"), *bad, Stored("1.2.1")]
    with RawDestination() as destination:
        listener = listen(destination=destination.port)
        final = move(listener)
        assert (final.status, final.counters) == (0xB000, (-1, 2, 20, 0))
        assert failed_list(final) == [i.sop_instance for i in bad]
        assert destination.data == {"1.2.0": b"data", "1.2.1": b"data"}
        with pytest.raises(Broken) as ended:
            get(listener)
    assert (ended.value.kind, ended.value.body[2:]) == (pdu.ABORT, bytes((pdu.PROVIDER, pdu.INVALID_VALUE)))


def test_a_cancelled_get_says_what_remains(listener: Listener, memory: Memory) -> None:
    memory.instances = [*named(2), Stored("1.2.2", transfer_syntax=JPEG), *named(7)]
    with RawRequestor(listener.port, OFFERS) as peer:
        message_id = peer.request(peer.context(GET), dimse.C_GET, b"")
        came: list[Message] = []

        def keep(message: Message) -> int:
            came.append(message)
            if len(came) == 4:
                peer.cancel(peer.context(GET), message_id)
            return 0

        final = peer.final(keep)
        assert (final.status, final.counters) == (0xFE00, (5, 4, 1, 0))
        assert failed_list(final) == ["1.2.2"]
        peer.request(peer.context(GET), dimse.C_GET, b"")  # the association goes on
        assert peer.final().status == 0xB000
    assert memory.failures("get", "FE00") == 0


def test_a_move_is_cancelled_between_two_objects(listen: Callable[..., Listener], memory: Memory) -> None:
    memory.instances = named(10)
    with RawDestination() as destination, RawRequestor(listen(destination=destination.port).port, OFFERS) as peer:
        message_id = peer.request(peer.context(MOVE), dimse.C_MOVE, b"", DESTINATION="MOVEDST")
        peer.cancel(peer.context(MOVE), message_id)
        final = peer.final()
    remaining, completed, failed, warned = final.counters
    assert (final.status, failed, warned, final.data) == (0xFE00, 0, 0, None)
    assert remaining + completed == 10
    assert completed == len(destination.came) < 10


@pytest.mark.parametrize("slow", ["object", "answer"])
def test_a_long_sub_operation_is_reported_and_can_be_cancelled(
    listen: Callable[..., Listener], memory: Memory, monkeypatch: pytest.MonkeyPatch, slow: str
) -> None:
    monkeypatch.setattr(suboperations, "_PENDING_SECONDS", 0.2)
    monkeypatch.setattr(requestor, "_WAIT_SECONDS", 0.1)
    memory.instances = [Stored("1.2.0"), Endless("1.2.1") if slow == "object" else Stored("1.2.1"), Stored("1.2.2")]

    def answer(message: Message) -> int:
        time.sleep(2 * (slow == "answer" and message.text(dimse.AFFECTED_INSTANCE) == "1.2.1"))
        return 0

    with RawDestination(answer) as destination, RawRequestor(listen(destination=destination.port).port, OFFERS) as peer:
        message_id = peer.request(peer.context(MOVE), dimse.C_MOVE, b"", DESTINATION="MOVEDST")
        for _ in range(3):  # one after the first, the others while the second is on its way
            assert peer.receive().counters == (2, 1, 0, 0)
        peer.cancel(peer.context(MOVE), message_id)
        final = peer.final()
    assert (final.status, final.counters) == (0xFE00, (1, 1, 1, 0))
    assert failed_list(final) == ["1.2.1"]
    assert "1.2.2" not in destination.data


def test_what_the_destination_says_too_late_is_a_failure(listen: Callable[..., Listener], memory: Memory) -> None:
    memory.instances = named(1)
    with RawDestination(lambda _: time.sleep(1.5) or 0) as destination:
        final = move(listen(destination=destination.port, destination_seconds=0.5))
    assert (final.status, final.counters) == (0xA702, (-1, 0, 1, 0))
    assert final.comment.endswith("does not answer in time")


@pytest.mark.parametrize("odd", ["1.2.é", "1." * 300, "ABC", "", "1.2\\3", "\x1b", "1" * 65])
def test_an_object_that_no_peer_can_be_offered_costs_itself_only(
    listen: Callable[..., Listener], memory: Memory, odd: str
) -> None:
    memory.instances = [Stored("9.1", sop_class=odd), *named(3), Stored("9.2", transfer_syntax=odd)]
    with RawDestination() as destination:
        final = move(listen(destination=destination.port))
        assert (final.status, final.counters[1:]) == (0xB000, (3, 2, 0))
        assert failed_list(final) == ["9.1", "9.2"]
        assert set(destination.data) == {"1.2.0", "1.2.1", "1.2.2"}
        memory.instances = [Stored("9.1", sop_class=odd)]
        final = move(listen(destination=destination.port))
        assert (final.status, final.comment) == (0xA702, "its SOP class or transfer syntax is no UID")


def test_an_object_that_meets_a_fault_of_ours_costs_itself_only(
    listen: Callable[..., Listener], memory: Memory
) -> None:
    memory.instances = [*named(2), Faulty("9.1"), Stored("1.2.9")]
    with RawDestination() as destination:
        listener = listen(destination=destination.port)
        for final in (get(listener), move(listener)):
            assert (final.status, final.counters[1:]) == (0xB000, (3, 1, 0))
            assert failed_list(final) == ["9.1"]
            assert final.comment == "a fault of the archive: ValueError"
