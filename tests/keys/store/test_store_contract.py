"""What `KeyringStore` promises, held by every implementation, also when answers are lost after the effect."""

from __future__ import annotations

import contextlib
import os
import threading
from random import Random

import pytest

from coffer.keys.errors import LockedError, UnavailableError
from coffer.keys.memory.secret import Secret
from coffer.keys.store import writes
from coffer.keys.store.keyring_store import KEYS_LOCK, KeyringStore, scan
from coffer.keys.store.sums import FOLD_KEY, RowSums
from tests.keys.store.faulty_store import settled

WRITERS, TURNS = 6, 8


def row(number: int, epoch: int = 1, size: int = 30) -> tuple[bytes, bytes]:
    """A row that is counted, in the group of its epoch."""
    return b"K" + number.to_bytes(4, "big"), bytes(8) + epoch.to_bytes(4, "big") + bytes(size)


def group(epoch: int) -> bytes:
    return epoch.to_bytes(4, "big")


def test_a_put_is_all_or_nothing_and_reads_are_of_one_state(store: KeyringStore) -> None:
    assert settled(store, [(b"a", b"1"), (b"b", b"2")], expected=[(b"a", None)])
    assert not settled(store, [(b"a", b"9"), (b"c", b"3")], [b"b"], expected=[(b"a", b"0")], gone=[bytes([7]) * 16])
    assert store.get_many([b"c", b"b", b"a", b"b"]) == [None, b"2", b"1", b"2"]
    assert store.changes(0) == (0, ())
    assert store.changes(-1) == (0, None)
    assert settled(store, [(b"b", b"3")], [b"a", b"b"], expected=[(b"a", b"1")])  # removed first, then written
    assert (store.get(b"a"), store.get(b"b")) == (None, b"3")
    assert store.complaint() is None


def test_the_same_put_again_after_an_unknown_end_changes_nothing(store: KeyringStore) -> None:
    change = [(b"a", b"1")], [b"b"], [(b"a", None)], [bytes([1]) * 16]
    assert settled(store, *change)
    for _ in range(20):
        with contextlib.suppress(UnavailableError):
            assert not store.put(*change)
    assert store.get(b"a") == b"1"
    assert store.changes(0) == (1, [bytes([1]) * 16])


def test_pages_follow_the_order_of_the_keys_under_their_prefix_only(store: KeyringStore) -> None:
    settled(store, [(key, key[::-1]) for key in (b"J", b"K", b"K\0", b"K\xff", b"Ka", b"Kb", b"L", b"") if key])
    under = [b"K", b"K\0", b"Ka", b"Kb", b"K\xff"]
    assert [key for key, _ in scan(store, b"K")] == under
    paged, after = [], b""
    while page := store.page(b"K", after, 2):
        paged += page
        after = page[-1][0]
    assert paged == [(key, key[::-1]) for key in under]
    assert store.page(b"K", b"Kaa", 9) == [(b"Kb", b"bK"), (b"K\xff", b"\xffK")]  # from behind a key that is not there
    assert store.page(b"M", b"", 9) == []
    seen: list[bytes] = []
    assert store.walk(b"Ka", lambda key, value: seen.extend((key, value))) == 1
    assert seen == [b"Ka", b"aK"]


def test_counts_are_kept_with_the_rows_in_their_groups(store: KeyringStore) -> None:
    settled(store, [row(1), row(2), row(3, epoch=2)])
    assert (store.count(b"K"), store.count(b"K", group(1)), store.count(b"K", group(2))) == (3, 2, 1)
    settled(store, [row(1, epoch=2), row(2), (b"T1", b"")], [row(3)[0], b"K none"])  # moved, unchanged, removed, absent
    assert (store.count(b"K"), store.count(b"K", group(1)), store.count(b"K", group(2))) == (2, 1, 1)
    settled(store, [], [row(1)[0], row(2)[0]])
    assert (store.count(b"K"), store.count(b"K", group(1))) == (0, 0)
    assert not scan(store, writes.COUNT_PREFIX)
    with pytest.raises(KeyError):
        store.count(b"T")
    assert store.complaint() is None


def test_the_feed_names_what_is_gone_in_order_and_says_when_it_no_longer_can(
    store: KeyringStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writes, "KEPT", 4)
    ids = [bytes([number]) * 16 for number in range(9)]
    for number in range(0, 6, 2):
        name = b"n", number.to_bytes(1, "big")
        before = None if number == 0 else (number - 2).to_bytes(1, "big")
        assert settled(store, [name], expected=[(b"n", before)], gone=ids[number : number + 2])
    assert store.changes(6) == (6, ())
    assert store.changes(5) == (6, ids[5:6])
    assert store.changes(2) == (6, ids[2:6])
    assert store.changes(1) == (6, None)  # too far behind
    assert store.changes(-1) == (6, None)  # whoever has seen nothing
    assert store.changes(7) == (6, None)  # the store is an older one than the caller has seen
    assert len(scan(store, writes.FEED_KEY)) == 1 + 4
    settled(store, [], [writes.FEED_KEY + (4).to_bytes(8, "big")])
    assert store.changes(3) == (6, None)  # a gap is none of nothing
    assert store.changes(4) == (6, ids[4:6])


