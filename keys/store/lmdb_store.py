"""A keyring's rows in an LMDB file: writes are durable on return.

Rule: sync and metasync stay on (a commit ends with fdatasync), meminit stays on (old heap bytes never reach the disk),
files are 0600 in a 0700 folder. A failed commit is final: writes raise UnavailableError until the store is reopened.
Transactions of one store never overlap, so the map may grow at any time. It knows nothing of what rows mean.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final

import lmdb

from coffer.keys.disk import durable, opening
from coffer.keys.disk.lmdb_environment import reason, refused
from coffer.keys.disk.lmdb_file import LmdbFile
from coffer.keys.disk.lock import ChangeLock
from coffer.keys.disk.syscalls import sync_folder, unavailable
from coffer.keys.errors import IntegrityError, LockedError, NotFoundError, UnavailableError
from coffer.keys.store.keyring_store import Changes, KeyringStore, NamedLock, Row
from coffer.keys.store.reached import Reached
from coffer.keys.store.sums import SUM_PREFIX, RowSums, bucket_of, require_known
from coffer.keys.store.trust import Trust
from coffer.keys.store.writes import COUNT_PREFIX, COUNTED, changes_after, count_in, folded, founded, planned

__all__ = ["LmdbKeyringStore"]

Changed = Mapping[bytes, bytes | None]
_FIRST_MAP: Final = 64 * 1024 * 1024  # address space, not disk; doubled when full
_DAMAGED: Final = (lmdb.CorruptedError, lmdb.InvalidError, lmdb.VersionMismatchError, lmdb.PageNotFoundError)
_RESTART: Final = "restart Coffer"
_RESTORE: Final = "stop the server, put the newest copy of the keyring folder back, then run coffer keys audit"


class LmdbKeyringStore(KeyringStore):
    """Implements `KeyringStore` in a folder. `create` makes it (make_folder, LMDB files, fsync of the folder)."""

    __slots__ = ("_failed", "_file", "_folder", "_identity", "_lock", "_readonly", "_trust")

    def __init__(
        self, folder: Path, *, create: bool = False, readonly: bool = False, map_bytes: int = _FIRST_MAP
    ) -> None:
        self._folder = folder
        self._readonly = readonly
        self._failed: UnavailableError | None = None
        self._lock = threading.Lock()
        self._trust = Trust()
        file = folder / "data.mdb"
        if create:
            durable.make_folder(folder, 0o700)
        elif not opening.exists(file):
            raise NotFoundError(f"there is no keyring in {folder}", hint=_RESTORE)
        size = opening.size(file) if opening.exists(file) else 0
        # A copy without a lock file has no writer. Opening it must not create one: the medium may be read-only.
        lock = folder / "lock.mdb"
        options: dict[str, Any] = {"map_size": max(map_bytes, 2 * size), "max_readers": 256}
        try:
            self._file = LmdbFile(
                file,
                lock if not readonly or opening.exists(lock) else None,
                create=create,
                readonly=readonly,
                **options,
            )
        except _DAMAGED as error:
            raise IntegrityError(f"the keyring in {folder} is damaged: {reason(error)}", hint=_RESTORE) from error
        except lmdb.Error as error:
            if "already open in this process" in str(error):
                raise LockedError(f"the keyring in {folder} is already open in this process") from error
            raise refused(f"cannot open the keyring in {folder}", error, folder) from error
        except OSError as error:
            raise unavailable(error, "open", file) from error
        self._identity = _identity(file)
        if create:
            sync_folder(folder)

    @property
    def name(self) -> str:
        """The folder that holds the files."""
        return str(self._folder)

    @contextlib.contextmanager
    def _transactions(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except _DAMAGED as error:
                raise IntegrityError(
                    f"the keyring in {self._folder} is damaged: {reason(error)}", hint=_RESTORE
                ) from error
            except lmdb.Error as error:
                raise refused(
                    f"the keyring in {self._folder} cannot be read or written", error, self._folder
                ) from error

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Any]:
        """A transaction that reads one state of the rows."""
        with self._transactions(), contextlib.ExitStack() as read:
            try:
                txn = read.enter_context(self._file.reading())
            except lmdb.PanicError:
                self._file.reopen()
                txn = read.enter_context(self._file.reading())
            yield txn

    def get(self, key: bytes) -> bytes | None:
        """As `KeyringStore.get`."""
        with self._reading() as txn:
            return _value(txn, key)

    def get_many(self, keys: Sequence[bytes]) -> Sequence[bytes | None]:
        """As `KeyringStore.get_many`."""
        with self._reading() as txn:
            return [_value(txn, key) for key in keys]

    def walk(self, prefix: bytes, visit: Callable[[bytes, bytes], None]) -> int:
        """As `KeyringStore.walk`. Holds one row in memory at a time."""
        with self._reading() as txn:
            return _walk(txn, [prefix], visit)

    def page(self, prefix: bytes, after: bytes, limit: int) -> Sequence[Row]:
        """As `KeyringStore.page`."""
        with self._reading() as txn:
            rows = (row for row in _from(txn, max(prefix, after), prefix) if row[0] != after)
            return list(islice(rows, limit))

    def count(self, prefix: bytes, group: bytes = b"") -> int:
        """As `KeyringStore.count`."""
        _ = COUNTED[prefix]
        place = COUNT_PREFIX + prefix + group
        with self._reading() as txn:
            return count_in(_from(txn, place, place))

    def changes(self, after: int) -> Changes:
        """As `KeyringStore.changes`."""
        with self._reading() as txn:
            return changes_after(lambda key: _value(txn, key), after)

    def put(
        self,
        rows: Sequence[tuple[bytes, bytes]],
        removed: Sequence[bytes] = (),
        expected: Sequence[tuple[bytes, bytes | None]] = (),
        gone: Sequence[bytes] = (),
    ) -> bool:
        """As `KeyringStore.put`: LMDB's commit ends with fdatasync. After an error nothing is written any more until
        the store is opened again. Raises UnavailableError."""
        if self._readonly:
            raise UnavailableError("the keyring is open for reading only")
        return self._committed(lambda: self._write(rows, removed, expected, gone))

    def fold(self, rows: Sequence[Row]) -> None:
        """As `KeyringStore.fold`; durable and after an error as `put`."""
        if self._readonly:
            raise UnavailableError("the keyring is open for reading only")
        self._committed(lambda: self._write_fold(rows))

    def begin(self, rows: Sequence[Row], sums: RowSums) -> bool:
        """As `KeyringStore.begin`."""
        if not self._committed(lambda: self._found(rows, sums)):
            return False
        self.authenticate(sums)
        return True

    def _committed(self, write: Callable[[], bool]) -> bool:
        """Do a transaction, in a map that is large enough for it."""
        with self._transactions():
            self.require_writable()  # reads still work: they see the last commit
            while True:
                try:
                    return write()
                except lmdb.MapFullError:
                    self._file.grow()
                except lmdb.MapResizedError:
                    self._file.adopt_size()
                except lmdb.Error as error:
                    self._failed = refused("the keyring stopped", error, self._folder, then=_RESTART)
                    raise self._failed from error

    def require_writable(self) -> None:
        """As `KeyringStore.require_writable`. A file that was replaced or removed while it was open takes nothing any
        more: what is written to it would be gone with this process."""
        if self._failed is not None:
            raise self._failed.with_traceback(None)  # its traceback would grow with each raise
        self._file.require_reachable()
        self._trust.reached.require_never_put_back()
        self._require_file()

    def _require_file(self) -> None:
        if not self._readonly and _identity(self._folder / "data.mdb") != self._identity:
            raise UnavailableError(
                f"the keyring's file in {self._folder} was replaced or removed while it was in use",
                hint=f"stop Coffer; see that {self._folder} is the newest keyring; then start it again",
            )

    def _write(
        self,
        rows: Sequence[Row],
        removed: Sequence[bytes],
        expected: Sequence[tuple[bytes, bytes | None]],
        gone: Sequence[bytes],
    ) -> bool:
        def change(txn: Any) -> Changed | None:
            if any(txn.get(key) != value for key, value in expected):
                return None
            return self._change(txn, planned(txn.get, rows, removed, gone, self._trust.sums()))

        return self._changed(change)

    def _write_fold(self, rows: Sequence[Row]) -> bool:
        def change(txn: Any) -> Changed:
            self._trust.reached.require(txn.get)
            return self._change(txn, folded(txn.get, rows, self._trust.sums()))

        return self._changed(change)

    def _changed(self, change: Callable[[Any], Changed | None]) -> bool:
        """Do a change in a transaction, and note how far the rows are then."""
        changed = self._file.write(change)
        if changed is not None:
            self._trust.reached.wrote(changed)
        return changed is not None

    def _change(self, txn: Any, changed: Changed) -> Changed:
        """Change rows whose buckets are right."""
        self._trust.require(map(bucket_of, changed), txn.get, partial(_walk, txn))
        _change(txn, changed)
        return changed

    def _found(self, rows: Sequence[Row], sums: RowSums) -> bool:
        def change(txn: Any) -> Changed | None:
            if txn.stat()["entries"]:
                return None
            _change(txn, first := founded(rows, sums))
            return first

        return self._changed(change)

    def authenticate(self, sums: RowSums) -> None:
        """As `KeyringStore.authenticate`."""
        self._trust.authenticate(sums)

    def complaint(self) -> str | None:
        """As `KeyringStore.complaint`."""
        return self._trust.complaint(lambda visit: self.walk(b"", visit))

    def require_right(self, buckets: Iterable[int], *, again: bool = False) -> None:
        """As `KeyringStore.require_right`."""
        with self._reading() as txn:
            count = txn.stat()["entries"]
        for step in self._trust.steps(buckets, count, again=again):
            with self._reading() as txn:
                self._trust.require(step, txn.get, partial(_walk, txn), again=again)

    def require_kept(self, since: Reached | None = None) -> Reached:
        """As `KeyringStore.require_kept`; UnavailableError where the file was replaced, as `require_writable`."""
        self._require_file()
        found: dict[bytes, bytes] = {}
        with self._reading() as txn:  # within it nothing is written, and the comparison is with this state
            if since is not None:
                self._trust.reached.hold_to(since)
            _walk(txn, [SUM_PREFIX], found.__setitem__)
            self._trust.reached.require(found.get)
        require_known(found.items())
        return self._trust.reached

    def lock(self, name: str) -> NamedLock:
        """As `KeyringStore.lock`: a flock on the file of this name beside the rows."""
        return ChangeLock(self._folder / name)

    def copy(self, fd: int, keys: Sequence[bytes]) -> list[bytes | None]:
        """Write a copy of the database, without its free pages, to a descriptor, and return the values that these keys
        have in the copy. Nothing is durable on return."""
        with self._reading() as txn:
            self._file.copy(fd, txn)
            return [_value(txn, key) for key in keys]

    def close(self) -> None:
        """Close the environment. Harmless when repeated; nothing waits to be written."""
        with self._lock:
            self._file.close()


def _identity(file: Path) -> tuple[int, int] | None:
    found = opening.status(file)
    return None if found is None else (found.st_dev, found.st_ino)


def _change(txn: Any, changed: Changed) -> None:
    for key, value in changed.items():
        if value is None:
            txn.delete(key)
        else:
            txn.put(key, value)


def _walk(txn: Any, prefixes: Iterable[bytes], visit: Callable[[bytes, bytes], None]) -> int:
    """Visit every row under these prefixes; 1 us for a prefix without any."""
    seen = 0
    with txn.cursor() as cursor:
        for prefix in prefixes:
            is_row = cursor.set_range(prefix)
            while is_row and (key := cursor.key()).startswith(prefix):
                visit(key, cursor.value())
                seen += 1
                is_row = cursor.next()
    return seen


def _value(txn: Any, key: bytes) -> bytes | None:
    value = txn.get(key)
    return None if value is None else bytes(value)


def _from(txn: Any, first: bytes, prefix: bytes) -> Iterator[Row]:
    """The rows under a prefix from the key `first` on."""
    with txn.cursor() as cursor:
        for key, value in cursor.iternext() if cursor.set_range(first) else ():
            if not key.startswith(prefix):
                return
            yield bytes(key), bytes(value)
