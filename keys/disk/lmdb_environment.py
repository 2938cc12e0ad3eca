"""Open an LMDB environment whose two files lie in a folder that others can write to.

Rule: LMDB opens files by name, follows links, and writes to and resizes whatever the name of its lock file leads to. So
it is given names in a private folder that lead to files we hold open and have checked: a file swapped in meanwhile is
not opened. Handles are O_PATH: closing one releases no lock that LMDB holds on the file. Whoever opens a file to write
it, and is the only one who has it open, begins a new lock file: in an old one may be anything.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import lmdb

from coffer.keys.disk import durable, opening
from coffer.keys.disk.lmdb_pages import require_sound, states
from coffer.keys.disk.lock import in_turn
from coffer.keys.disk.volume import free_bytes
from coffer.keys.errors import IntegrityError, UnavailableError

__all__ = ["begun", "environment", "locked_out", "readers_go_on", "reason", "refused"]

_FULL: Final = 64 * 1024  # bytes: less than a small commit needs
_NAMES: Final = Path("/proc/self/fd")  # names of open files
_KIND: Final = getattr(os, "O_PATH", os.O_RDONLY) if _NAMES.is_dir() else os.O_RDONLY
_HANDLE: Final = _KIND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LOCK: Final = struct.Struct("hhqqi4x")  # struct flock: type, whence, start, length, process
_QUERY: Final = getattr(fcntl, "F_OFD_GETLK", None)
_BAD_LOCK_FILE: Final = (lmdb.BadRslotError, lmdb.InvalidParameterError, lmdb.LockError, lmdb.ReadersFullError)
_READERS: Final = 8  # where the lock over the list of readers lies in the lock file
_OWNER: Final = 0x3FFFFFFF
_PAUSE: Final = 0.001
_NEW: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def environment(
    data: Path, lock: Path | None, *, create: bool, readonly: bool, is_first: bool, seconds: float, **options: Any
) -> tuple[Any, int]:
    """Return the environment in the file `data`, with its lock file beside it (None: without a lock), and a descriptor
    of that for `readers_go_on`, -1 where there is none. Close it after the environment and never before: with it,
    every lock that LMDB holds on the file is released.

    `is_first` says that this process has not opened it already; it waits so many `seconds` for LMDB's lock. With
    `create`, missing files are created with mode 0600. Raises IntegrityError where one of them is a link, not a regular
    file, or to be written and has a second hard link; UnavailableError where the lock file is not LMDB's, or its lock
    is not free; LockedError; lmdb.Error as `lmdb.open`, OSError.
    """
    with contextlib.ExitStack() as held:
        file = _held(data, held, create=create, writable=not readonly)
        if not create and not os.fstat(file).st_size:
            raise lmdb.InvalidError(f"{data}: the file is empty")  # LMDB would begin a new one, or call it a bad file
        with _turn(data, file, lock) as is_alone:
            if is_alone and is_first and lock is not None and not readonly and not _is_used(lock):
                durable.remove(lock)
            beside = None if lock is None else _lock(lock, held, readonly=readonly)
            folder = held.enter_context(_leading_to(file, beside))
            options |= {"create": create, "readonly": readonly, "mode": 0o600, "meminit": True}
            options["lock"] = beside is not None
            is_pair = lock is not None and lock.name == f"{data.name}-lock"  # as LMDB itself names it beside a file
            where, is_folder = (data if is_pair else data.parent, not is_pair) if folder is None else (folder, True)
            fd = _readable(beside) if beside is not None and is_first else -1
            try:
                if not readers_go_on(fd, seconds):
                    raise locked_out(data, lock, seconds)
                with _blaming_lock_file(file, lock):
                    env = lmdb.open(str(where), subdir=is_folder, **options)
            except BaseException:
                if fd >= 0:
                    os.close(fd)
                raise
        try:
            _require_sound(env, file, data, lock)
        except BaseException:
            env.close()
            if fd >= 0:
                os.close(fd)
            raise
        return env, fd


def readers_go_on(fd: int, seconds: float) -> bool:
    """Wait until the lock over LMDB's list of readers is free, at most so long; returns whether it is.

    It is looked at and not taken. LMDB's binding waits for it without letting other threads run, so that a process that
    waits for ever could not even say so. (lmdb 0.9, mdb.c, MDB_txbody; a lock's first word is 0 in its lower 30 bits
    where no living thread has it.)
    """
    end = time.monotonic() + seconds
    while fd >= 0 and sys.platform == "linux" and int.from_bytes(os.pread(fd, 4, _READERS), sys.byteorder) & _OWNER:
        if time.monotonic() > end:
            return False
        time.sleep(_PAUSE)
    return True


@contextlib.contextmanager
def _turn(data: Path, file: int, lock: Path | None) -> Iterator[bool]:
    """Nobody else opens the file while the block runs, so that no two processes begin lock files. Yields False where
    that cannot be had here. Raises LockedError where somebody else does not come to an end."""
    if lock is None:
        yield False
        return
    fd = _readable(file)
    try:
        with in_turn(fd, f"{data} is being opened by another process, and that does not end") as is_alone:
            yield is_alone
    finally:
        os.close(fd)


@contextlib.contextmanager
def _blaming_lock_file(file: int, lock: Path | None) -> Iterator[None]:
    """Where LMDB finds a file that is not its own, tell which one: the rows are not lost with a lock file."""
    try:
        yield
    except (lmdb.InvalidError, lmdb.VersionMismatchError) as error:
        fd = _readable(file)
        try:
            if lock is None or not states(fd):
                raise
        finally:
            os.close(fd)
        what = f"{lock} holds what LMDB did not write: {reason(error)}"
        raise UnavailableError(what, hint=_anew(lock)) from error


def _is_used(lock: Path) -> bool:
    """Whether another process has the environment open, as the lock shows that LMDB holds on the file all the time; yes
    where that cannot be asked. Closing the descriptor would release a lock of this process's own."""
    if _QUERY is None:
        return True
    try:
        with opening.opened(lock) as file:
            asked = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            return bool(_LOCK.unpack(fcntl.fcntl(file, _QUERY, asked))[0] != fcntl.F_UNLCK)
    except FileNotFoundError:
        return False
    except OSError:
        return True


