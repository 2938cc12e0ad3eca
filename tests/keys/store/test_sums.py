"""The sums over a keyring's rows: what they find, with keys and without, and what two states of them show."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from coffer.keys.errors import IntegrityError, UnavailableError
from coffer.keys.memory.secret import Secret
from coffer.keys.store import trust
from coffer.keys.store.keyring_store import KeyringStore
from coffer.keys.store.lmdb_store import LmdbKeyringStore
from coffer.keys.store.sums import FOLD_KEY, Fold, RowSums, bucket_of, sum_key
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
    assert sum(key[:1] == b"S" for key in before) == 256 + 1
    with opened(folder) as store:
        assert store.put([(b"T\x05new", b"value")], [ROWS[5][0]], expected=[ROWS[5]])
        assert store.complaint() is None
    after = rows_of(folder)
    moved = {key for key, value in after.items() if before.get(key) != value and key[:1] == b"S"}
    assert moved == {sum_key(5), sum_key(255)}
    assert {after[key][:8] for key in moved} == {(2).to_bytes(8, "big")}


@pytest.mark.parametrize("key", [*(key for key, _ in ROWS), b"H"])
@pytest.mark.parametrize("how", ["removed", "replaced", "planted"])
def test_no_row_is_altered_without_the_keys(
    folder: Path, monkeypatch: pytest.MonkeyPatch, key: bytes, how: str
) -> None:
    """What needs no key is recomputed: then nobody without a key sees it, and everybody with the keys does."""
    change(folder, {key + b"\0more" if how == "planted" else key: None if how == "removed" else bytes([9]) * 12})
    with opened(folder, None) as store:
        assert store.complaint() is None
    with opened(folder) as store:
        assert "somebody who writes the disk" in (store.complaint() or "")
        for few in (0, 4096):  # each bucket by itself, then all at once
            monkeypatch.setattr(trust, "_FEW", few)
            with pytest.raises(IntegrityError, match="somebody who writes the disk"):
                store.require_right(range(256))
        if bucket_of(key) != 0:  # where the fold is, by which all are judged
            assert store.put([(b"T\x02", b"elsewhere")])
        fresh = bytes([ord("T"), bucket_of(key)]) + b"on top"
        with pytest.raises(IntegrityError):
            store.put([(fresh, b"")])
        assert store.get(fresh) is None
    with opened(folder) as store:
        assert store.complaint() is not None


def test_a_large_keyring_is_read_in_steps_and_each_bucket_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for few, steps in ((0, 256), (4096, 1)):
        monkeypatch.setattr(trust, "_FEW", few)
        with opened(folder) as store, monkeypatch.context() as patch:
            seen: list[set[int]] = []
            patch.setattr(trust, "require_right", lambda new, *_, seen=seen: seen.append(set(new) - {0}))
            store.require_right(range(256))
            assert len(seen) == steps
            assert sorted(bucket for each in seen for bucket in each) == [*range(1, 256)]
            store.require_right(range(256))
            assert len(seen) == steps
            store.require_right([7], again=True)
            assert seen[-1] == {7}


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
    keyed = [int.from_bytes(value[40:72], "big") for value in seen]
    steps = [(after - before) % (1 << 256) for before, after in pairwise(keyed)]
    assert len({*steps, *(-step % (1 << 256) for step in steps)}) == 2 * len(steps)


def bucket_in(rows: dict[bytes, bytes], bucket: int) -> dict[bytes, bytes | None]:
    """All rows of a bucket, and its sums."""
    return {key: value for key, value in rows.items() if bucket_of(key) == bucket}


def transplanted(folder: Path, rows: dict[bytes, bytes], bucket: int) -> None:
    """Put a bucket with its sums as it is in `rows` in the place of the folder's."""
    change(folder, dict.fromkeys(bucket_in(rows_of(folder), bucket)) | bucket_in(rows, bucket))


