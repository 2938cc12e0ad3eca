"""What a keyring asks of the store that holds its rows.

Rule: the docstrings are the contract, and `tests/keys/store/test_store_contract.py` holds every implementation to it.
Whoever uses a store knows neither LMDB nor a folder. Rows are bytes under keys of bytes, compared byte by byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Final, NamedTuple, Protocol

from coffer.keys.disk.lock import Holder
from coffer.keys.store.reached import Reached
from coffer.keys.store.sums import RowSums

__all__ = ["KEYS_LOCK", "Changes", "KeyringStore", "NamedLock", "Row", "scan"]

Row = tuple[bytes, bytes]
KEYS_LOCK: Final = "LOCK"  # over the epochs, their keepers and their providers


class Changes(NamedTuple):
    """The number of the feed's newest entry, and the entries asked for, oldest first (an id may come more than once);
    None where they are not kept any more, or never were: then the caller drops whatever it follows the feed for."""

    counter: int
    gone: Sequence[bytes] | None


class NamedLock(Protocol):
    """A lock that one process, and one of its threads, holds at a time. Other than a lease (`keys.lease`) it has no
    epoch, and nobody is displaced: it keeps two from beginning the same work, and commits compare rows as well."""

    def held(self, command: str, since_ms: int) -> AbstractContextManager[None]:
        """Hold the lock while the block runs; reentrant in one thread of this object. Others are shown `command`.

        Raises LockedError, naming the holder. The lock of a process that has died is free.
        """

    def holder(self) -> Holder | None:
        """Return who holds it now, or None."""


class KeyringStore(Protocol):
    """The rows of one keyring. Thread-safe; several processes may use the rows at once.

    Reads see every change that was durable when they began, other processes' changes included, and work on after a
    write has failed. Every method raises UnavailableError where the store cannot be reached, IntegrityError where it
    is damaged.
    """

    @property
    def name(self) -> str:
        """Where the rows are, for messages to people."""

    def get(self, key: bytes) -> bytes | None:
        """Return the value under `key`, None where there is none."""

    def get_many(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        """Return the values under these keys, in their order, as they are together in one state of the rows."""

    def page(self, prefix: bytes, after: bytes, limit: int) -> Sequence[Row]:
        """Return up to `limit` rows under a prefix, in key order, from behind the key `after` on (b"": from the first
        on). Two pages may show two states of the rows."""

    def walk(self, prefix: bytes, visit: Callable[[bytes, bytes], None]) -> int:
        """Call `visit(key, value)` for every row under a prefix, in key order, in one state of the rows; return how
        many there were. Holds few rows in memory at a time. `visit` must not use this store."""

    def count(self, prefix: bytes, group: bytes = b"") -> int:
        """Return how many rows are under a prefix that is counted (`writes.COUNTED`), or how many of them belong to a
        group. Kept with every change and not walked: it costs the same however many there are. KeyError for another
        prefix."""

    def put(
        self,
        rows: Sequence[Row],
        removed: Sequence[bytes] = (),
        expected: Sequence[tuple[bytes, bytes | None]] = (),
        gone: Sequence[bytes] = (),
    ) -> bool:
        """Write and remove rows in one transaction, serializable, all or nothing; durable on return, on every copy
        that may ever take the place of this one.

        Where a row differs from `expected` (None: absent), nothing is written and False is returned: somebody else was
        faster, and the caller must read again. `gone` goes into the feed in the same transaction: ids of keys (16
        bytes) that were taken away, and `writes.SOMETHING_ELSE`.

        UnavailableError means *unknown*: the change was made or not, and no part of it. Calling again with the same
        `expected` is safe: what was made then answers False, and the caller, who reads again, finds its own change.
        Without `expected`, write only what may be written twice.

        Only after `authenticate`, else UnavailableError. The first change of a bucket of rows (`sums.bucket_of`) that
        this object makes reads all of the bucket, in the same transaction. IntegrityError, with nothing changed, where
        those rows are not the ones that were written.
        """

    def changes(self, after: int) -> Changes:
        """Return the feed's entries behind number `after`, in the order of the commits, without gaps; about 4 us when
        there are none. The newest `writes.KEPT` entries are kept. Whoever has seen none passes -1, and gets None."""

    def fold(self, rows: Sequence[Row]) -> None:
        """Write rows as `put`, and in the same transaction what state every bucket of rows is in, with a new lineage
        under which all are written from now on: a bucket that anybody puts back from before, or that a copy of this
        keyring writes, is not this keyring's any more. Raises IntegrityError, with nothing changed, where one is not
        this keyring's already. To be written twice does no harm."""

    def begin(self, rows: Sequence[Row], sums: RowSums) -> bool:
        """Write the first rows of an empty store, and the sums over them, as `put`; False where it has a row already.
        The store is authenticated then."""

    def authenticate(self, sums: RowSums) -> None:
        """From now on, write keyed sums with every change, and check rows by them; `sums` are those of `begin`."""

    def complaint(self) -> str | None:
        """Read every row and compare them with what the store keeps about them. Returns what is wrong, or None. About
        3 us a row. After `authenticate` no row can be removed, altered or put back without it, except by putting back
        all rows of a bucket with their sum as they were since the last `fold`; before, it finds accidents only."""

    def require_right(self, buckets: Iterable[int], *, again: bool = False) -> None:
        """Raise IntegrityError unless the rows of these buckets (`sums.bucket_of`) are those that were written. Only
        after `authenticate`. Where there are many rows, each bucket is read by itself, so that others wait for no more;
        once by this object, or with `again` now."""

    def require_kept(self, since: Reached | None = None) -> Reached:
        """Return how far the rows are. Reads the sums of all buckets, 0.2 ms, and no other row.

        Raises HistoryError where one is not as far as this object has written or seen it, or another one (`since`),
        from then on always, and every change does; IntegrityError where one is not this continuation's, as `fold`.
        """

    def require_writable(self) -> None:
        """Return if no write has failed for good. Raises UnavailableError with the cause otherwise, HistoryError where
        rows were seen to be put back."""

    def lock(self, name: str) -> NamedLock:
        """Return the lock of this name, which is the same one for everybody who uses these rows."""

    def close(self) -> None:
        """Let go of the store. Harmless when repeated; nothing waits to be written."""


def scan(store: KeyringStore, prefix: bytes) -> list[Row]:
    """Return the rows under a prefix in key order, as one state has them; for prefixes with few rows."""
    found: list[Row] = []
    store.walk(prefix, lambda key, value: found.append((key, value)))
    return found
