"""The sub-operations of C-MOVE and C-GET on the wire: counters, statuses, lists, reports and cancellation."""

import time
from collections.abc import Callable

import pytest

from coffer.server.dimse.listener import Listener
from coffer.server.dimse.protocol import command as dimse
from coffer.server.dimse.protocol import requestor
from coffer.server.dimse.protocol.negotiation import EXPLICIT_LE, IMPLICIT_LE, Offer
from coffer.server.dimse.scp import suboperations
from tests.server.dimse.conftest import Memory
from tests.server.dimse.raw_peer import Broken, Message, RawDestination, RawRequestor
from tests.server.dimse.retrieving import (
    GET,
    JPEG,
    MOVE,
    OFFERS,
    Damaged,
    DamagedLarge,
    Endless,
    Stored,
    failed_list,
    get,
    move,
    named,
)


def test_nothing_found_is_success_with_counters_of_zero(listener: Listener) -> None:
    for final in (get(listener), move(listener)):
        assert (final.status, final.counters, final.data, final.comment) == (0, (-1, 0, 0, 0), None, "")


def test_a_remark_stands_in_the_final_response_where_no_failure_has_to_be_explained(
    listener: Listener, memory: Memory
) -> None:
    memory.remark = "objects of 2 patients have the requested UIDs"
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
def test_each_sub_operation_is_reported_and_counted(
    listen: Callable[..., Listener], memory: Memory, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(suboperations, "_APART_SECONDS", 0.0)
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


def test_a_move_of_many_small_objects_is_not_reported_after_each(
    listen: Callable[..., Listener], memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first, and then when it is time; the last response has the sum."""
    monkeypatch.setattr(suboperations, "_APART_SECONDS", 3600.0)
    memory.instances = named(5)
    with RawDestination() as destination, RawRequestor(listen(destination=destination.port).port, OFFERS) as peer:
        peer.request(peer.context(MOVE), dimse.C_MOVE, b"", DESTINATION="MOVEDST")
        told = [(message.status, message.counters) for message in peer.responses()]
    assert told == [(0xFF00, (4, 1, 0, 0)), (0x0000, (-1, 5, 0, 0))]


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


def test_a_move_is_cancelled_between_two_objects(
    listen: Callable[..., Listener], memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suboperations, "_APART_SECONDS", 0.0)
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
