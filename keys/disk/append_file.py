"""An append-only file that reports no byte as stable before the device does.

Rule: a failed fsync is never retried: the kernel may have dropped the dirty pages (Rebello et al., ATC 2020), so the
file fails permanently and work continues only after reopening, with recovery. Every method's docstring lists its system
calls. It does not lock, and knows nothing of what the bytes mean.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from coffer.keys.buffer import Buffer
from coffer.keys.disk.syscalls import (
    SYSTEM,
    Syscalls,
    converted,
    sync_folder,
    unavailable,
    write_fully,
)
from coffer.keys.errors import UnavailableError

__all__ = ["AppendFile"]


class AppendFile:
    """An append-only file: open(O_RDWR), lseek(end); with `create`, open(O_EXCL) and fsync(folder) too.

    Fail-stop: after any OSError every further call but `close()` raises UnavailableError, because it is unknown which
    bytes are stable. Not thread-safe: the caller serialises. `size` counts the bytes handed to the kernel,
    of which only those before the last successful `sync()` are durable.
    """

    __slots__ = ("_calls", "_failed", "_fd", "_path", "_size")

    def __init__(self, path: Path, *, create: bool = False, mode: int = 0o600, calls: Syscalls = SYSTEM) -> None:
        self._path = path
        self._calls = calls
        self._failed = False
        self._fd = -1
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        with converted("open", path):
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
        """Path of the file."""
        return self._path

    @property
    def size(self) -> int:
        """Bytes in the file, as far as this object knows; not a promise of durability."""
        return self._size

    @property
    def failed(self) -> bool:
        """Whether a call has failed; only reopening helps."""
        return self._failed

    def write_all(self, buffers: Sequence[Buffer]) -> None:
        """Append `buffers` in order: writev, repeated until all is written. Nothing is durable before `sync()`."""
        with self._guarded("append to"):
            self._size += write_fully(self._calls, self._fd, buffers)

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
        """Make all bytes and the size durable: fdatasync. A failure is permanent (see the class)."""
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
                    raise unavailable(error, "close", self._path) from error

    @contextlib.contextmanager
    def _guarded(self, doing: str) -> Iterator[None]:
        if self._failed or self._fd < 0:
            state = "an earlier write failed" if self._failed else "it is closed"
            raise UnavailableError(
                f"cannot {doing} {self._path}: {state}",
                hint="restart: reopening recovers and checks what is stable",
            )
        try:
            yield
        except OSError as error:
            self._failed = True
            raise unavailable(error, doing, self._path) from error
