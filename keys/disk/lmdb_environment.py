"""Open an LMDB environment whose two files lie in a folder that others can write to.

Rule: LMDB opens files by name, follows links, and writes to and resizes whatever the name of its lock file leads to. So
it is given names in a private folder that lead to files we hold open and have checked: a file swapped in meanwhile is
not opened. Handles are O_PATH: closing one releases no lock that LMDB holds on the file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import lmdb

from coffer.keys.disk import opening
from coffer.keys.disk.lmdb_pages import require_sound
from coffer.keys.disk.volume import free_bytes
from coffer.keys.errors import IntegrityError, UnavailableError

__all__ = ["environment", "reason", "refused"]

_FULL: Final = 64 * 1024  # bytes: less than a small commit needs
_NAMES: Final = Path("/proc/self/fd")  # names of open files
_KIND: Final = getattr(os, "O_PATH", os.O_RDONLY) if _NAMES.is_dir() else os.O_RDONLY
_HANDLE: Final = _KIND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def environment(data: Path, lock: Path | None, *, create: bool, readonly: bool, **options: Any) -> Any:
    """Return the environment in the file `data`, with its lock file beside it (None: without a lock).

    With `create`, missing files are created with mode 0600. Raises IntegrityError where one of them is a link, not a
    regular file, or to be written and has a second hard link; lmdb.Error as `lmdb.open`, OSError.
    """
    with contextlib.ExitStack() as held:
        file = _held(data, held, create=create, writable=not readonly)
        if not create and not os.fstat(file).st_size:
            raise lmdb.InvalidError(f"{data}: the file is empty")  # LMDB would begin a new one, or call it a bad file
        beside = None
        if lock is not None:
            beside = _lock(lock, held, readonly=readonly)
        folder = held.enter_context(_leading_to(file, beside))
        options |= {"create": create, "readonly": readonly, "lock": beside is not None, "mode": 0o600, "meminit": True}
        if folder is not None:
            return _sound(lmdb.open(str(folder), **options), file)
        is_pair = lock is not None and lock.name == f"{data.name}-lock"  # as LMDB itself names it beside a file
        return _sound(lmdb.open(str(data if is_pair else data.parent), subdir=not is_pair, **options), file)


def reason(error: lmdb.Error) -> str:
    """Return LMDB's error message without the path that it opened."""
    return str(error).rpartition(": ")[2]


def _sound(env: Any, file: int) -> Any:
    """Return the environment, or close it and raise where its pages would crash LMDB (`keys.disk.lmdb_pages`)."""
    try:
        with _begun(env) as state:
            fd = _readable(file)
            try:
                require_sound(fd, env.stat()["psize"], state.id())
            finally:
                os.close(fd)
    except BaseException:
        env.close()
        raise
    return env


def _begun(env: Any) -> Any:
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
