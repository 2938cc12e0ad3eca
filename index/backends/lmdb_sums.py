"""The sums of an LMDB file's rows: moved with every write, and compared with the rows before these are read.

Rule: a bucket that was right once is right while its sum is the same, or was moved by this process: only writes of a
holder of the key move it, and whoever writes the disk beside them is found by reading all of it (`complaint`). All
methods work in a transaction of the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import takewhile
from typing import Any, Final

from coffer.index.backends.row_store import SUM_KEY, SUMS
from coffer.index.backends.row_sum import BUCKETED, RowSum, Total, behind, bucket_of, place_of, table_of
from coffer.keys.errors import IndexAlteredError

__all__ = ["CheckedSums", "WrittenSums", "altered"]

_ABSENT: Final = b""
_END: Final = b"\xff" * 32  # behind every key


def altered(what: str) -> IndexAlteredError:
    """Return the error for rows that are not those that were written."""
    return IndexAlteredError(
        f"the index was altered, by an accident or by somebody who writes the disk: {what}",
        hint="stop the server if one runs, then run `coffer index rebuild`: it keeps this index in lost+found, and the"
        " log holds everything",
    )


class WrittenSums:
    """The sums that one write moves. `add` each row that comes or goes, then `write`."""

    def __init__(self, sums: RowSum, txn: Any, tables: dict[str, Any]) -> None:
        self._sums = sums.batch()
        self._txn = txn
        self._tables = tables
        self._all = self._sums.opened(txn.get(SUM_KEY, db=tables["meta"]), b"")
        self._totals: dict[bytes, Total] = {}
        self.moved: dict[bytes, tuple[bytes, bytes]] = {}  # by place: the sum before and after, empty where absent

    def add(self, table: str, key: bytes, value: bytes, sign: int = 1) -> None:
        """Add a row, or take it away with `sign` -1."""
        if table not in BUCKETED:
            self._all.add(table, key, value, sign)
            return
        place = place_of(table, bucket_of(table, key))
        if place not in self._totals:
            kept = self._txn.get(place, db=self._tables[SUMS])
            self._totals[place] = self._sums.opened(kept, place)
            self.moved[place] = (_ABSENT if kept is None else bytes(kept), _ABSENT)
        self._totals[place].add(table, key, value, sign)

    def write(self) -> None:
        """Write the sums in the transaction. A bucket without rows has none."""
        db = self._tables[SUMS]
        for place, total in self._totals.items():
            before = self.moved[place][0]
            after = _ABSENT if total.is_none else self._sums.sealed(total, place)
            if before:
                self._all.add(SUMS, place, before, sign=-1)
            if after:
                self._all.add(SUMS, place, after)
                self._txn.put(place, after, db=db)
            else:
                self._txn.delete(place, db=db)
            self.moved[place] = before, after
        self._txn.put(SUM_KEY, self._sums.sealed(self._all, b""), db=self._tables["meta"])


class CheckedSums:
    """What this process has checked of the file. Thread-safe."""

    def __init__(self, sums: RowSum) -> None:
        self._sums = sums
        self._good: dict[bytes, bytes] = {}  # by place: the sum with which its rows agreed
        self._is_whole = False

    def require_top(self, txn: Any, tables: dict[str, Any]) -> None:
        """Raise IndexAlteredError unless `meta` and the sums of all buckets are those that were written."""
        if not self._is_top_right(txn, tables):
            raise altered("its sums are not those that were written")

    def _is_top_right(self, txn: Any, tables: dict[str, Any]) -> bool:
        sums, kept = self._sums.batch(), txn.get(SUM_KEY, db=tables["meta"])
        total = sums.total()
        for name in ("meta", SUMS):
            with txn.cursor(db=tables[name]) as cursor:
                for key, value in cursor:
                    if (name, key) != ("meta", SUM_KEY):
                        total.add(name, bytes(key), bytes(value))
        return sums.is_right(None if kept is None else bytes(kept), b"", total)

    def require(self, txn: Any, tables: dict[str, Any], table: str, first: bytes, last: bytes | None) -> None:
        """Raise IndexAlteredError unless the rows from `first` to `last` (None: to the table's end) are those that were
        written: those of every bucket between that has a sum, and of every one that has rows."""
        if self._is_whole or table not in BUCKETED:
            return
        end = _END if last is None else bucket_of(table, last)
        bucket = bucket_of(table, first)
        if bucket == end:
            self._require_bucket(txn, tables, table, bucket)
            return
        for each in takewhile(lambda found: found <= end, _buckets(txn, tables, table, bucket)):
            self._require_bucket(txn, tables, table, each)

    def _require_bucket(self, txn: Any, tables: dict[str, Any], table: str, bucket: bytes) -> None:
        place = place_of(table, bucket)
        kept = bytes(txn.get(place, db=tables[SUMS], default=_ABSENT))
        if self._good.get(place) == kept:
            return
        if not self._is_bucket_right(txn, tables, table, bucket, kept):
            raise altered("its rows are not those that were written")
        self._good[place] = kept

    def _is_bucket_right(self, txn: Any, tables: dict[str, Any], table: str, bucket: bytes, kept: bytes) -> bool:
        sums = self._sums.batch()
        total = sums.total()
        with txn.cursor(db=tables[table]) as cursor:
            for key, value in cursor if cursor.set_range(bucket) else ():
                if bucket_of(table, bytes(key)) != bucket:
                    break
                total.add(table, bytes(key), bytes(value))
        return sums.is_right(kept or None, place_of(table, bucket), total)

    def moved(self, written: WrittenSums) -> None:
        """Follow a write of this process that was committed."""
        for place, (before, after) in written.moved.items():
            if self._good.get(place) == before:
                self._good[place] = after

    def complaint(self, txn: Any, tables: dict[str, Any], go_on: Callable[[], bool]) -> str | None:
        """Read every row and return what is wrong, or None; None, too, where `go_on` says False."""
        if not self._is_top_right(txn, tables) or not all(map(_is_place, _keys(txn, tables[SUMS]))):
            return "its sums are not those that were written"
        for table in BUCKETED:
            for bucket in _buckets(txn, tables, table, b""):
                if not go_on():
                    return None
                kept = bytes(txn.get(place_of(table, bucket), db=tables[SUMS], default=_ABSENT))
                if not self._is_bucket_right(txn, tables, table, bucket, kept):
                    return "its rows are not those that were written"
        return None

    def trust(self) -> None:
        """Check no more: every row was found right, and only this process writes from then on."""
        self._is_whole = True
        self._good.clear()


def _keys(txn: Any, db: Any) -> Iterator[bytes]:
    with txn.cursor(db=db) as cursor:
        yield from map(bytes, cursor.iternext(keys=True, values=False))


def _is_place(key: bytes) -> bool:
    """Whether a bucket can have this key of a sum."""
    try:
        table, bucket = table_of(key)
    except ValueError:
        return False
    return bucket_of(table, bucket) == bucket


def _buckets(txn: Any, tables: dict[str, Any], table: str, first: bytes) -> Iterator[bytes]:
    """Every bucket of a table from `first` on that has rows or a sum, in order."""
    prefix = place_of(table, b"")
    with txn.cursor(db=tables[table]) as rows, txn.cursor(db=tables[SUMS]) as sums:
        at: bytes | None = first
        while at is not None:
            found: list[bytes] = []
            if rows.set_range(at) if at else rows.first():
                found.append(bucket_of(table, bytes(rows.key())))
            if sums.set_range(prefix + at) and bytes(sums.key()[:1]) == prefix:
                found.append(bytes(sums.key()[1:]))
            if not found:
                return
            yield min(found)
            at = behind(table, min(found))
