"""Proofs against the definitions of RFC 6962 2.1, written down here naively, and against everything that is not one."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coffer.archive.tree.proof import (
    HashAt,
    consistency,
    extends,
    includes,
    inclusion,
    root,
)


def leaf(number: int) -> bytes:
    return sha256(b"leaf %d" % number).digest()


LEAVES = [leaf(n) for n in range(2100)]


def split(count: int) -> int:
    k = 1
    while 2 * k < count:
        k *= 2
    return k


def mth(d: list[bytes]) -> bytes:
    """MTH(D[n])."""
    if not d:
        return sha256(b"").digest()
    if len(d) == 1:
        return d[0]
    k = split(len(d))
    return sha256(b"\1" + mth(d[:k]) + mth(d[k:])).digest()


def path(m: int, d: list[bytes]) -> list[bytes]:
    """PATH(m, D[n])."""
    if len(d) == 1:
        return []
    k = split(len(d))
    return [*path(m, d[:k]), mth(d[k:])] if m < k else [*path(m - k, d[k:]), mth(d[:k])]


def subproof(m: int, d: list[bytes], *, whole: bool) -> list[bytes]:
    """SUBPROOF(m, D[n], b)."""
    if m == len(d):
        return [] if whole else [mth(d)]
    k = split(len(d))
    if m <= k:
        return [*subproof(m, d[:k], whole=whole), mth(d[k:])]
    return [*subproof(m - k, d[k:], whole=False), mth(d[:k])]


def lookup(size: int) -> HashAt:
    """Complete subtrees of the first `size` leaves; asking for one that is not there is an error."""

    def at(level: int, index: int) -> bytes:
        assert (index + 1) << level <= size
        return mth(LEAVES[index << level : (index + 1) << level])

    return at


@given(st.integers(0, 2099), st.integers(1, 2100))
def test_inclusion_is_the_rfcs_path_and_checks(index: int, size: int) -> None:
    if index >= size:
        with pytest.raises(ValueError, match="not in the tree"):
            inclusion(index, size, lookup(size))
        return
    d = LEAVES[:size]
    made, head = inclusion(index, size, lookup(size)), mth(d)
    assert made == path(index, d)
    assert root(size, lookup(size)) == head
    assert includes(leaf(index), index, size, made, head)


@given(st.integers(1, 2100), st.integers(1, 2100))
def test_consistency_is_the_rfcs_proof_and_checks(one: int, other: int) -> None:
    old, new = sorted((one, other))
    made = consistency(old, new, lookup(new))
    assert made == subproof(old, LEAVES[:new], whole=True)
    assert extends(old, mth(LEAVES[:old]), new, mth(LEAVES[:new]), made)


HEADS = [mth(LEAVES[:n]) for n in range(71)]


def test_consistency_between_all_pairs_up_to_70() -> None:
    """Each pair's proof holds, and shows neither another old tree nor another new one."""
    for new in range(71):
        for old in range(new + 1):
            made = consistency(old, new, lookup(new))
            assert extends(old, HEADS[old], new, HEADS[new], made)
            forged = sha256(HEADS[old]).digest()
            assert not extends(old, forged, new, HEADS[new], made)
            assert not extends(old, HEADS[old], new, sha256(HEADS[new]).digest(), made) or old == 0
            assert not extends(old, HEADS[old], new, HEADS[new], [*made, leaf(0)])
            if old < new and old:
                assert not extends(old, HEADS[old], new, HEADS[new], made[:-1])
                assert not extends(new, HEADS[new], old, HEADS[old], made)


def test_inclusion_for_all_leaves_of_all_trees_up_to_70() -> None:
    for size in range(1, 71):
        for index in range(size):
            made = inclusion(index, size, lookup(size))
            assert includes(leaf(index), index, size, made, HEADS[size])
            assert not includes(leaf(index + 1), index, size, made, HEADS[size])
            assert not includes(leaf(index), index, size, [*made, leaf(0)], HEADS[size])
            if made:
                assert not includes(leaf(index), index, size, made[:-1], HEADS[size])
                assert not includes(leaf(index), index ^ 1, size, made, HEADS[size])


@given(st.data())
def test_a_changed_proof_proves_nothing(data: st.DataObject) -> None:
    """Any bit of any hash, and any other size: the tree has one shape."""
    size = data.draw(st.integers(2, 2100))
    old = data.draw(st.integers(1, size - 1))
    made = consistency(old, size, lookup(size))
    place, bit = data.draw(st.integers(0, len(made) - 1)), data.draw(st.integers(0, 255))
    changed = list(made)
    changed[place] = (int.from_bytes(changed[place], "big") ^ 1 << bit).to_bytes(32, "big")
    assert not extends(old, mth(LEAVES[:old]), size, mth(LEAVES[:size]), changed)
    index = data.draw(st.integers(0, size - 1))
    path_made = inclusion(index, size, lookup(size))
    place = data.draw(st.integers(0, len(path_made) - 1))
    path_made[place] = (int.from_bytes(path_made[place], "big") ^ 1 << bit).to_bytes(32, "big")
    assert not includes(leaf(index), index, size, path_made, mth(LEAVES[:size]))


def test_a_proof_of_the_wrong_length_for_its_tree_proves_nothing() -> None:
    """Even if the hashes fit: whoever lies about a size must not get away with the proof of another tree."""
    for size in range(1, 20):
        for index in range(size):
            made = inclusion(index, size, lookup(size))
            for other in range(index + 1, 40):
                if len(path(index, LEAVES[:other])) != len(made):
                    assert not includes(leaf(index), index, other, made, HEADS[size])
        for old in range(1, size):
            shown = consistency(old, size, lookup(size))
            for other in range(old + 1, 40):
                if len(subproof(old, LEAVES[:other], whole=True)) != len(shown):
                    assert not extends(old, HEADS[old], other, HEADS[size], shown)


def test_an_older_tree_cannot_be_the_larger_one() -> None:
    with pytest.raises(ValueError, match="the larger one"):
        consistency(5, 4, lookup(5))
    assert not extends(5, HEADS[5], 4, HEADS[4], [])
    assert not extends(4, HEADS[4], 4, HEADS[5], [])
