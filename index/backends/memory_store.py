"""The index's rows in the memory of this process: for tests, and for an index that is made and thrown away.

Rule: it keeps the contract of `index.backends.row_store` except that nothing outlives the process.
"""

from __future__ import annotations

import contextlib
import threading
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from coffer.index.backends.row_store import EPOCH_KEY, TABLES, Change, IndexRowStore, Moment, checked_epoch
from coffer.keys.memory.secret import Secret

__all__ = ["MemoryRowStore"]

_SET: Final = "uid"  # the table with several values under a key


class _Table:
    """Keys in order, and the sorted values of each: one, but in `uid`."""

    def __init__(self) -> None:
        self.keys: list[bytes] = []
        self.values: dict[bytes, list[bytes]] = {}
        self.count = 0

    def remove(self, key: bytes) -> None:
        gone = self.values.pop(key, None)
        if gone is not None:
            del self.keys[bisect_left(self.keys, key)]
            self.count -= len(gone)

    def add(self, key: bytes, value: bytes) -> None:
        found = self.values.get(key)
        if found is None:
            found = self.values[key] = []
            insort(self.keys, key)
        if value not in found:
            insort(found, value)
            self.count += 1


class _Moment(Moment):
    """A copy of all rows."""

    def __init__(self, tables: dict[str, dict[bytes, list[bytes]]]) -> None:
        self._tables = tables

    def get(self, table: str, key: bytes) -> bytes | None:
        found = self._tables[table].get(key)
        return found[0] if found else None

    def rows(self, table: str) -> Iterator[tuple[bytes, bytes]]:
        for key, values in self._tables[table].items():
            yield from ((key, value) for value in values)


class MemoryRowStore(IndexRowStore):
    """An `IndexRowStore`. `close` keeps the rows: whoever holds the store may go on using it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tables = {name: _Table() for name in TABLES}

    def get(self, table: str, key: bytes) -> bytes | None:
        """Return the value under a key as of the last write, or None."""
        with self._lock:
            return self._get(table, key)

    def _get(self, table: str, key: bytes) -> bytes | None:
        found = self._tables[table].values.get(key)
        return found[0] if found else None

    def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return as many `get`s at once, in the order of `keys`."""
        with self._lock:
            return [self._get(table, key) for key in keys]

    def values(self, token: bytes) -> list[bytes]:
        """Return every value under a key of `uid`, sorted."""
        with self._lock:
            return list(self._tables[_SET].values.get(token, ()))

    def scan(self, table: str, after: bytes = b"", most: int = 512, prefix: bytes = b"") -> list[tuple[bytes, bytes]]:
        """Return the first rows above `after` that begin with `prefix`, as the contract says."""
        rows: list[tuple[bytes, bytes]] = []
        with self._lock:
            found = self._tables[table]
            at = max(bisect_right(found.keys, after), bisect_left(found.keys, prefix))
            while at < len(found.keys) and len(rows) < most and found.keys[at].startswith(prefix):
                rows += [(found.keys[at], value) for value in found.values[found.keys[at]]]
                at += 1
        return rows

    def last(self, table: str) -> bytes | None:
        """Return the greatest key of a table, or None."""
        with self._lock:
            keys = self._tables[table].keys
            return keys[-1] if keys else None

    def count(self, table: str) -> int:
        """Return the number of rows of a table."""
        with self._lock:
            return self._tables[table].count

    def write(self, epoch: int, changes: Sequence[Change]) -> None:
        """Make all changes at once. Raises FencedError for an epoch below the highest one seen."""
        with self._lock:
            self._record(checked_epoch(self._get("meta", EPOCH_KEY), epoch))
            for table, key, value in changes:
                if value is None or table != _SET:
                    self._tables[table].remove(key)
                if value is not None:
                    self._tables[table].add(key, value)

    def clear(self, epoch: int) -> None:
        """Remove every row but the epoch. Raises FencedError as `write`."""
        with self._lock:
            seen = self._get("meta", EPOCH_KEY)
            kept = checked_epoch(seen, epoch) or seen
            self._tables = {name: _Table() for name in TABLES}
            self._record(kept or b"")

    def _record(self, epoch: bytes) -> None:
        if epoch:
            self._tables["meta"].remove(EPOCH_KEY)
            self._tables["meta"].add(EPOCH_KEY, epoch)

    def compact(self) -> None:
        """Do nothing: no row is on disk."""

    def authenticate(self, key: Secret, random: Callable[[int], bytes]) -> None:
        """Do nothing: nobody else writes the rows."""

    def copy(self, to: Path) -> None:
        """Do nothing: no row is in a file."""

    def complaint(self, go_on: Callable[[], bool] = lambda: True) -> str | None:  # noqa: ARG002  nothing to read
        """Return None: the rows are the ones that were written."""
        return None

    @contextlib.contextmanager
    def moment(self) -> Iterator[Moment]:
        """As `IndexRowStore.moment`: a copy."""
        with self._lock:
            found = {name: {key: list(table.values[key]) for key in table.keys} for name, table in self._tables.items()}
        yield _Moment(found)

    def close(self) -> None:
        """Do nothing; see the class."""
