"""Rows of the index that were removed, altered, planted or put back behind the store's back: no read returns them."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coffer.index.backends.lmdb_store import LmdbRowStore
from coffer.index.backends.row_store import Change
from coffer.index.backends.row_sum import BUCKETED, behind, bucket_of
from coffer.keys.errors import IndexAlteredError
from coffer.keys.memory.secret import Secret
from tests.keyless_index import Row, change_index, index_rows, place

KEY = Secret(bytes(32))
PARTS = 600  # over three buckets of studies, and many of everything else


def part(number: int) -> bytes:
    return number.to_bytes(8, "big")


def token(kind: int, number: int) -> bytes:
    return bytes([kind]) + number.to_bytes(2, "big") * 8


def rows_of_part(number: int) -> list[Change]:
    ref = part(number)
    found: list[Change] = [("study", ref, os.urandom(40)), ("uid", token(1, number * 7), ref)]
    found += [("series", ref + bytes(4), os.urandom(40)), ("instance", ref + bytes(8), os.urandom(40))]
    return [*found, ("uid", token(3, number * 11), ref + bytes(8))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A store of many parts, and `before`, the same without the last changes."""
    made = opened(tmp_path / "index")
    made.write(0, [row for number in range(1, PARTS) for row in rows_of_part(number)])
    made.close()
    shutil.copytree(tmp_path / "index", tmp_path / "before")
    made = opened(tmp_path / "index")
    made.write(0, [("study", part(5), b"newer"), ("uid", token(3, 8), b"12345678"), ("series", part(700), b"new")])
    made.close()
    return tmp_path / "index"


def opened(folder: Path, *, readonly: bool = False) -> LmdbRowStore:
    store = LmdbRowStore(folder, readonly=readonly)
    try:
        store.authenticate(KEY, os.urandom)
    except BaseException:
        store.close()
        raise
    return store


READS: dict[str, Callable[[LmdbRowStore, Row], object]] = {
    "get": lambda store, row: store.values(row[1]) if row[0] == "uid" else store.get(*row),
    "get_many": lambda store, row: store.get_many(row[0], [row[1]]) if row[0] != "uid" else store.values(row[1]),
    "scan": lambda store, row: everything(store, row[0]),
    "prefix": lambda store, row: store.scan(row[0], prefix=row[1][:-1]),
    "last": lambda store, row: store.last(row[0]) if row in LAST else store.scan(row[0], row[1][:-1], 1),
}
LAST: set[Row] = {("study", part(PARTS - 1)), ("series", part(700))}
TARGETS: list[Row] = [
    *(("study", part(n)) for n in (1, 5, 300, PARTS - 1)),
    ("series", part(700)),
    *(("instance", part(n) + bytes(8)) for n in (1, 17, PARTS - 1)),
    *(("uid", token(*one)) for one in ((1, 7), (3, 8), (3, 11 * (PARTS - 1)))),
]


def everything(store: LmdbRowStore, table: str) -> Iterator[tuple[bytes, bytes]] | list[tuple[bytes, bytes]]:
    found: list[tuple[bytes, bytes]] = []
    while page := store.scan(table, found[-1][0] if found else b"", 100):
        found += page
    return found


@pytest.mark.parametrize("readonly", [True, False], ids=["reader", "writer"])
@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("how", ["removed", "altered", "removed, sums computed", "put back", "put back with its sum"])
def test_no_read_returns_it(folder: Path, how: str, read: str, readonly: bool) -> None:
    good, before = index_rows(folder), index_rows(folder.parent / "before")
    for row in TARGETS:
        changes: dict[Row, tuple[bytes, ...] | None] = {row: None}
        if how == "altered":
            changes = {row: (bytes([good[row][0][0] ^ 1]) + good[row][0][1:],)}
        elif how.startswith("put back"):
            if before.get(row) == good[row]:
                continue
            changes = {row: before.get(row)}
            if how.endswith("sum"):
                changes[place(row)] = before.get(place(row))
        change_index(folder, changes, sums=how.endswith("computed"))
        with pytest.raises(IndexAlteredError, match="altered"):
            READS[read](opened(folder, readonly=readonly), row)
        change_index(
            folder, {key: good.get(key) for key in {*changes, *good} if key[0] in {row[0], "sums", "meta"}}, sums=False
        )
    store = opened(folder, readonly=readonly)
    for row in TARGETS:
        assert READS[read](store, row)
    assert store.complaint() is None
    store.close()


def test_a_planted_row_and_a_whole_bucket_that_is_gone(folder: Path) -> None:
    good = index_rows(folder)
    change_index(folder, {("uid", token(2, 999)): (part(1),)}, sums=False)
    store = opened(folder, readonly=True)
    with pytest.raises(IndexAlteredError):
        store.values(token(2, 999))
    assert store.values(token(1, 7)) == [part(1)]  # what is around another row is as it was written
    assert store.complaint() is not None
    store.close()
    change_index(folder, {("uid", token(2, 999)): None}, sums=False)
    where = place(("study", part(300)))
    bucket = {row: None for row in good if row[0] == "study" and place(row) == where}
    change_index(folder, bucket, sums=False)
    store = opened(folder, readonly=True)
    assert store.get("study", part(1)) is not None
    with pytest.raises(IndexAlteredError):
        everything(store, "study")
    store.close()
    change_index(folder, {**bucket, where: None})
    with pytest.raises(IndexAlteredError):
        opened(folder)


def test_a_writer_goes_on_beside_what_it_checked(folder: Path) -> None:
    """Every write moves sums: what was checked before stays known, and what another process wrote is checked anew."""
    writer = opened(folder)
    assert writer.values(token(3, 8)) == [b"12345678"]
    for number in range(800, 830):
        writer.write(0, rows_of_part(number))
        assert writer.values(token(1, number * 7)) == [part(number)]
    writer.write(0, [("uid", token(3, 8), None), ("study", part(1), None)])
    assert (writer.values(token(3, 8)), writer.get("study", part(1))) == ([], None)
    assert writer.complaint() is None
    writer.write(0, rows_of_part(900))
    assert writer.last("study") == part(900)
    writer.clear(0)
    assert (writer.last("study"), everything(writer, "uid"), writer.complaint()) == (None, [], None)
    writer.close()


@pytest.mark.parametrize("table", BUCKETED)
def test_buckets_are_in_the_order_of_their_rows(table: str) -> None:
    keys = sorted({os.urandom(size % 17 + 1) for size in range(3000)} | {b"\xff" * n for n in range(1, 17)})
    named = [bucket_of(table, key) for key in keys]
    assert named == sorted(named)
    for key, name in zip(keys, named, strict=True):
        after = behind(table, name)
        assert name <= key
        assert after is None or (key < after and bucket_of(table, after) > name)
