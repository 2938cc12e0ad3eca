"""The system calls that change files, by name, so that a test can stand between, and the steps that each durable change
is made of.

Rule: who makes a call here is handed it as `calls`, and an OSError of the system becomes UnavailableError, once, with
the path. Whole changes are in `keys.disk.durable` and `keys.disk.append_file`.
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

_IOV_MAX: Final = 1024  # POSIX lower bounds aside, this is Linux's and macOS's limit
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)


class Syscalls(Protocol):
    """The system calls of every durable change, so that a test can record their order and make any of them fail.

    Each behaves as the function of `os` with the same name; `fsync` and `fdatasync` return only when the device
    said that the bytes are stable.
    """

    def open(self, path: Path, flags: int, mode: int) -> int: ...
    def writev(self, fd: int, buffers: Sequence[Buffer]) -> int: ...
    def pwrite(self, fd: int, data: Buffer, offset: int) -> int: ...
    def fsync(self, fd: int) -> None: ...
    def fdatasync(self, fd: int) -> None: ...
    def ftruncate(self, fd: int, length: int) -> None: ...
    def lseek(self, fd: int, offset: int, whence: int) -> int: ...
    def close(self, fd: int) -> None: ...
    def rename(self, source: Path, target: Path) -> None: ...
    def mkdir(self, path: Path, mode: int) -> None: ...
    def link(self, source: Path, target: Path) -> None: ...
    def unlink(self, path: Path) -> None: ...
    def rmdir(self, path: Path) -> None: ...
    def posix_fadvise(self, fd: int, offset: int, length: int, advice: int) -> None: ...


def _open(path: Path, flags: int, mode: int) -> int:
    """openat; below a folder that is not trusted with O_NOFOLLOW, and only a file, or a folder where one is wanted."""
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
    """The real calls, through handles of folders where those are not trusted (`keys.disk.opening`). macOS has no
    fdatasync
    in Python, so fsync stands in there, and keeps its cache."""

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
    """Return what a refusal of the system is to whoever asked `path` to be changed."""
    reason = error.strerror or type(error).__name__
    hint = "check the volume, its mount and its permissions"
    if error.errno in _NO_SPACE:
        hint = f"free space on the volume that holds {path.parent}, then start again"
    return UnavailableError(f"cannot {doing} {path}: {reason}", hint=hint)


@contextlib.contextmanager
def converted(doing: str, path: Path) -> Iterator[None]:
    """Raise an OSError of the block as UnavailableError."""
    try:
        yield
    except OSError as error:
        raise unavailable(error, doing, path) from error


def write_fully(calls: Syscalls, fd: int, buffers: Sequence[Buffer]) -> int:
    """Hand every byte of `buffers` to the kernel; writev may take only part of them. Returns the bytes written."""
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
    """Make the names inside a folder durable: open(O_DIRECTORY), fsync, close."""
    with converted("sync folder", path):
        fd = calls.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, 0)
        try:
            calls.fsync(fd)
        finally:
            calls.close(fd)
