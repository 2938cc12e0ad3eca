"""The keyring's LMDB file: a key/value store whose writes are durable on return.

Rule: sync and metasync stay on (a commit ends with fdatasync), meminit stays on (old heap bytes never reach the disk),
files are 0600 in a 0700 folder. A failed commit is final: writes raise UnavailableError until the store is reopened.
Transactions of one store never overlap, so the map may grow at any time. It knows nothing of what rows mean.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import lmdb

from coffer.keys.disk import durable, opening
from coffer.keys.disk.lmdb_environment import environment, reason
from coffer.keys.disk.syscalls import sync_folder, unavailable
from coffer.keys.disk.volume import free_bytes
from coffer.keys.errors import IntegrityError, LockedError, NotFoundError, UnavailableError

__all__ = ["SUM_KEY", "RowStore", "refused"]

_FIRST_MAP: Final = 64 * 1024 * 1024  # address space, not disk; doubled when full
_DAMAGED: Final = (lmdb.CorruptedError, lmdb.InvalidError, lmdb.VersionMismatchError, lmdb.PageNotFoundError)
_FULL: Final = 64 * 1024  # bytes: less than a small commit needs
_RESTART: Final = "restart Coffer"
_RESTORE: Final = "stop the server, put the newest copy of the keyring folder back, then run coffer keys audit"
SUM_KEY: Final = b"S"  # LMDB has no checksums: the sum of all rows' hashes detects accidental damage


def _row_hash(key: bytes, value: bytes) -> int:
    """SHA-256(u16 key length || key || value) as a number."""
    return int.from_bytes(sha256(len(key).to_bytes(2, "big") + key + value).digest(), "big")


def refused(what: str, error: lmdb.Error, folder: Path, *, then: str = "") -> UnavailableError:
    """Return the UnavailableError for an error of LMDB. `what` starts the message, `then` ends the hint.

    LMDB reports a write cut short by a full disk as Input/output error, so the volume's free space is checked.
    """
    if isinstance(error, lmdb.DiskError) or _is_full(folder):
        return UnavailableError(
            f"{what}: no space is left on its volume",
            hint=f"free space on the volume that holds {folder}{then and ', then '}{then}",
        )
    return UnavailableError(
        f"{what}: {reason(error)}", hint=f"check the volume, its mount and its permissions{then and ', then '}{then}"
    )


def _is_full(folder: Path) -> bool:
    try:
        return free_bytes(folder) < _FULL
    except OSError:
        return False


class RowStore:
    """One LMDB environment. `create` makes the folder (make_folder, LMDB files, fsync of the folder)."""

    __slots__ = ("_env", "_failed", "_folder", "_lock", "_readonly")

    def __init__(
        self, folder: Path, *, create: bool = False, readonly: bool = False, map_bytes: int = _FIRST_MAP
    ) -> None:
        self._folder = folder
        self._readonly = readonly
        self._failed: UnavailableError | None = None
        self._lock = threading.Lock()
        file = folder / "data.mdb"
        if create:
            durable.make_folder(folder, 0o700)
        elif not opening.exists(file):
            raise NotFoundError(
                f"there is no keyring in {folder}", hint="restore it from its backup, or correct the path"
            )
        size = opening.size(file) if opening.exists(file) else 0
        # A copy without a lock file has no writer. Opening it must not create one: the medium may be read-only.
        lock = folder / "lock.mdb"
        options: dict[str, Any] = {"map_size": max(map_bytes, 2 * size), "max_readers": 256}
        try:
            self._env = environment(
                file,
                lock if not readonly or opening.exists(lock) else None,
                create=create,
                readonly=readonly,
                **options,
            )
        except _DAMAGED as error:
            raise IntegrityError(f"the keyring in {folder} is damaged: {error}", hint=_RESTORE) from error
        except lmdb.Error as error:
            if "already open in this process" in str(error):
                raise LockedError(f"the keyring in {folder} is already open in this process") from error
            raise refused(f"cannot open the keyring in {folder}", error, folder) from error
        except OSError as error:
            raise unavailable(error, "open", file) from error
        if create:
            sync_folder(folder)
        if not readonly:
            self._env.reader_check()  # a killed reader's slot would pin old pages, and old wrapped keys, for ever

    @property
    def folder(self) -> Path:
        """The folder that holds the files."""
        return self._folder

    @contextlib.contextmanager
    def _transactions(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except _DAMAGED as error:
                raise IntegrityError(f"the keyring in {self._folder} is damaged: {error}", hint=_RESTORE) from error
            except lmdb.Error as error:
                raise refused(
                    f"the keyring in {self._folder} cannot be read or written", error, self._folder
                ) from error

    def _begin_read(self) -> Any:
        try:
            return self._env.begin(buffers=False)
        except lmdb.MapResizedError:  # another process grew the file: adopt its size
            self._env.set_mapsize(0)
            return self._env.begin(buffers=False)

    def get(self, key: bytes) -> bytes | None:
        """Return the value under `key`, None where there is none; other processes' commits included."""
        with self._transactions(), self._begin_read() as txn:
            value = txn.get(key)
            return None if value is None else bytes(value)

    def walk(self, prefix: bytes, visit: Callable[[bytes, bytes], None]) -> int:
        """Call `visit(key, value)` for the rows whose key starts with `prefix`, in key order, in one consistent state.

        Returns the number of rows. Holds one row in memory at a time; `visit` must not use this store.
        """
        seen = 0
        with self._transactions(), self._begin_read() as txn, txn.cursor() as cursor:
            for key, value in cursor.iternext() if cursor.set_range(prefix) else ():
                if not key.startswith(prefix):
                    break
                visit(bytes(key), bytes(value))
                seen += 1
        return seen

    def page(self, prefix: bytes, after: bytes, limit: int) -> list[tuple[bytes, bytes]]:
        """Return up to `limit` rows under a prefix, in key order, starting behind the key `after` (b"": at the
        first)."""
        found: list[tuple[bytes, bytes]] = []
        with self._transactions(), self._begin_read() as txn, txn.cursor() as cursor:
            for key, value in cursor.iternext() if cursor.set_range(max(prefix, after)) else ():
                if not key.startswith(prefix) or len(found) == limit:
                    break
                if key != after:
                    found.append((bytes(key), bytes(value)))
        return found

    def scan(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        """Return the rows under a prefix as a list, in key order; for prefixes with few rows, not for all studies."""
        found: list[tuple[bytes, bytes]] = []
        self.walk(prefix, lambda key, value: found.append((key, value)))
        return found

    def put(
        self,
        rows: Sequence[tuple[bytes, bytes]],
        removed: Sequence[bytes] = (),
        expected: Sequence[tuple[bytes, bytes | None]] = (),
    ) -> bool:
        """Write and remove rows in one transaction, all or nothing; durable on return (LMDB's commit: fdatasync).

        Where a row differs from `expected` (None: absent), nothing is written and False is returned: another process
        was faster, and the caller must read again. Raises UnavailableError.
        """
        if self._readonly:
            raise UnavailableError("the keyring is open for reading only")
        with self._transactions():
            self.require_writable()  # reads still work: they see the last commit
            while True:
                try:
                    return self._write(rows, removed, expected)
                except lmdb.MapFullError:
                    self._env.set_mapsize(2 * self._env.info()["map_size"])
                except lmdb.MapResizedError:
                    self._env.set_mapsize(0)
                except lmdb.Error as error:
                    self._failed = refused("the keyring stopped", error, self._folder, then=_RESTART)
                    raise self._failed from error

    def require_writable(self) -> None:
        """Return if no write has failed so far. Raises UnavailableError with the cause otherwise."""
        if self._failed is not None:
            raise self._failed.with_traceback(None)  # its traceback would grow with each raise

    def _write(
        self,
        rows: Sequence[tuple[bytes, bytes]],
        removed: Sequence[bytes],
        expected: Sequence[tuple[bytes, bytes | None]],
    ) -> bool:
        with self._env.begin(write=True) as txn:
            if any(txn.get(key) != value for key, value in expected):
                return False
            total = int.from_bytes(txn.get(SUM_KEY) or b"", "big")
            for key, value in [*((key, None) for key in removed), *rows]:
                old = txn.get(key)
                total -= _row_hash(key, old) if old is not None else 0
                if value is None:
                    txn.delete(key)
                else:
                    txn.put(key, value)
                    total += _row_hash(key, value)
            txn.put(SUM_KEY, (total % (1 << 256)).to_bytes(32, "big"))
        return True

    def complaint(self) -> str | None:
        """Read every row and compare them with the stored sum. Returns what is wrong, or None. About 1 us a row."""
        total, kept = 0, self.get(SUM_KEY)

        def add(key: bytes, value: bytes) -> None:
            nonlocal total
            total += _row_hash(key, value) if key != SUM_KEY else 0

        self.walk(b"", add)
        return None if kept == (total % (1 << 256)).to_bytes(32, "big") else "the rows are not those that were written"

    def close(self) -> None:
        """Close the environment. Harmless when repeated; nothing waits to be written."""
        with self._lock:
            self._env.close()
