"""Objects that a peer cannot read, or that cannot be sent: what each costs the C-MOVE or C-GET it is part of."""

from collections.abc import Callable

import pytest

from coffer.server.dimse.listener import Listener
from coffer.server.dimse.protocol import command as dimse
from coffer.server.dimse.protocol import pdu
from coffer.server.dimse.scp import move_destination
from tests.server.dimse.conftest import Memory
from tests.server.dimse.raw_peer import Broken, Message, RawDestination
from tests.server.dimse.retrieving import Damaged, DamagedLarge, Faulty, Stored, failed_list, get, move, named


def doubtful_among_sound() -> list[Stored]:
    """Thirty sound ones with seven after the third that a peer need not be able to read."""
    long = [Stored(f"1.2.{'7' * 66}{number}") for number in range(5)]
    return [*named(30)[:3], *long, Stored("1.3.1", b"odd"), Stored("1.3.2", has_problem=True), *named(30)[3:]]


def test_what_a_destination_cannot_read_costs_no_sound_object(listen: Callable[..., Listener], memory: Memory) -> None:
    memory.instances = doubtful_among_sound()
    sound = [instance.sop_instance for instance in named(30)]
    bad = {instance.sop_instance for instance in memory.instances} - {*sound}
    assert len(bad) > move_destination._MOST_FAILURES
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
    monkeypatch.setattr(move_destination, "_DOUBTFUL_SECONDS", 1e-9)
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
            assert final.comment == "internal error: ValueError"
