"""One LMDB file that a process holds open: no wait for LMDB's lock is endless, and a file that LMDB gave up is read on.

Rule: LMDB's locks and its list of readers lie in memory that processes share through the lock file. Whoever can write
that file can leave a lock in it that nobody releases. So opening and writing are done in a thread that is left behind
where it does not come back. A reader is given the transaction of an earlier one, which has its place in the list and
takes no lock; where several read at once, the lock over the list is looked at before. Whoever opens the file for
writing while nobody else has it open begins a new lock file (`keys.disk.lmdb_environment`). What the rows mean is not
known here.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from coffer.keys.disk import opening
from coffer.keys.disk.helper_thread import HelperThread
from coffer.keys.disk.lmdb_environment import begun, environment, locked_out, readers_go_on
from coffer.keys.disk.syscalls import converted
from coffer.keys.errors import UnavailableError

__all__ = ["LmdbFile"]

T = TypeVar("T")
_PATIENCE_SECONDS: Final = 30.0  # many times what the slowest commit of another process takes
_open_here: Final[set[tuple[int, int]]] = (
    set()
)  # lock files: closing another descriptor of one would release LMDB's locks
_left_behind: Final[list[Any]] = []  # environments in which a thread waits: closing one would pull its memory away


class LmdbFile:
    """An environment in the file `data`, with its lock file (None: without one), and the databases in it that `tables`
    names: name to whether a key has several values. Reads are thread-safe; the caller keeps writes in turn, and
    everything that says so alone."""

    def __init__(
        self,
        data: Path,
        lock: Path | None,
        *,
        create: bool,
        readonly: bool,
        tables: Mapping[str, bool] | None = None,
        **options: Any,
    ) -> None:
        """Raises as `environment`, and UnavailableError where LMDB's lock is not to be had."""
        self.is_readonly = readonly
        self._data = data
        self._lock = lock
        self._names = dict(tables or {})
        self._options = options
        self._helper = HelperThread(f"LMDB {data.parent.name}")
        self._stuck: UnavailableError | None = None
        # LMDB's binding keeps one transaction that nobody refers to any more for the next reader: is there one?
        self._spare: list[weakref.ref[Any]] = []
        self._used: dict[int, weakref.ref[Any]] = {}
        self.tables: dict[str, Any] = {}
        try:
            self._open(create=create)
        except BaseException:
            self._helper.end()
            raise

    def _open(self, *, create: bool) -> None:
        def opened(waits_no_more: Callable[[], None]) -> tuple[Any, int, dict[str, Any]]:
            is_first = _identity(self._lock) not in _open_here
            how = self._options | {"create": create, "readonly": self.is_readonly, "max_spare_txns": 1}
            env, fd = environment(self._data, self._lock, is_first=is_first, seconds=_PATIENCE_SECONDS, **how)
            try:
                make = create or not self.is_readonly
                tables = {name: env.open_db(name.encode(), create=make, dupsort=d) for name, d in self._names.items()}
                if not self.is_readonly:
                    env.reader_check()  # a killed reader's place would pin old pages, and old wrapped keys, for ever
                self._noted(begun(env)).abort()
                waits_no_more()
            except BaseException:
                _close(env, fd)
                raise
            return env, fd, tables

        self._env, self._fd, self.tables = self._bounded(opened)
        self._here = _identity(self._lock)
        if self._here is not None:
            _open_here.add(self._here)
        if self.is_readonly:
            self._helper.rest()  # a receiving process confines itself after this, while it has one thread

    def _bounded(self, work: Callable[[Callable[[], None]], T]) -> T:
        self.require_reachable()
        try:
            return self._helper.do(work, _PATIENCE_SECONDS + 1)
        except TimeoutError:
            self._stuck = locked_out(self._data, self._lock, _PATIENCE_SECONDS)
        raise self._stuck

    def require_reachable(self) -> None:
        """Raise the UnavailableError that a wait for LMDB's lock ended with, while its thread still waits."""
        if self._stuck is not None and self._helper.is_busy:
            raise self._stuck.with_traceback(None)  # its traceback would grow with each raise
        self._stuck = None

    @contextlib.contextmanager
    def reading(self) -> Iterator[Any]:
        """A transaction that reads one state. Raises lmdb.Error: PanicError where `reopen` helps; UnavailableError."""
        txn = self._again_or_further()
        try:
            yield txn
        finally:
            txn.abort()

    def _again_or_further(self) -> Any:
        is_spare = bool(self._spare)
        while self._spare:
            self._used.pop(id(self._spare.pop()), None)
        if not is_spare:
            with converted("read", self._lock or self._data):
                goes_on = readers_go_on(self._fd, _PATIENCE_SECONDS)
            if not goes_on:
                raise locked_out(self._data, self._lock, _PATIENCE_SECONDS)
        return self._noted(begun(self._env))

    def _noted(self, txn: Any) -> Any:
        """Learn when nobody refers to a transaction any more, in the same instant as the binding does."""
        used = weakref.ref(txn, self._spare.append)
        self._used[id(used)] = used
        return txn

    def write(self, work: Callable[[Any], T]) -> T:
        """Do `work` in a transaction, which is durable on return (LMDB's commit: fdatasync), or aborted where it
        raises. Raises lmdb.Error, and UnavailableError where LMDB's lock is not to be had: then nothing was done."""

        def done(waits_no_more: Callable[[], None]) -> T:
            with self._env.begin(write=True) as txn:
                waits_no_more()
                return work(txn)

        return self._bounded(done)

    def grow(self) -> None:
        """Double the map. Call it alone."""
        self._env.set_mapsize(2 * self.map_bytes)

    def adopt_size(self) -> None:
        """Take over the size that another process gave the map. Call it alone."""
        self._env.set_mapsize(0)

    @property
    def map_bytes(self) -> int:
        """The size of the map: of address space, not of the file."""
        return int(self._env.info()["map_size"])

    def copy(self, fd: int, txn: Any) -> None:
        """Write a copy of a read transaction's state, without free pages, to a descriptor. Raises lmdb.Error."""
        self._env.copyfd(fd, compact=True, txn=txn)

    def reopen(self) -> None:
        """Open the file anew, for reading only: after a write of its meta page failed, LMDB refuses even to read. What
        is read from then on is the last commit, or the one that failed, whole. Call it alone. Raises as the
        constructor."""
        self.is_readonly = True
        self._close_environment()
        self._open(create=False)

    def close(self) -> None:
        """Close the file; nothing waits to be written. Harmless when repeated."""
        self._helper.end()
        if self._helper.is_busy:
            _left_behind.append(self._env)
            return
        self._close_environment()

    def _close_environment(self) -> None:
        _close(self._env, self._fd)
        self._fd = -1
        self._used = {}
        self._spare = []  # a new one: what is left of the old ones counts there
        if self._here is not None:
            _open_here.discard(self._here)
            self._here = None  # another opening may have it by the time of a second call


def _close(env: Any, fd: int) -> None:
    env.close()
    if fd >= 0:
        os.close(fd)


def _identity(file: Path | None) -> tuple[int, int] | None:
    found = None if file is None else opening.status(file)
    return None if found is None else (found.st_dev, found.st_ino)
