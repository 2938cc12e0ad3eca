"""The only code of the product that syncs, renames, links or removes files: what is to survive power loss.

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
from typing import Final

from keys.buffer import Buffer
from keys.errors import UnavailableError
from keys.syscalls import Syscalls, SystemCalls

__all__ = [
    "AppendFile",
    "Syscalls",
    "SystemCalls",
    "discard",
    "discard_folder",
    "install",
    "make_folder",
    "make_folders",
    "move",
    "place",
    "remove",
    "remove_folder",
    "replace",
    "settle",
    "stage",
    "sync_folder",
    "tidy",
    "write_new",
]

_IOV_MAX: Final = 1024  # POSIX lower bounds aside, this is Linux's and macOS's limit
_DROP: Final = getattr(os, "POSIX_FADV_DONTNEED", 4)
_NO_SPACE: Final = (errno.ENOSPC, errno.EDQUOT)
_NO_LINKS: Final = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


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


def make_folders(path: Path, mode: int = 0o700, *, calls: Syscalls = _SYSTEM) -> None:
    """Make a folder and those above it that are missing, durable on return: mkdir, fsync(parent) for each."""
    missing = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    for folder in reversed(missing):
        make_folder(folder, mode, calls=calls)


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
    """Write a file that must not exist yet: unlink(stale), open(O_EXCL) of `.<name>.new`, writev, fsync, close, then as
    `place`.

    A crash at any point leaves the whole file or none under its name. On return name and content are durable. Raises
    UnavailableError; a file that existed is untouched. One process at a time may write a given path.
    """
    fresh = path.with_name(f".{path.name}.new")
    with _converted("write", path):
        with contextlib.suppress(FileNotFoundError):
            calls.unlink(fresh)
        _write_and_sync(fresh, data, mode, calls)
    try:
        is_free = place(fresh, path, calls=calls)
    except UnavailableError:
        discard(fresh, calls=calls)
        raise
    if not is_free:
        raise UnavailableError(f"cannot write {path}: it is there already", hint="choose another name, or move it away")


def tidy(path: Path, *, calls: Syscalls = _SYSTEM) -> None:
    """Remove the second name that a stop in `write_new` may have left of a file: unlink, fsync(folder), where there is
    one. Durable on return."""
    fresh = path.with_name(f".{path.name}.new")
    if os.path.lexists(fresh):
        remove(fresh, calls=calls)


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


def discard(path: Path, *, calls: Syscalls = _SYSTEM) -> None:
    """Remove a file that nobody needs any more, where that can be done: unlink. It may be back after a power cut.

    One that stays, as on a volume that turned read-only, is no failure of whatever it was for.
    """
    with contextlib.suppress(OSError):
        calls.unlink(path)


def discard_folder(path: Path, *, calls: Syscalls = _SYSTEM) -> None:
    """Remove a folder that nobody needs any more, and what is in it, as far as it goes: unlink, rmdir."""
    for folder, folders, names in os.walk(path, topdown=False):
        for name in names:
            discard(Path(folder, name), calls=calls)
        for name in folders:
            with contextlib.suppress(OSError):
                calls.rmdir(Path(folder, name))
    with contextlib.suppress(OSError):
        calls.rmdir(path)


def remove_folder(path: Path, *, calls: Syscalls = _SYSTEM) -> None:
    """Remove a folder that may not be there, as a whole: rename to `.<name>.old`, fsync(folder), then what is in it.

    On return its name is gone durably. A stop may leave some of the old one, which the next call removes.
    """
    old = path.with_name(f".{path.name}.old")
    discard_folder(old, calls=calls)
    if path.exists():
        move(path, old, calls=calls)
    discard_folder(old, calls=calls)


def move(path: Path, target: Path, *, calls: Syscalls = _SYSTEM) -> None:
    """Move a file to another folder of the same volume: rename, fsync(both folders). Durable on return."""
    with _converted("move", path):
        calls.rename(path, target)
    sync_folder(target.parent, calls=calls)
    sync_folder(path.parent, calls=calls)


def stage(path: Path, pieces: Iterable[Buffer], *, calls: Syscalls = _SYSTEM) -> Path:
    """Write what is to take a file's place beside it, as `.<name>.new`: unlink(stale), open(O_EXCL), fsync(folder),
    writev, fdatasync, close. Durable on return, and without effect until `install` or `place`; where anything fails it
    is unlinked, and the error raised."""
    fresh = path.with_name(f".{path.name}.new")
    with _converted("replace", path), contextlib.suppress(FileNotFoundError):
        calls.unlink(fresh)
    try:
        file = AppendFile(fresh, create=True, calls=calls)
        try:
            for piece in pieces:
                file.write_all([piece])
            file.sync()
        finally:
            file.close()
    except BaseException:
        discard(fresh, calls=calls)
        raise
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


def place(fresh: Path, path: Path, *, calls: Syscalls = _SYSTEM) -> bool:
    """Give a staged file its name, unless that is taken: link, unlink(fresh), fsync(folder). Durable on return.

    False, and `path` untouched, where it exists. Where the file system has no links it is looked for, then renamed to.
    """
    is_free = True
    with _converted("write", path):
        try:
            calls.link(fresh, path)
        except FileExistsError:
            is_free = False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            is_free = not path.exists()
            if is_free:
                calls.rename(fresh, path)
    discard(fresh, calls=calls)
    sync_folder(path.parent, calls=calls)
    return is_free


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
