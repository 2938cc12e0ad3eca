"""The sums over a keyring's rows: what they find, with keys and without, and what two states of them show."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from coffer.keys.errors import IntegrityError, UnavailableError
from coffer.keys.memory.secret import Secret
from coffer.keys.store.keyring_store import KeyringStore
from coffer.keys.store.lmdb_store import LmdbKeyringStore
from coffer.keys.store.sums import RowSums, bucket_of, folded, is_older, sum_key
from tests.keyless import change, rows_of

ROOT = Secret(bytes(32))
ROWS = [(bytes([letter, bucket, 7]), bytes([bucket]) * 12) for letter in b"KTJ" for bucket in (0, 1, 255)]


@contextmanager
def opened(folder: Path, root: Secret | None = ROOT) -> Iterator[KeyringStore]:
    store = LmdbKeyringStore(folder)
    try:
        if root is not None:
            store.authenticate(RowSums.under(root, os.urandom))
        yield store
    finally:
        store.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store of some rows."""
    store = LmdbKeyringStore(tmp_path / "rows", create=True)
    assert store.begin([*ROWS, (b"H", b"header")], RowSums.under(ROOT, os.urandom))
    store.close()
    return tmp_path / "rows"


def test_a_change_moves_the_sums_of_its_buckets_only(folder: Path) -> None:
    before = rows_of(folder)
    assert sum(key[:1] == b"S" for key in before) == 256
    with opened(folder) as store:
        assert store.put([(b"T\x05new", b"value")], [ROWS[5][0]], expected=[ROWS[5]])
        assert store.complaint() is None
    after = rows_of(folder)
    moved = {key for key, value in after.items() if before.get(key) != value and key[:1] == b"S"}
    assert moved == {sum_key(5), sum_key(255)}
    assert {after[key][:8] for key in moved} == {(2).to_bytes(8, "big")}


@pytest.mark.parametrize("key", [*(key for key, _ in ROWS), b"H"])
@pytest.mark.parametrize("how", ["removed", "replaced", "planted"])
def test_no_row_is_altered_without_the_keys(folder: Path, key: bytes, how: str) -> None:
    """What needs no key is recomputed: then nobody without a key sees it, and everybody with the keys does."""
    change(folder, {key + b"\0more" if how == "planted" else key: None if how == "removed" else bytes([9]) * 12})
    with opened(folder, None) as store:
        assert store.complaint() is None
    with opened(folder) as store:
        assert "somebody who writes the disk" in (store.complaint() or "")
        with pytest.raises(IntegrityError, match="somebody who writes the disk"):
            store.require_right(range(256))
        assert store.put([(b"T\x02", b"elsewhere")])
        fresh = bytes([ord("T"), bucket_of(key)]) + b"on top"
        with pytest.raises(IntegrityError):
            store.put([(fresh, b"")])
        assert store.get(fresh) is None
    with opened(folder) as store:
        assert store.complaint() is not None


def test_a_sum_that_is_gone_is_not_made_again(folder: Path) -> None:
    change(folder, {sum_key(9): None})
    with opened(folder) as store:
        with pytest.raises(IntegrityError):
            store.put([(b"T\x09", b"")])
        assert store.complaint() is not None


def test_two_states_of_a_sum_do_not_show_the_row_between_them(folder: Path) -> None:
    """A row comes and goes, and no two steps of the sum are the same: the mask is another each time."""
    with opened(folder) as store:
        seen = [store.get(sum_key(8)) or b""]
        for _ in range(4):
            assert store.put([(b"T\x08", b"")])
            seen.append(store.get(sum_key(8)) or b"")
            assert store.put([], [b"T\x08"])
            seen.append(store.get(sum_key(8)) or b"")
    keyed = [int.from_bytes(value[24:56], "big") for value in seen]
    steps = [(after - before) % (1 << 256) for before, after in pairwise(keyed)]
    assert len({*steps, *(-step % (1 << 256) for step in steps)}) == 2 * len(steps)


def test_a_state_is_older_where_any_bucket_is_or_differs_at_the_same_generation() -> None:
    made = RowSums.under(ROOT, os.urandom)
    rows = sorted(made.first({}).items())
    now = folded(rows)
    assert not is_older(now, None)
    assert not is_older(now, now)
    for bucket in (0, 7, 255):
        at = 24 * bucket
        assert is_older(now, now[:at] + (2).to_bytes(8, "big") + now[at + 8 :])
        assert not is_older(now, now[:at] + bytes(24) + now[at + 24 :])
        assert is_older(now, now[: at + 8] + bytes(16) + now[at + 24 :])
    with pytest.raises(IntegrityError):
        folded(rows[1:])


def test_another_archives_keys_find_everything_wrong(folder: Path) -> None:
    with opened(folder, Secret(bytes([1]) * 32)) as store:
        assert store.complaint() is not None


def test_a_store_without_its_keys_is_not_written(folder: Path) -> None:
    with opened(folder, None) as store:
        with pytest.raises(UnavailableError, match="without its keys"):
            store.put([(b"T", b"")])
        with pytest.raises(UnavailableError, match="without its keys"):
            store.require_right(range(256))
