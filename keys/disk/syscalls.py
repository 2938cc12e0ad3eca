"""The system calls that change files, behind an interface that tests can intercept, and the steps of durable changes.

Rule: code that makes a system call takes it as `calls`, and an OSError becomes UnavailableError, once, with the path.
Complete changes are in `keys.disk.durable` and `keys.disk.append_file`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

from coffer.keys.buffer import Buffer
from coffer.keys.disk import opening
from coffer.keys.errors import UnavailableError

__all__ = ["SYSTEM", "Syscalls", "SystemCalls", "converted", "sync_folder", "unavailable", "write_fully"]

_IOV_MAX: Final = 1024  # the limit on Linux and macOS; POSIX guarantees less
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)


class Syscalls(Protocol):
    """The system calls behind every durable change, so that a test can record their order and make any of them fail.

    Each behaves as the `os` function of the same name and raises OSError.
    """

    def open(self, path: Path, flags: int, mode: int) -> int:
        """Return a descriptor, which the caller closes. Below a distrusted folder it follows no link."""
        ...

    def writev(self, fd: int, buffers: Sequence[Buffer]) -> int:
        """Write at the file's position. Returns the bytes accepted, which may be fewer than given."""
        ...

    def pwrite(self, fd: int, data: Buffer, offset: int) -> int:
        """Write at `offset`; the position stays. Returns the bytes accepted, which may be fewer than given."""
        ...

    def fsync(self, fd: int) -> None:
        """Return only when the device reports bytes and metadata as stable."""
        ...

    def fdatasync(self, fd: int) -> None:
        """Return only when the device reports the bytes, and the size that is needed to read them, as stable."""
        ...

    def ftruncate(self, fd: int, length: int) -> None:
        """Cut or zero-extend the file to `length` bytes."""
        ...

    def lseek(self, fd: int, offset: int, whence: int) -> int:
        """Move the position. Returns it, counted from the start."""
        ...

    def close(self, fd: int) -> None:
        """Release the descriptor. Syncs nothing."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Move a name on one volume, atomically replacing `target`."""
        ...

    def mkdir(self, path: Path, mode: int) -> None:
        """Create one folder. Raises FileExistsError."""
        ...

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name. Raises FileExistsError."""
        ...

    def unlink(self, path: Path) -> None:
        """Remove a file's name. Raises FileNotFoundError."""
        ...

    def rmdir(self, path: Path) -> None:
        """Remove an empty folder."""
        ...

    def posix_fadvise(self, fd: int, offset: int, length: int, advice: int) -> None:
        """Advise the kernel about cached pages; length 0 means to the end."""
        ...


def _open(path: Path, flags: int, mode: int) -> int:
    """openat. Below a distrusted folder: with O_NOFOLLOW, and only a regular file, or a folder with O_DIRECTORY."""
    with opening.below(path) as (handle, name):
        if handle is None:
            return os.open(name, flags, mode)
        opened = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, mode, dir_fd=handle)
        if not flags & os.O_DIRECTORY and not stat.S_ISREG(os.fstat(opened).st_mode):
            os.close(opened)
            raise opening.link_error(path)
        return opened


def _rename(source: Path, target: Path) -> None:
    with opening.below(source) as (of, old), opening.below(target) as (to, new):
        os.rename(old, new, src_dir_fd=of, dst_dir_fd=to)


def _link(source: Path, target: Path) -> None:
    with opening.below(source) as (of, old), opening.below(target) as (to, new):
        os.link(old, new, src_dir_fd=of, dst_dir_fd=to, follow_symlinks=False)


def _mkdir(path: Path, mode: int) -> None:
    with opening.below(path) as (handle, name):
        os.mkdir(name, mode, dir_fd=handle)


def _unlink(path: Path) -> None:
    with opening.below(path) as (handle, name):
        os.unlink(name, dir_fd=handle)


def _rmdir(path: Path) -> None:
    with opening.below(path) as (handle, name):
        os.rmdir(name, dir_fd=handle)


class SystemCalls:
    """The real calls, relative to folder handles below distrusted folders (`keys.disk.opening`). On macOS Python has no
    fdatasync and no posix_fadvise: fsync replaces the one, and the cache is not dropped."""

    open = staticmethod(_open)
    writev = staticmethod(os.writev)
    pwrite = staticmethod(os.pwrite)
    fsync = staticmethod(os.fsync)
    fdatasync = staticmethod(getattr(os, "fdatasync", os.fsync))
    ftruncate = staticmethod(os.ftruncate)
    lseek = staticmethod(os.lseek)
    close = staticmethod(os.close)
    rename = staticmethod(_rename)
    mkdir = staticmethod(_mkdir)
    link = staticmethod(_link)
    unlink = staticmethod(_unlink)
    rmdir = staticmethod(_rmdir)
    posix_fadvise = staticmethod(getattr(os, "posix_fadvise", lambda *_: None))


SYSTEM: Final = SystemCalls()


def unavailable(error: OSError, doing: str, path: Path) -> UnavailableError:
    """Return the UnavailableError for an OSError; `doing` is the verb that the message puts before `path`."""
    reason = error.strerror or type(error).__name__
    hint = "check the volume, its mount and its permissions"
    if error.errno in _NO_SPACE:
        hint = f"free space on the volume that holds {path.parent}, then start again"
    return UnavailableError(f"cannot {doing} {path}: {reason}", hint=hint)


@contextlib.contextmanager
def converted(doing: str, path: Path) -> Iterator[None]:
    """Raise an OSError from the block as UnavailableError, as `unavailable` words it."""
    try:
        yield
    except OSError as error:
        raise unavailable(error, doing, path) from error


def write_fully(calls: Syscalls, fd: int, buffers: Sequence[Buffer]) -> int:
    """Hand every byte of `buffers` to the kernel: writev, repeated. Returns the bytes written. Raises OSError."""
    rest = [view for view in (memoryview(buffer).cast("B") for buffer in buffers) if len(view)]
    total = 0
    at = 0
    while at < len(rest):
        wrote = calls.writev(fd, rest[at : at + _IOV_MAX])
        if wrote <= 0:
            raise OSError(errno.EIO, "the kernel accepted no bytes")
        total += wrote
        while at < len(rest) and wrote >= len(rest[at]):
            wrote -= len(rest[at])
            at += 1
        if wrote:
            rest[at] = rest[at][wrote:]
    return total


def sync_folder(path: Path, *, calls: Syscalls = SYSTEM) -> None:
    """Make the names in a folder durable: open(O_DIRECTORY), fsync, close. Raises UnavailableError."""
    with converted("sync folder", path):
        fd = calls.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, 0)
        try:
            calls.fsync(fd)
        finally:
            calls.close(fd)