def reason(error: lmdb.Error) -> str:
    """Return LMDB's error message without the path that it opened."""
    return str(error).rpartition(": ")[2]


def _require_sound(env: Any, file: int, data: Path, lock: Path | None) -> None:
    """Raise where the environment's pages would crash LMDB (`keys.disk.lmdb_pages`), or the lock file names a state
    that it does not have."""
    fd = _readable(file)
    try:
        while not _is_sound(env, fd, data, lock):
            time.sleep(_PAUSE)
    finally:
        os.close(fd)


def _is_sound(env: Any, fd: int, data: Path, lock: Path | None) -> bool:
    """As `_require_sound`; False where another process has committed twice meanwhile, so that no meta page leads to
    what was to be looked at any more."""
    before = states(fd)
    with begun(env) as state:
        known = [*before, *states(fd)]
        if lock is not None and known and not min(known) <= state.id() <= max(known):
            raise UnavailableError(
                f"{lock} is not of the time of {data}: one of the two was replaced or overwritten",
                hint=_anew(lock, f"see that {data} is the newest"),
            )
        try:
            require_sound(fd, env.stat()["psize"], state.id())
        except lmdb.CorruptedError:
            found = states(fd)
            if not found or state.id() >= min(found):
                raise
            return False
    return True


def begun(env: Any) -> Any:
    """A transaction that reads the last commit, also of a file that another process has let grow."""
    try:
        return env.begin()
    except lmdb.MapResizedError:  # another process grew the file: adopt its size
        env.set_mapsize(0)
        return env.begin()


