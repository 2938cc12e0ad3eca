"""The only code of the product that calls fsync, rename or a durable append: files that survive power loss.

Rule: every function's docstring lists its system calls in order and says what is durable on return; every OSError
becomes UnavailableError. A failed fsync is never retried: after it the kernel may have dropped the dirty pages
(Rebello et al., ATC 2020), so `AppendFile` stops for good and only reopening, with recovery, continues.
It does not lock, and knows nothing of what the bytes mean.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

from keys.buffer import Buffer
from keys.errors import UnavailableError

__all__ = [
    "AppendFile",
    "Syscalls",
    "SystemCalls",
    "install",
    "make_folder",
    "move",
    "remove",
    "replace",
    "settle",
    "stage",
    "sync_folder",
    "write_new",
]

_IOV_MAX: Final = 1024  # POSIX lower bounds aside, this is Linux's and macOS's limit
_DROP: Final = getattr(os, "POSIX_FADV_DONTNEED", 4)
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)


class Syscalls(Protocol):
    """The system calls this module makes, so that a test can record their order and make any of them fail.

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
    posix_fadvise = staticmethod(getattr(os, "posix_fadvise", lambda *_: None))


_SYSTEM: Final = SystemCalls()


def _unavailable(error: OSError, doing: str, path: Path) -> UnavailableError:
    reason = error.strerror or type(error).__name__
    hint = "check the volume, its mount and its permissions"
    if error.errno in _NO_SPACE:
        hint = f"free space on the volume that holds {path.parent}, then start again"
    return UnavailableError(f"cannot {doing} {path}: {reason}", hint=hint)


@contextlib.contextmanager
def _converted(doing: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _unavailable(error, doing, path) from error


def _write_fully(calls: Syscalls, fd: int, buffers: Sequence[Buffer]) -> int:
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


def sync_folder(path: Path, *, calls: Syscalls = _SYSTEM) -> None:
    """Make the names inside a folder durable: open(O_DIRECTORY), fsync, close."""
    with _converted("sync folder", path):
        fd = calls.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, 0)
        try:
            calls.fsync(fd)
        finally:
            calls.close(fd)


def make_folder(path: Path, mode: int = 0o700, *, calls: Syscalls = _SYSTEM) -> None:
    """Make one folder, durable on return: mkdir, fsync(parent). An existing folder is left as it is, but synced too."""
    with _converted("make folder", path):
        try:
            calls.mkdir(path, mode)
        except FileExistsError:
            if not path.is_dir():
                raise
    sync_folder(path.parent, calls=calls)


def _write_and_sync(path: Path, data: Buffer, mode: int, calls: Syscalls) -> None:
    """open(O_EXCL, mode), writev, fsync, close; on any failure the partial file is unlinked and the error raised."""
    fd = calls.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        try:
            _write_fully(calls, fd, [data])
            calls.fsync(fd)
        finally:
            calls.close(fd)
    except OSError:
        with contextlib.suppress(OSError):
            calls.unlink(path)
        raise


def write_new(path: Path, data: Buffer, mode: int = 0o600, *, calls: Syscalls = _SYSTEM) -> None:
    """Write a file that must not exist yet: open(O_CREAT|O_EXCL), writev, fsync, close, fsync(folder).

    On return name and content are durable. Raises UnavailableError; a file that existed is untouched.
    """
    with _converted("write", path):
        _write_and_sync(path, data, mode, calls)
    sync_folder(path.parent, calls=calls)


def replace(path: Path, data: Buffer, mode: int = 0o600, *, calls: Syscalls = _SYSTEM) -> None:
    """Replace a file's content as a whole: unlink(stale), open(O_EXCL) of `.<name>.new`, writev, fsync, close, rename,
    fsync(folder).

    A reader, or a crash at any point, sees either the old content or the new; on return the new one is durable.
    Raises UnavailableError. One process at a time may replace a given path.
    """
    fresh = path.with_name(f".{path.name}.new")
    with _converted("replace", path):
        with contextlib.suppress(FileNotFoundError):
            calls.unlink(fresh)
        _write_and_sync(fresh, data, mode, calls)
        calls.rename(fresh, path)
    sync_folder(path.parent, calls=calls)


def remove(path: Path, *, calls: Syscalls = _SYSTEM) -> None:
    """Remove a file that may not be there: unlink, fsync(folder). Durable on return."""
    with _converted("remove", path), contextlib.suppress(FileNotFoundError):
        calls.unlink(path)
    sync_folder(path.parent, calls=calls)


def move(path: Path, target: Path, *, calls: Syscalls = _SYSTEM) -> None:
    """Move a file to another folder of the same volume: rename, fsync(both folders). Durable on return."""
    with _converted("move", path):
        calls.rename(path, target)
    sync_folder(target.parent, calls=calls)
    sync_folder(path.parent, calls=calls)


def stage(path: Path, pieces: Iterable[Buffer], *, calls: Syscalls = _SYSTEM) -> Path:
    """Write what is to take a file's place beside it, as `.<name>.new`: unlink(stale), open(O_EXCL), writev, fdatasync,
    close, fsync(folder). Durable on return, and without effect until `install`."""
    fresh = path.with_name(f".{path.name}.new")
    with _converted("replace", path), contextlib.suppress(FileNotFoundError):
        calls.unlink(fresh)
    file = AppendFile(fresh, create=True, calls=calls)
    try:
        for piece in pieces:
            file.write_all([piece])
        file.sync()
    finally:
        file.close()
    return fresh


