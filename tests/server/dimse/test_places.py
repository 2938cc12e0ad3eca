"""Who gives up a place when there are none left: silence first, work in progress never."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coffer.server.dimse.places import AssociationPlace, AssociationPlaces

TOTAL, PER_HOST = 6, 4


class Hall:
    """Places with a clock that the test sets."""

    def __init__(self, total: int = TOTAL, per_host: int = PER_HOST, reserved: int = 0) -> None:
        self.now = 1000.0
        self.places = AssociationPlaces(total, per_host, lambda: self.now, reserved)

    def fill(self, *hosts: str, idle: float | None, used: bool) -> list[AssociationPlace]:
        """Associations that have been idle for so long; None: something is under way on each."""
        made = []
        for host in hosts:
            place, victim = self.places.enter(host)
            assert place is not None
            assert victim is None
            place.idle_since = None if idle is None else self.now - idle
            place.is_used = used
            made.append(place)
        return made


def test_a_place_that_is_left_is_free_again() -> None:
    hall = Hall()
    taken = hall.fill(*(f"10.0.{n}.1" for n in range(TOTAL)), idle=None, used=True)
    assert hall.places.enter("10.9.0.1") == (None, None)
    hall.places.leave(taken[0])
    hall.places.leave(taken[0])  # harmless
    assert hall.places.enter("10.9.0.1")[0] is not None
    assert hall.places.enter("10.9.0.2") == (None, None)


def test_silent_associations_of_two_addresses_keep_nobody_out() -> None:
    hall = Hall()
    hall.fill(*["10.0.0.1"] * 3, *["10.0.1.1"] * 3, idle=5, used=False)
    for _ in range(6):
        place, victim = hall.places.enter("10.9.0.1")
        if place is None:
            break
        assert victim is not None
        assert victim.host != "10.9.0.1"
        hall.places.leave(victim)
    assert hall.places.enter("10.9.0.2")[0] is not None


def test_neighbours_that_are_silent_count_together() -> None:
    hall = Hall()
    hall.fill("10.0.0.1", "10.0.0.2", "10.0.0.3", idle=3, used=False)
    hall.fill("10.5.0.1", idle=60, used=False)  # longest, but alone in its network
    hall.fill("10.6.0.1", "10.7.0.1", idle=60, used=True)
    _, victim = hall.places.enter("10.9.0.1")
    assert victim is not None
    assert victim.host.startswith("10.0.0.")


def test_in_one_network_silence_goes_before_work_and_the_longest_first() -> None:
    hall = Hall()
    hall.fill("fe80::1", "fe80::2", idle=3, used=False)
    (longest,) = hall.fill("fe80::3", idle=9, used=False)
    hall.fill("fe80::4", "fe80::5", "fe80::6", idle=None, used=True)
    assert hall.places.enter("fe80::7")[1] is longest


@pytest.mark.parametrize(("idle", "used"), [(None, True), (None, False), (1.0, False), (29.0, True)])
def test_who_works_or_has_just_come_stays(idle: float | None, used: bool) -> None:
    hall = Hall()
    hall.fill(*(f"10.{n}.0.1" for n in range(TOTAL)), idle=idle, used=used)
    assert hall.places.enter("10.99.0.1") == (None, None)


def test_one_that_was_used_goes_for_an_address_that_holds_fewer() -> None:
    hall = Hall()
    hall.fill("10.0.0.1", "10.1.0.1", idle=100, used=True)
    held = hall.fill(*["10.2.0.1"] * 4, idle=6, used=True)
    assert hall.places.enter("10.2.0.1") == (None, None)  # its own address holds most
    assert hall.places.enter("10.3.0.1")[1] in held


def test_one_address_with_many_honest_peers_is_not_shut_out_by_its_silent_ones() -> None:
    hall = Hall()
    (silent,) = hall.fill("10.0.0.1", idle=3, used=False)
    hall.fill(*["10.0.0.1"] * 3, idle=100, used=True)
    place, victim = hall.places.enter("10.0.0.1")
    assert place is not None
    assert victim is silent
    hall.places.leave(silent)
    assert hall.places.enter("10.0.0.1") == (None, None)  # those that were used stay


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5), st.booleans()), max_size=80))
def test_never_more_than_there_are_but_for_those_on_their_way_out(
    steps: list[tuple[int, int, bool]],
) -> None:
    hall = Hall()
    inside: list[AssociationPlace] = []
    for host, seconds, leaves in steps:
        hall.now += seconds
        if leaves and inside:
            hall.places.leave(inside.pop(host % len(inside)))
            continue
        place, victim = hall.places.enter(f"10.0.{host}.1")
        if place is not None:
            place.idle_since, place.is_used = hall.now, seconds > 2
            inside.append(place)
        if victim is not None:
            assert victim in inside
            assert victim.is_ending
        staying = [each for each in inside if not each.is_ending]
        assert len(staying) <= TOTAL
        assert all(sum(each.host == one.host for each in staying) <= PER_HOST for one in staying)


def test_strangers_never_get_the_reserved_places() -> None:
    hall = Hall(total=6, per_host=6, reserved=2)
    for number in range(4):
        place, _ = hall.places.enter(f"10.0.{number}.1", is_stranger=True)
        assert place is not None
    assert hall.places.enter("10.9.0.1", is_stranger=True) == (None, None)
    assert not hall.places.is_full
    known = [hall.places.enter("10.1.0.1")[0] for _ in range(2)]
    assert None not in known
    assert hall.places.is_full
    assert hall.places.enter("10.1.0.1") == (None, None)


def test_a_stranger_ends_no_silent_association_of_a_known_peer() -> None:
    hall = Hall(total=6, per_host=6, reserved=2)
    hall.fill("10.1.0.1", idle=100, used=False)
    strangers = [hall.places.enter("10.0.0.1", is_stranger=True)[0] for _ in range(4)]
    assert hall.places.enter("10.9.0.1", is_stranger=True) == (None, None)
    assert strangers[2] is not None
    strangers[2].idle_since = hall.now - 3
    place, victim = hall.places.enter("10.9.0.1", is_stranger=True)
    assert place is not None
    assert victim is strangers[2]


def test_a_stranger_who_leaves_makes_room_for_one() -> None:
    hall = Hall(total=2, per_host=6, reserved=10)  # at most half are reserved
    place, _ = hall.places.enter("10.0.0.1", is_stranger=True)
    assert place is not None
    assert hall.places.enter("10.0.0.2", is_stranger=True) == (None, None)
    hall.places.leave(place)
    assert hall.places.enter("10.0.0.2", is_stranger=True)[0] is not None