def test_a_store_begins_once_and_counts_from_its_first_rows(bare: KeyringStore) -> None:
    sums = RowSums.under(Secret(bytes([7]) * 32), os.urandom)
    assert bare.begin([row(1), (b"a", b"1")], sums)
    assert not bare.begin([(b"a", b"2")], sums)
    assert (bare.get(b"a"), bare.count(b"K")) == (b"1", 1)
    assert bare.complaint() is None
    bare.require_right(range(256))


def test_a_fold_writes_its_rows_and_only_where_everything_is_right(store: KeyringStore) -> None:
    settled(store, [row(1), (b"a", b"1")])
    before = store.get(FOLD_KEY)
    store.fold([(b"a", b"2")])
    assert store.get(b"a") == b"2"
    assert store.get(FOLD_KEY) != before
    assert store.complaint() is None
    settled(store, [row(2)])
    assert store.complaint() is None


def test_a_wrong_count_is_a_complaint(store: KeyringStore) -> None:
    settled(store, [row(1), (b"a", b"1")])
    settled(store, [(b"a", b"2")])
    assert store.complaint() is None
    settled(store, [(writes.COUNT_PREFIX + b"K" + group(1), (2).to_bytes(8, "big"))])
    assert store.complaint() == "the keyring miscounts its keys"


def test_writers_at_once_lose_no_change_and_the_feed_has_their_order(store: KeyringStore) -> None:
    def write(writer: int) -> None:
        for turn in range(TURNS):
            own = b"w" + bytes([writer, turn]), b"done"
            while store.get(own[0]) is None:
                before = store.get(b"n")
                number = int.from_bytes(before or b"", "big") + 1
                expected = [(b"n", before), (own[0], None)]
                change = [(b"n", number.to_bytes(4, "big")), own, row(number)]
                settled(store, change, expected=expected, gone=[number.to_bytes(16, "big")])

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(WRITERS)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    total = WRITERS * TURNS
    assert store.get(b"n") == total.to_bytes(4, "big")
    assert store.count(b"K") == total
    assert store.changes(0) == (total, [number.to_bytes(16, "big") for number in range(1, total + 1)])
    assert store.complaint() is None


def test_any_sequence_of_changes_ends_as_a_dictionary_would(store: KeyringStore) -> None:
    seed = Random().randrange(1 << 32)
    print(f"seed {seed}")
    random, model = Random(seed), dict[bytes, bytes]()
    for _ in range(120):
        rows = [
            row(random.randrange(20), random.randrange(1, 4), random.randrange(3)) for _ in range(random.randrange(4))
        ]
        removed = [row(random.randrange(20))[0] for _ in range(random.randrange(3))]
        named = row(random.randrange(20))[0]
        expected = [(named, model.get(named) if random.random() < 0.7 else b"something else")]
        fits = all(model.get(key) == value for key, value in expected)
        if not fits:
            with contextlib.suppress(UnavailableError):
                assert not store.put(rows, removed, expected)
        else:
            assert settled(store, rows, removed, expected)
            for key in removed:
                model.pop(key, None)
            model.update(rows)
    assert dict(scan(store, b"K")) == model
    for epoch in range(1, 4):
        assert store.count(b"K", group(epoch)) == sum(value[8:12] == group(epoch) for value in model.values())
    assert store.complaint() is None


def test_one_at_a_time_holds_a_lock_and_others_learn_who(store: KeyringStore) -> None:
    mine, refused = store.lock(KEYS_LOCK), []

    def try_it() -> None:
        try:
            with store.lock(KEYS_LOCK).held("coffer keys destroy", 2):
                pass
        except LockedError as error:
            refused.append(str(error))

    assert mine.holder() is None
    with mine.held("coffer keys rotate", 1), mine.held("again", 1):
        who = store.lock(KEYS_LOCK).holder()
        assert who is not None
        assert (who.command, who.is_this_process()) == ("coffer keys rotate", True)
        other = threading.Thread(target=try_it)
        other.start()
        other.join()
        with store.lock("another").held("something else", 1):
            pass
    assert len(refused) == 1
    assert "coffer keys rotate" in refused[0]
    assert mine.holder() is None
    try_it()
    assert len(refused) == 1