def install(fresh: Path, path: Path, kept: Path | None, *, calls: Syscalls = _SYSTEM) -> None:
    """Let a staged file take the place of `path`, whose old content stays as `kept` (None: there is none): link,
    fsync(its folder), rename, fsync(folder).

    At any point `path` is one whole file or the other, and before it is the new one, `kept` is the old, durably. A
    reader that has the old one open goes on reading it.
    """
    if kept is not None:
        with _converted("keep", path), contextlib.suppress(FileExistsError):  # an earlier stop came this far
            calls.link(path, kept)
        sync_folder(kept.parent, calls=calls)
    with _converted("replace", path):
        calls.rename(fresh, path)
    sync_folder(path.parent, calls=calls)


def settle(path: Path, *, calls: Syscalls = _SYSTEM) -> None:
    """Let an existing file show what is stable of it: open(O_RDWR), fdatasync, posix_fadvise(DONTNEED), close,
    fsync(folder).

    Called before a file is read that an earlier process wrote: if it was killed, its last bytes may be in the page
    cache only, and the name too. If a sync of its failed, the cache goes on showing bytes that the device never got and
    a second sync calls them stable; so the cache is dropped, and who reads next is told by the device. Raises
    UnavailableError.
    """
    with _converted("sync", path):
        fd = calls.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0)
        try:
            calls.fdatasync(fd)
            calls.posix_fadvise(fd, 0, 0, _DROP)
        finally:
            calls.close(fd)
    sync_folder(path.parent, calls=calls)


class AppendFile:
    """One file that grows at its end: open(O_RDWR), lseek(end); with `create`, open(O_EXCL) and fsync(folder) too.

    Fail-stop: after any OSError every further call but `close()` raises UnavailableError, because nobody knows any more
    which bytes are stable. Not thread-safe: the caller serialises. `size` counts the bytes handed to the kernel,
    of which only those before the last successful `sync()` are durable.
    """

    __slots__ = ("_calls", "_failed", "_fd", "_path", "_size")

    def __init__(self, path: Path, *, create: bool = False, mode: int = 0o600, calls: Syscalls = _SYSTEM) -> None:
        self._path = path
        self._calls = calls
        self._failed = False
        self._fd = -1
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        with _converted("open", path):
            self._fd = calls.open(path, flags | os.O_CREAT | os.O_EXCL if create else flags, mode)
            try:
                self._size = calls.lseek(self._fd, 0, os.SEEK_END)
            except OSError:
                calls.close(self._fd)
                raise
        if create:
            try:
                sync_folder(path.parent, calls=calls)
            except UnavailableError:
                self.close()
                raise

    @property
    def path(self) -> Path:
        """Where the file is."""
        return self._path

    @property
    def size(self) -> int:
        """Bytes in the file as far as this object wrote them; not a promise of durability."""
        return self._size

    @property
    def failed(self) -> bool:
        """True once a call failed; only reopening helps."""
        return self._failed

    def write_all(self, buffers: Sequence[Buffer]) -> None:
        """Append `buffers` in order: writev, repeated until all is taken. Nothing is durable before `sync()`."""
        with self._guarded("append to"):
            self._size += _write_fully(self._calls, self._fd, buffers)

    def write_at(self, offset: int, data: Buffer) -> None:
        """Write `data` at `offset`: pwrite, repeated. The append position stays. Nothing is durable before `sync()`."""
        view = memoryview(data).cast("B")
        with self._guarded("write to"):
            while len(view):
                wrote = self._calls.pwrite(self._fd, view, offset)
                if wrote <= 0:
                    raise OSError(errno.EIO, "the kernel accepted no bytes")
                view = view[wrote:]
                offset += wrote
            self._size = max(self._size, offset)
            self._calls.lseek(self._fd, self._size, os.SEEK_SET)

    def sync(self) -> None:
        """Make all bytes and the size durable: fdatasync. A failure is final (see the class)."""
        with self._guarded("sync"):
            self._calls.fdatasync(self._fd)

    def truncate(self, length: int) -> None:
        """Cut (or extend with zeros) to `length` bytes: ftruncate, lseek. Durable after the next `sync()`."""
        with self._guarded("truncate"):
            self._calls.ftruncate(self._fd, length)
            self._calls.lseek(self._fd, length, os.SEEK_SET)
            self._size = length

    def close(self) -> None:
        """Close without syncing. Harmless when repeated; never raises for a file that already failed."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            try:
                self._calls.close(fd)
            except OSError as error:
                if not self._failed:
                    self._failed = True
                    raise _unavailable(error, "close", self._path) from error

    @contextlib.contextmanager
    def _guarded(self, doing: str) -> Iterator[None]:
        if self._failed or self._fd < 0:
            state = "an earlier write failed" if self._failed else "it is closed"
            raise UnavailableError(
                f"cannot {doing} {self._path}: {state}", hint="reopen it, which recovers and checks what is stable"
            )
        try:
            yield
        except OSError as error:
            self._failed = True
            raise _unavailable(error, doing, self._path) from error
