"""The index's rows in an LMDB file: sealed bytes under opaque keys, durable when `write` returns.

Rule: sync stays on (a commit ends with fdatasync), meminit stays on (old heap bytes never reach the disk), files are
0600 in a 0700 folder. Readers never wait for a commit, only while the map grows. A failed commit is final: the store
raises UnavailableError until it is opened again. LMDB leaves removed rows in free pages and gaps; where they must not
be found, a file without them replaces the old one (`compact`). It knows nothing of rows, keys or DICOM.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import lmdb

from coffer.index.backends.lmdb_sums import CheckedSums, WrittenSums
from coffer.index.backends.row_store import EPOCH_KEY, SUMS, TABLES, Change, IndexRowStore, Moment, checked_epoch
from coffer.index.backends.row_sum import RowSum
from coffer.keys.disk import durable, opening
from coffer.keys.disk.lmdb_environment import reason, refused
from coffer.keys.disk.lmdb_file import LmdbFile
from coffer.keys.disk.syscalls import sync_folder, unavailable
from coffer.keys.errors import CofferError, IntegrityError, LockedError, UnavailableError
from coffer.keys.memory.secret import Secret

__all__ = ["LmdbRowStore"]

_FIRST_MAP: Final = 1 << 36  # 64 GiB of address space, not of disk; doubled when full
_DAMAGED: Final = (lmdb.CorruptedError, lmdb.InvalidError, lmdb.VersionMismatchError, lmdb.PageNotFoundError)
_REBUILD: Final = "stop the server if one runs, then run `coffer index rebuild`: the log holds everything"
_PIECE: Final = 1 << 20


_ABOVE: Final = b"\xff" * 32  # behind every key that begins with a prefix
_FRESH: Final = ".data.mdb.new"  # as `keys.disk.durable.stage` names it


def _lock_of(fresh: Path) -> Path:
    return fresh.with_name(f"{fresh.name}-lock")


class _Moment(Moment):
    """The rows in one transaction."""

    def __init__(self, txn: Any, tables: dict[str, Any]) -> None:
        self._txn = txn
        self._tables = tables

    def get(self, table: str, key: bytes) -> bytes | None:
        value = self._txn.get(key, db=self._tables[table])
        return None if value is None else bytes(value)

    def rows(self, table: str) -> Iterator[tuple[bytes, bytes]]:
        with self._txn.cursor(db=self._tables[table]) as cursor:
            for key, value in cursor:
                yield bytes(key), bytes(value)


class LmdbRowStore(IndexRowStore):
    """An `IndexRowStore`: one LMDB environment with its five tables; one process writes, others may read beside it."""

    def __init__(self, folder: Path, *, readonly: bool = False, map_bytes: int = _FIRST_MAP) -> None:
        self._gate = threading.Condition()
        self._readers = 0
        self._growing = False
        self._failed: UnavailableError | None = None
        self._readonly = readonly
        self._sums = RowSum()
        self._checked = CheckedSums(self._sums)
        if readonly and not opening.exists(folder / "data.mdb"):
            raise UnavailableError(
                f"there is no index in {folder}",
                hint="coffer index rebuild makes it anew from the log; so does the next start of the server",
            )
        self._folder = folder
        if not readonly:
            durable.make_folder(folder, 0o700)
            for leftover in (_FRESH, _lock_of(Path(_FRESH)).name):  # of a `compact` that was interrupted
                if opening.exists(folder / leftover):
                    durable.remove(folder / leftover)
        try:
            self._file = self._open(folder / "data.mdb", folder / "lock.mdb", map_bytes)
        except (*_DAMAGED, lmdb.NotFoundError) as error:
            raise IntegrityError(f"the index in {folder} is damaged: {reason(error)}", hint=_REBUILD) from error
        except lmdb.Error as error:
            if "already open in this process" in str(error):
                raise LockedError(f"the index in {folder} is already open in this process") from error
            raise refused(f"cannot open the index in {folder}", error, folder) from error
        except OSError as error:
            raise unavailable(error, "open", folder / "data.mdb") from error
        if not readonly:
            sync_folder(folder)

    def _open(self, data: Path, lock: Path, map_bytes: int) -> LmdbFile:
        """Open LMDB's environment in a file."""
        tables = {name: name == "uid" for name in (*TABLES, SUMS)}
        options: dict[str, Any] = {"map_size": map_bytes, "max_dbs": 8, "max_readers": 256}
        return LmdbFile(data, lock, create=not self._readonly, readonly=self._readonly, tables=tables, **options)

    @property
    def _tables(self) -> dict[str, Any]:
        return self._file.tables

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Any]:
        try:
            with contextlib.ExitStack() as read:
                try:
                    txn = read.enter_context(self._counted())
                except lmdb.PanicError:
                    self._read_on()
                    txn = read.enter_context(self._counted())
                yield txn
        except _DAMAGED as error:
            raise IntegrityError(f"the index is damaged: {reason(error)}", hint=_REBUILD) from error
        except lmdb.Error as error:
            raise refused("the index cannot be read", error, self._folder) from error

    @contextlib.contextmanager
    def _counted(self) -> Iterator[Any]:
        """A transaction that reads, while the map stays where it is."""
        with self._gate:
            while self._growing:
                self._gate.wait()
            self._readers += 1
        try:
            with self._file.reading() as txn:
                yield txn
        finally:
            with self._gate:
                self._readers -= 1
                self._gate.notify_all()

    def _read_on(self) -> None:
        """Open the file anew, for reading, after LMDB gave it up; another thread may have done so."""
        with self._alone():
            try:
                with self._file.reading():
                    return
            except lmdb.PanicError:
                self._file.reopen()

    def get(self, table: str, key: bytes) -> bytes | None:
        """Return the value under `key` as of the last commit, or None."""
        with self._reading() as txn:
            self._require(txn, table, key, key)
            value = txn.get(key, db=self._tables[table])
            return None if value is None else bytes(value)

    def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return as many `get`s in one transaction, in the order of `keys`."""
        with self._reading() as txn:
            for key in keys:
                self._require(txn, table, key, key)
            found = [txn.get(key, db=self._tables[table]) for key in keys]
            return [None if value is None else bytes(value) for value in found]

    def values(self, token: bytes) -> list[bytes]:
        """Return every value under a key of `uid`, sorted."""
        with self._reading() as txn, txn.cursor(db=self._tables["uid"]) as cursor:
            self._require(txn, "uid", token, token)
            return [bytes(v) for v in cursor.iternext_dup()] if cursor.set_key(token) else []

    def scan(self, table: str, after: bytes = b"", most: int = 512, prefix: bytes = b"") -> list[tuple[bytes, bytes]]:
        """Return the first rows above `after` that begin with `prefix`: one short transaction for each page."""
        rows: list[tuple[bytes, bytes]] = []
        first, is_cut = max(after, prefix), False
        with self._reading() as txn, txn.cursor(db=self._tables[table]) as cursor:
            for key, value in cursor.iternext() if cursor.set_range(first) else ():
                if not key.startswith(prefix):
                    break
                if len(rows) >= most and key != rows[-1][0]:
                    is_cut = True
                    break
                if key != after:
                    rows.append((bytes(key), bytes(value)))
            # An answer that is not cut says that there are no more: then all that begins with the prefix was looked at.
            end = rows[-1][0] if is_cut else prefix + _ABOVE if prefix else None
            self._require(txn, table, first, end)
        return rows

    def last(self, table: str) -> bytes | None:
        """Return the greatest key of a table, or None."""
        with self._reading() as txn, txn.cursor(db=self._tables[table]) as cursor:
            found = bytes(cursor.key()) if cursor.last() else None
            self._require(txn, table, found or b"", None)
            return found

    def _require(self, txn: Any, table: str, first: bytes, last: bytes | None) -> None:
        """Raise IndexAlteredError unless the rows from `first` to `last` are those that were written. Without the key
        nothing is known of them."""
        if self._sums.is_keyed:
            self._checked.require(txn, self._tables, table, first, last)

    def count(self, table: str) -> int:
        """Return the number of rows of a table, which LMDB keeps."""
        with self._reading() as txn:
            return int(txn.stat(self._tables[table])["entries"])

    def write(self, epoch: int, changes: Sequence[Change]) -> None:
        """Make all changes in one transaction, all or nothing; durable on return (LMDB commit: fdatasync).

        Raises FencedError for an epoch below the highest one seen; UnavailableError if it fails, and from then on: the
        content on disk is then unchanged.
        """
        self._written(lambda txn: self._make(txn, epoch, changes))

    def clear(self, epoch: int) -> None:
        """Remove every row of every table but the epoch, durable on return. Raises the errors of `write`."""
        self._written(lambda txn: self._drop(txn, epoch))

    def _written(self, make: Callable[[Any], WrittenSums]) -> None:
        """Make changes in one transaction, in a map that is large enough for them."""
        if self._readonly:
            raise UnavailableError("the index is open for reading only")
        if not self._sums.is_keyed:
            raise UnavailableError("the index is open without its key: its rows are read and not written")
        if self._failed is not None:
            raise self._failed.with_traceback(None)  # each raise would add to its traceback
        while True:
            try:
                written = self._file.write(make)
            except lmdb.MapFullError:
                self._grow()
            except lmdb.Error as error:
                self._failed = refused("the index cannot be written", error, self._folder, then="restart Coffer")
                raise self._failed from error
            else:
                self._checked.moved(written)
                return

    def _make(self, txn: Any, epoch: int, changes: Sequence[Change]) -> WrittenSums:
        higher = checked_epoch(txn.get(EPOCH_KEY, db=self._tables["meta"]), epoch)
        sums = WrittenSums(self._sums, txn, self._tables)
        for change in changes:
            self._change(txn, sums, *change)
        if higher:
            self._change(txn, sums, "meta", EPOCH_KEY, higher)
        sums.write()
        return sums

    def _drop(self, txn: Any, epoch: int) -> WrittenSums:
        seen = txn.get(EPOCH_KEY, db=self._tables["meta"])
        kept = checked_epoch(seen, epoch) or seen
        for table in self._tables.values():
            txn.drop(table, delete=False)
        return self._make(txn, 0, [("meta", EPOCH_KEY, bytes(kept))] if kept else [])

    def _change(self, txn: Any, sums: WrittenSums, table: str, key: bytes, value: bytes | None) -> None:
        """Make one change, and the sums follow."""
        db = self._tables[table]
        if table == "uid":  # a set of values under each key
            with txn.cursor(db=db) as cursor:
                if value is None:
                    gone = list(cursor.iternext_dup()) if cursor.set_key(key) else []
                elif cursor.set_key_dup(key, value):
                    return
                else:
                    gone = []
        else:
            old = txn.get(key, db=db)
            gone = [] if old is None else [old]
        for old in gone:
            sums.add(table, key, bytes(old), sign=-1)
        if value is None:
            txn.delete(key, db=db)
            return
        txn.put(key, value, db=db)
        sums.add(table, key, value)

    def authenticate(self, key: Secret, random: Callable[[int], bytes]) -> None:
        """As `IndexRowStore.authenticate`; before, nothing is written. Reads the sums of all buckets: 4 us each."""
        self._sums = RowSum.under(key, random)
        self._checked = CheckedSums(self._sums)
        with self._reading() as txn:
            self._checked.require_top(txn, self._tables)

    def complaint(self, go_on: Callable[[], bool] = lambda: True) -> str | None:
        """As `IndexRowStore.complaint`, in one transaction: about 4 us a row. Writes go on meanwhile, but the pages
        that they free are not used again before the end. A writer that found nothing checks no more after that."""
        with self._reading() as txn:
            found = self._checked.complaint(txn, self._tables, go_on)
        if found is None and not self._readonly and self._sums.is_keyed and go_on():
            self._checked.trust()
        return found

    @contextlib.contextmanager
    def moment(self) -> Iterator[Moment]:
        """As `IndexRowStore.moment`: one transaction."""
        with self._reading() as txn:
            yield _Moment(txn, self._tables)

    def compact(self) -> None:
        """Replace the file by a copy of its present rows, without a byte of removed ones; durable on return. The caller
        must prevent writes meanwhile; readers wait only at the end.

        Readers in other processes continue in the old file, which has no name any more. Raises UnavailableError: then
        nothing has changed or, if it failed between the two renames, no more writes are accepted.
        """
        with contextlib.closing(self._copied()) as pieces:
            fresh = durable.stage(self._folder / "data.mdb", pieces)
        try:
            file = self._open(fresh, _lock_of(fresh), self._file.map_bytes)
        except (lmdb.Error, OSError) as error:
            raise UnavailableError(f"the index's copy cannot be opened: {error}", hint=_REBUILD) from error
        with self._alone():
            self._failed = UnavailableError("the index stopped while it was being rewritten", hint="restart Coffer")
            # The lock file first: a reader opens data, then lock, and must not read new data unseen by the writer.
            durable.install(_lock_of(fresh), self._folder / "lock.mdb", None)
            durable.install(fresh, self._folder / "data.mdb", None)
            self._failed = None
            old, self._file = self._file, file
            old.close()

    def copy(self, to: Path) -> None:
        """As `IndexRowStore.copy`."""
        with contextlib.closing(self._copied()) as pieces:
            durable.place(durable.stage(to, pieces), to)

    def _copied(self) -> Generator[bytes]:
        """A compacted copy of the file, in pieces. Raises UnavailableError."""
        out, into = os.pipe()
        failed: list[CofferError] = []

        def copy() -> None:
            try:
                with self._reading() as txn:
                    self._file.copy(into, txn)
            except CofferError as error:
                failed.append(error)
            except lmdb.Error as error:
                failed.append(refused("the index cannot be copied", error, self._folder))
            finally:
                os.close(into)

        copier = threading.Thread(target=copy, name="index copy")
        copier.start()
        try:
            with os.fdopen(out, "rb", buffering=0) as pipe:
                while piece := pipe.read(_PIECE):
                    yield piece
        finally:  # if the writer of the copy failed, the pipe is closed now and LMDB gets an error
            copier.join()
        if failed:
            raise failed[0]

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """No transaction of this process is open while the block runs: LMDB's map must not move during one."""
        with self._gate:
            self._growing = True
            try:
                while self._readers:
                    self._gate.wait()
                yield
            finally:
                self._growing = False
                self._gate.notify_all()

    def _grow(self) -> None:
        with self._alone():
            self._file.grow()

    def close(self) -> None:
        """Close the environment. Every write was durable when `write` returned."""
        self._file.close()
