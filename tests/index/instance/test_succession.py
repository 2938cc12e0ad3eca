"""Versions follow each other as each of them says, and whatever contradicts that is told."""

import itertools

import pytest

from coffer.index.instance.order import Order
from coffer.index.instance.succession import Broken, Succeeding, broken

A, B, C = b"a", b"b", b"c"


def version(seq: int, content_id: bytes, previous: bytes = b"", order: int = 0) -> Succeeding:
    return Succeeding(Order(1000 + (order or seq), 0, order or seq), seq, content_id, previous)


def found(*versions: Succeeding, may_be_lost: bool = False) -> list[Broken]:
    return list(broken(versions, lambda *_: may_be_lost))


def test_a_chain_contradicts_nothing_in_whatever_sequence_it_is_read() -> None:
    chain = version(1, A), version(4, B, A), version(5, A, B), version(9, C, A)
    for some in itertools.permutations(chain):
        assert found(*some) == []


@pytest.mark.parametrize("may_be_lost", [True, False])
def test_two_that_were_swapped_contradict_each_other_whatever_may_be_lost(may_be_lost: bool) -> None:
    assert found(version(1, B, A), version(4, A), may_be_lost=may_be_lost) == [Broken(1, None), Broken(4, 1)]
    swapped = version(1, A), version(4, C, B), version(5, B, A)
    assert found(*swapped, may_be_lost=may_be_lost) == [Broken(4, 1), Broken(5, 4)]


@pytest.mark.parametrize("gone", [0, 1])
def test_one_that_is_gone_is_accepted_only_where_it_may_be_lost(gone: int) -> None:
    chain = [version(1, A), version(4, B, A), version(5, C, B)]
    del chain[gone]
    assert found(*chain, may_be_lost=True) == []
    (wrong,) = found(*chain)
    assert wrong == Broken(chain[gone].seq, chain[gone - 1].seq if gone else None)


def test_two_firsts_contradict_each_other() -> None:
    assert found(version(1, A), version(4, B), may_be_lost=True) == [Broken(4, 1)]


def test_an_object_that_was_sealed_again_keeps_its_place() -> None:
    """Its old record may still be there: both count as one."""
    old, new = version(1, A), version(7, A, order=1)
    assert found(old, version(4, B, A), new) == []
    assert found(version(4, B, A), new) == []


def test_what_is_asked_is_whether_something_between_two_orders_may_be_lost() -> None:
    asked = []

    def may_be_lost(after: Order | None, before: Order) -> bool:
        asked.append((after, before))
        return True

    one, two = version(2, A, C), version(4, B, b"x")
    assert list(broken([one, two], may_be_lost)) == []
    assert asked == [(None, one.order), (one.order, two.order)]
