"""A keyring's rows in memory: for tests and simulations of the code that uses a store.

Rule: the same contract and the same rows as the store on a disk. Nothing survives the process, so nothing that must be
kept is put here. Whoever holds the object shares the rows, as processes share a folder; `close` keeps them.
"""

from __future__ import annotations

import contextlib
import threading
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice

from coffer.keys.disk.lock import Holder, this_process
from coffer.keys.errors import LockedError
from coffer.keys.store.keyring_store import Changes, KeyringStore, NamedLock, Row
from coffer.keys.store.reached import Reached
from coffer.keys.store.sums import SUM_PREFIX, RowSums, bucket_of, require_known
from coffer.keys.store.trust import Trust
from coffer.keys.store.writes import COUNT_PREFIX, COUNTED, changes_after, count_in, folded, founded, planned

__all__ = ["MemoryKeyringStore"]


class MemoryKeyringStore(KeyringStore):
    """Implements `KeyringStore` in one process."""

    def __init__(self) -> None:
        self._rows: dict[bytes, bytes] = {}
        self._sorted: list[bytes] = []
        self._lock = threading.Lock()
        self._locks: dict[str, _MemoryLock] = {}
        self._trust = Trust()

    @property
    def name(self) -> str:
        """As `KeyringStore.name`."""
        return "memory"

    def get(self, key: bytes) -> bytes | None:
        """As `KeyringStore.get`."""
        with self._lock:
            return self._rows.get(key)

    def get_many(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        """As `KeyringStore.get_many`."""
        with self._lock:
            return [self._rows.get(key) for key in keys]

    def page(self, prefix: bytes, after: bytes, limit: int) -> Sequence[Row]:
        """As `KeyringStore.page`."""
        with self._lock:
            return self._page(prefix, after, limit)

    def _page(self, prefix: bytes, after: bytes, limit: int) -> list[Row]:
        found: list[Row] = []
        for key in islice(self._sorted, bisect_left(self._sorted, max(prefix, after)), None):
            if not key.startswith(prefix) or len(found) == limit:
                break
            if key != after:
                found.append((key, self._rows[key]))
        return found

    def walk(self, prefix: bytes, visit: Callable[[bytes, bytes], None]) -> int:
        """As `KeyringStore.walk`."""
        with self._lock:
            return self._walk([prefix], visit)

    def _walk(self, prefixes: Iterable[bytes], visit: Callable[[bytes, bytes], None]) -> int:
        found = [row for prefix in prefixes for row in self._page(prefix, b"", len(self._sorted) + 1)]
        for key, value in found:
            visit(key, value)
        return len(found)

    def count(self, prefix: bytes, group: bytes = b"") -> int:
        """As `KeyringStore.count`."""
        _ = COUNTED[prefix]
        return count_in(self.page(COUNT_PREFIX + prefix + group, b"", len(self._sorted) + 1))

    def put(
        self,
        rows: Sequence[Row],
        removed: Sequence[bytes] = (),
        expected: Sequence[tuple[bytes, bytes | None]] = (),
        gone: Sequence[bytes] = (),
    ) -> bool:
        """As `KeyringStore.put`; durable for as long as this object lives."""
        with self._lock:
            if any(self._rows.get(key) != value for key, value in expected):
                return False
            self._change_right(planned(self._rows.get, rows, removed, gone, self._trust.sums()))
        return True

    def fold(self, rows: Sequence[Row]) -> None:
        """As `KeyringStore.fold`."""
        with self._lock:
            self._trust.reached.require(self._rows.get)
            self._change_right(folded(self._rows.get, rows, self._trust.sums()))

    def _change_right(self, changed: Mapping[bytes, bytes | None]) -> None:
        self._trust.require(map(bucket_of, changed), self._rows.get, self._walk)
        self._change(changed)
        self._trust.reached.wrote(changed)

    def begin(self, rows: Sequence[Row], sums: RowSums) -> bool:
        """As `KeyringStore.begin`."""
        with self._lock:
            if self._rows:
                return False
            self._change(founded(rows, sums))
        self.authenticate(sums)
        return True

    def _change(self, changed: Mapping[bytes, bytes | None]) -> None:
        for key, value in changed.items():
            self._set(key, value)

    def _set(self, key: bytes, value: bytes | None) -> None:
        if value is None:
            if self._rows.pop(key, None) is not None:
                del self._sorted[bisect_left(self._sorted, key)]
            return
        if key not in self._rows:
            insort(self._sorted, key)
        self._rows[key] = value

    def changes(self, after: int) -> Changes:
        """As `KeyringStore.changes`."""
        with self._lock:
            return changes_after(self._rows.get, after)

    def authenticate(self, sums: RowSums) -> None:
        """As `KeyringStore.authenticate`."""
        self._trust.authenticate(sums)

    def complaint(self) -> str | None:
        """As `KeyringStore.complaint`."""
        return self._trust.complaint(lambda visit: self.walk(b"", visit))

    def require_right(self, buckets: Iterable[int], *, again: bool = False) -> None:
        """As `KeyringStore.require_right`."""
        for step in self._trust.steps(buckets, len(self._rows), again=again):
            with self._lock:
                self._trust.require(step, self._rows.get, self._walk, again=again)

    def require_kept(self, since: Reached | None = None) -> Reached:
        """As `KeyringStore.require_kept`."""
        with self._lock:
            if since is not None:
                self._trust.reached.hold_to(since)
            self._trust.reached.require(self._rows.get)
            require_known(self._page(SUM_PREFIX, b"", len(self._sorted) + 1))
        return self._trust.reached

    def require_writable(self) -> None:
        """As `KeyringStore.require_writable`: memory always is."""
        self._trust.reached.require_never_put_back()

    def lock(self, name: str) -> NamedLock:
        """As `KeyringStore.lock`."""
        with self._lock:
            return self._locks.setdefault(name, _MemoryLock())

    def close(self) -> None:
        """Keep the rows, for whoever else holds this object."""


class _MemoryLock:
    """Implements `NamedLock` between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread = 0
        self._holder: Holder | None = None

    @contextlib.contextmanager
    def held(self, command: str, since_ms: int) -> Iterator[None]:  # noqa: ARG002  people see the command only
        """As `NamedLock.held`."""
        if self._thread == threading.get_ident():
            yield
            return
        if not self._lock.acquire(blocking=False):
            raise LockedError(f"the keys are being changed by {self._holder or 'another thread'}")
        self._thread, self._holder = threading.get_ident(), this_process(command)
        try:
            yield
        finally:
            self._thread, self._holder = 0, None
            self._lock.release()

    def holder(self) -> Holder | None:
        """As `NamedLock.holder`."""
        return self._holder
