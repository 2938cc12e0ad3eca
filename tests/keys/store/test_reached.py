"""How far a store has seen its rows go: what follows, what does not, and that one look at the latter is enough."""

from __future__ import annotations

import os

import pytest

from coffer.keys.errors import HistoryError
from coffer.keys.memory.secret import Secret
from coffer.keys.store.keyring_store import KeyringStore
from coffer.keys.store.lmdb_store import LmdbKeyringStore
from coffer.keys.store.memory_store import MemoryKeyringStore
from coffer.keys.store.reached import Reached
from coffer.keys.store.sums import RowSums, sum_key
from tests.keys.store.faulty_store import settled

SAID = "was put back to an earlier state"


def row(generation: int, rest: bytes = b"nonce") -> bytes:
    return generation.to_bytes(8, "big") + rest


def reached(*rows: bytes) -> Reached:
    """Which has seen these rows of bucket 7, one after another."""
    made = Reached()
    for each in rows:
        made.require({sum_key(7): each}.get, [7])
    return made


def test_the_same_state_and_every_later_one_follow() -> None:
    seen = reached(row(2), row(2), row(300), row(301, b"another"))
    seen.wrote({sum_key(7): row(302), sum_key(8): row(1), b"K": b"a row", b"S": b"the fold"})
    seen.require({sum_key(7): row(302), sum_key(8): row(1)}.get, [7, 8])


@pytest.mark.parametrize("now", [row(299), row(300, b"another"), None])
def test_an_earlier_state_another_of_that_time_and_none_do_not(now: bytes | None) -> None:
    seen = reached(row(300))
    with pytest.raises(HistoryError, match=SAID):
        seen.require({sum_key(7): now}.get, [7])
    with pytest.raises(HistoryError, match=SAID):  # and never again
        seen.require({sum_key(7): row(301)}.get, [7])
    with pytest.raises(HistoryError, match=SAID):
        seen.require_never_put_back()


@pytest.mark.parametrize(("own", "is_kept"), [(row(4), True), (row(5), True), (row(3), False)])
def test_a_later_opening_is_held_to_an_earlier_one(own: bytes, is_kept: bool) -> None:
    seen = reached(own)
    seen.hold_to(reached(row(4)))
    if is_kept:
        seen.require_never_put_back()
    else:
        with pytest.raises(HistoryError, match=SAID):
            seen.require_never_put_back()


def test_a_store_notes_its_own_changes_and_what_it_looks_at(store: KeyringStore) -> None:
    before = store.require_kept()
    assert settled(store, [(b"K\x05", bytes(20))])
    real = getattr(store, "_inner", store)
    assert isinstance(real, MemoryKeyringStore | LmdbKeyringStore)
    assert store.require_kept(before) is before
    other = Reached()
    other.wrote({sum_key(5): row(1 << 40)})
    for act in (lambda: store.require_kept(other), store.require_writable, lambda: store.put([(b"K\x09", b"x" * 20)])):
        with pytest.raises(Exception, match=rf"{SAID}|was lost"):
            act()
    with pytest.raises(HistoryError, match=SAID):
        store.fold([])


def test_a_change_on_top_of_an_earlier_state_is_refused() -> None:
    store = MemoryKeyringStore()
    assert store.begin([], RowSums.under(Secret(bytes(32)), os.urandom))
    store.put([(b"a", b"1")])
    then = dict(store._rows)
    store.put([(b"b", b"2")])
    store._rows.update(then)
    for act in (lambda: store.put([(b"c", b"3")]), lambda: store.fold([]), store.require_kept, store.require_writable):
        with pytest.raises(HistoryError, match=SAID):
            act()
    assert store.get(b"c") is None