def require_found(folder: Path, bucket: int) -> None:
    for root in (ROOT, None):  # whoever has no key sees it, too
        with opened(folder, root) as store:
            assert "put back" in (store.complaint() or "")
    with opened(folder) as store:
        for act in (
            lambda: store.put([(bytes([ord("T"), bucket]), b"")]),
            lambda: store.fold([]),
            lambda: store.require_right([bucket]),
        ):
            with pytest.raises(IntegrityError, match="put back"):
                act()


@pytest.mark.parametrize("bucket", [5, 255])  # with bucket 0 goes the checkpoint that the keyring remembers
def test_a_bucket_from_before_the_last_fold_is_found(folder: Path, bucket: int) -> None:
    before = rows_of(folder)
    with opened(folder) as store:
        assert store.put([(bytes([ord("L"), bucket]), b"a hold")])
        store.fold([])
    now = rows_of(folder)
    transplanted(folder, before, bucket)
    require_found(folder, bucket)
    transplanted(folder, now, bucket)
    with opened(folder) as store:
        assert store.complaint() is None


@pytest.mark.parametrize("folds", ["neither", "the copy", "both"])
@pytest.mark.parametrize("bucket", [5, 255])
def test_a_bucket_that_a_copy_wrote_is_found_at_once(folder: Path, tmp_path: Path, bucket: int, folds: str) -> None:
    """Both go on from one state, as a restore drill does on another host."""
    with opened(folder) as store:
        assert store.put([(bytes([ord("L"), bucket]), b"a hold")])
        store.fold([])
    shutil.copytree(folder, tmp_path / "copy")
    with opened(tmp_path / "copy") as store:
        store.fold([])  # as its writer does when it opens
        assert store.put([], [bytes([ord("L"), bucket])])
        if folds != "neither":
            store.fold([])
    with opened(folder) as store:
        assert store.put([(b"T\x07", b"")])
        if folds == "both":
            store.fold([])
    transplanted(folder, rows_of(tmp_path / "copy"), bucket)
    require_found(folder, bucket)


def test_a_fold_follows_what_other_processes_write_and_knows_it(folder: Path) -> None:
    with opened(folder) as store:
        lineages = set()
        for number in range(4):
            assert store.put([(b"T" + bytes([number]), b"")])
            store.fold([(b"W", b"note")])
            lineages.add((store.get(FOLD_KEY) or b"")[:16])
            assert store.complaint() is None
    assert len(lineages) == 4
    assert rows_of(folder)[b"W"] == b"note"


def test_a_fold_knows_the_state_it_kept_and_what_its_lineage_wrote_later() -> None:
    fold = Fold(b"L" * 16, ((5).to_bytes(8, "big") + b"n" * 16) * 256)

    def row(generation: int, lineage: bytes, nonce: bytes) -> bytes:
        return generation.to_bytes(8, "big") + lineage * 16 + nonce * 16

    assert fold.knows(7, row(5, b"K", b"n"))
    assert fold.knows(7, row(6, b"L", b"m"))
    assert fold.knows(7, row(256, b"L", b"m"))
    for unknown in (row(5, b"L", b"m"), row(4, b"L", b"m"), row(6, b"K", b"m"), row(6, b"K", b"n"), b""):
        assert not fold.knows(7, unknown)


def test_a_fold_that_is_gone_is_not_made_again(folder: Path) -> None:
    change(folder, {FOLD_KEY: None})
    require_found(folder, 9)


def test_another_archives_keys_find_everything_wrong(folder: Path) -> None:
    with opened(folder, Secret(bytes([1]) * 32)) as store:
        assert store.complaint() is not None


def test_a_store_without_its_keys_is_not_written(folder: Path) -> None:
    with opened(folder, None) as store:
        with pytest.raises(UnavailableError, match="without its keys"):
            store.put([(b"T", b"")])
        with pytest.raises(UnavailableError, match="without its keys"):
            store.require_right(range(256))
