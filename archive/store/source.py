"""Bytes that are read by offset, wherever they are: of an open file, in memory, or in a store that is far away.

Rule: readers of the log take a `Source` and never a descriptor. The file's edge, with its short reads, stays in
`keys.disk.reading`; this is the only module of the floor that wraps a descriptor for reading.
"""

import os
from collections.abc import Sequence
from types import TracebackType
from typing import Protocol, Self

from coffer.keys.buffer import Buffer
from coffer.keys.disk import reading
from coffer.keys.errors import FormatError

__all__ = ["FileSource", "MemorySource", "Source"]


class Source(Protocol):
    """Bytes that never change below `size`. Thread-safe until it is closed.

    Whoever opened it closes it, by `close` or as a context manager. Two sources of the same bytes are independent.
    """

    @property
    def size(self) -> int:
        """The number of bytes, asked anew each time: of a segment that is being appended to, what it has now, possibly
        with half a record at its end. It grows, and shrinks only when a writer cuts a torn end off, so that what was
        within `size` may be cut at the next `read`. Raises UnreadableError."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Exactly the bytes [offset, offset + length).

        Raises FormatError where the source really ends before that, UnreadableError where the bytes cannot be had now:
        a short answer of the system below is continued, and is neither.
        """
        ...

    def read_many(self, ranges: Sequence[tuple[int, int]]) -> Sequence[bytes]:
        """`read` of each (offset, length), in the order given: all or an error, as of `read`. Ask so for what does not
        depend on each other: a source that is far away may fetch neighbouring ranges at once."""
        return [self.read(offset, length) for offset, length in ranges]

    def skim(self) -> None:
        """A hint, without effect on what is read: from now on small pieces are read, far apart. Read nothing ahead."""
        return

    def forget(self, offset: int, length: int) -> None:  # noqa: ARG002  a hint that many ignore
        """A hint, without effect on what is read: drop what is cached of these bytes (length 0: up to the end), so that
        the next `read` comes from the medium."""
        return

    def close(self) -> None:
        """Release what it holds. Idempotent; nothing may be read afterwards."""
        return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class FileSource(Source):
    """The bytes of an open file."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        """`fd` is open for reading; `close` closes it."""
        self._fd = fd

    @property
    def size(self) -> int:
        """The file's size at this moment: fstat."""
        return reading.size_of(self._fd)

    def read(self, offset: int, length: int) -> bytes:
        """`keys.disk.reading.read_exactly` of the file: one pread, more only after a short one."""
        return reading.read_exactly(self._fd, offset, length)

    def skim(self) -> None:
        """posix_fadvise(RANDOM): the kernel would fetch bodies that are not wanted."""
        self._advise(0, 0, "POSIX_FADV_RANDOM")

    def forget(self, offset: int, length: int) -> None:
        """posix_fadvise(DONTNEED)."""
        self._advise(offset, length, "POSIX_FADV_DONTNEED")

    def close(self) -> None:
        """Close the descriptor."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _advise(self, offset: int, length: int, advice: str) -> None:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._fd, offset, length, getattr(os, advice))


class MemorySource(Source):
    """The bytes of a buffer, which nobody may change."""

    __slots__ = ("_data",)

    def __init__(self, data: Buffer) -> None:
        self._data = memoryview(data).cast("B")

    @property
    def size(self) -> int:
        """The length of the buffer."""
        return len(self._data)

    def read(self, offset: int, length: int) -> bytes:
        """A copy of the bytes."""
        data = bytes(self._data[offset : offset + length])
        if len(data) != length:
            raise FormatError(f"the file ends {length - len(data)} bytes too early")
        return data
