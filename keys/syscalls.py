"""The system calls that change files, by name, so that a test can stand between, and the steps that each durable change
is made of.

Rule: who makes a call here is handed it as `calls`, and an OSError of the system becomes UnavailableError, once, with
the path. Whole changes are in `keys.durable` and `keys.appendfile`.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

from keys.buffer import Buffer
from keys.errors import UnavailableError

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


class SystemCalls:
    """The real calls. macOS has no fdatasync in Python, so fsync stands in there, and keeps its cache."""

    open = staticmethod(os.open)
    writev = staticmethod(os.writev)
    pwrite = staticmethod(os.pwrite)
    fsync = staticmethod(os.fsync)
    fdatasync = staticmethod(getattr(os, "fdatasync", os.fsync))
    ftruncate = staticmethod(os.ftruncate)
    lseek = staticmethod(os.lseek)
    close = staticmethod(os.close)
    rename = staticmethod(os.rename)
    mkdir = staticmethod(os.mkdir)
    link = staticmethod(os.link)
    unlink = staticmethod(os.unlink)
    rmdir = staticmethod(os.rmdir)
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
