"""The system calls that change files, as `keys.durable` makes them, by name: a test can stand between."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from keys.buffer import Buffer

__all__ = ["Syscalls", "SystemCalls"]


class Syscalls(Protocol):
    """The system calls that `keys.durable` makes, so that a test can record their order and make any of them fail.

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