def _readable(file: int) -> int:
    """Return a readable descriptor of a held file: an O_PATH handle cannot be read, but reopened through /proc."""
    try:
        return os.open(_NAMES / str(file), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return os.dup(file)


def _lock(path: Path, held: contextlib.ExitStack, *, readonly: bool) -> int | None:
    """Return a handle of the lock file, created where missing; None where a reader must do without.

    Without a writer no lock is needed: a read-only volume has none, nor has a copy made of hard links to another's
    files.
    """
    try:
        found = _held(path, held, create=True, writable=not readonly)
    except OSError as error:
        if readonly and error.errno == errno.EROFS:
            return None
        raise
    return None if readonly and os.fstat(found).st_nlink > 1 else found


def _held(path: Path, held: contextlib.ExitStack, *, create: bool, writable: bool) -> int:
    with opening.below(path) as (folder, name):
        try:
            handle = os.open(name, _HANDLE, dir_fd=folder)
        except FileNotFoundError:
            if not create:
                raise
            with contextlib.suppress(FileExistsError):
                os.close(os.open(name, _NEW, 0o600, dir_fd=folder))
            handle = os.open(name, _HANDLE, dir_fd=folder)
    held.callback(os.close, handle)
    found = os.fstat(handle)
    if not stat.S_ISREG(found.st_mode):
        raise opening.planted(path, found, "file")
    if writable and found.st_nlink > 1:
        raise IntegrityError(
            f"{path} has a second name (hard link), and writing would change that file too",
            hint=f"make a file of its own: cp -p {path} {path}.own && mv {path}.own {path}",
        )
    return handle


@contextlib.contextmanager
def _leading_to(data: int, lock: int | None) -> Iterator[Path | None]:
    """While the block runs, a private folder with LMDB's file names, which lead to these files. Yields None where the
    system has no /proc/self/fd or no temporary folder."""
    if not _NAMES.is_dir():
        yield None
        return
    try:
        folder = Path(tempfile.mkdtemp(prefix="coffer-"))
    except OSError:
        yield None
        return
    try:
        (folder / "data.mdb").symlink_to(_NAMES / str(data))
        if lock is not None:
            (folder / "lock.mdb").symlink_to(_NAMES / str(lock))
        yield folder
    finally:
        for name in ("data.mdb", "lock.mdb"):
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()


def refused(what: str, error: lmdb.Error, folder: Path, *, then: str = "") -> UnavailableError:
    """Return the UnavailableError for an error of LMDB. `what` starts the message, `then` ends the hint.

    LMDB reports a write cut short by a full disk as Input/output error, so the volume's free space is checked.
    """
    if isinstance(error, _BAD_LOCK_FILE):
        lock = folder / "lock.mdb"
        return UnavailableError(f"{what}: {lock} holds what LMDB did not write: {reason(error)}", hint=_anew(lock))
    if isinstance(error, lmdb.DiskError) or _is_full(folder):
        return UnavailableError(
            f"{what}: no space is left on its volume",
            hint=f"free space on the volume that holds {folder}{then and ', then '}{then}",
        )
    return UnavailableError(
        f"{what}: {reason(error)}", hint=f"check the volume, its mount and its permissions{then and ', then '}{then}"
    )


def locked_out(data: Path, lock: Path | None, seconds: float) -> UnavailableError:
    """Return the error for a lock in LMDB's lock file that was not to be had for so long."""
    what = f"LMDB's lock on {data} was not free for {seconds:.0f} s"
    if lock is None:
        return UnavailableError(what, hint="stop Coffer, then start it again")
    return UnavailableError(
        f"{what}: {lock} was overwritten, or another process hangs while it writes", hint=_anew(lock)
    )


def _anew(lock: Path, then: str = "") -> str:
    """The remedy for a lock file that is not what it should be."""
    return f"stop Coffer and all of its commands, remove {lock}{then and ', '}{then}, then start again"


def _is_full(folder: Path) -> bool:
    try:
        return free_bytes(folder) < _FULL
    except OSError:
        return False
