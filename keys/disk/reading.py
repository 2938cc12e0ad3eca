"""Bytes of an open file at an offset: all that were asked for, or an error that says which of two things happened.

Rule: this is the one place of the product that reads by offset. The system may return fewer bytes than there are (over
NFS, FUSE, a signal): that is gone on with and never taken for the end of the file. What the medium refuses is told
apart from what the file does not have: the first may be there at the next reading, so nobody may cut, move, leave out
or call altered what could only not be read.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from coffer.keys.errors import FormatError, UnreadableError

__all__ = ["read_exactly", "read_up_to", "reading"]


@contextmanager
def reading(what: str) -> Iterator[None]:
    """While the block runs, an UnreadableError says what could not be read; an OSError, as of opening, becomes one."""
    try:
        yield
    except UnreadableError as error:
        named = str(error) if not str(error).startswith("cannot be read") else f"{what} {error}"
        raise UnreadableError(named) from error
    except OSError as error:
        raise UnreadableError(f"{what} cannot be read: {error.strerror}") from error


def read_up_to(fd: int, offset: int, length: int) -> bytes:
    """Bytes [offset, offset + length) of a file, fewer only where it ends: pread, repeated.

    Raises UnreadableError where the medium does not give them.
    """
    data = _pread(fd, length, offset)
    if len(data) == length:
        return data
    parts = [data]
    left = length - len(data)
    while left:
        data = _pread(fd, left, offset + length - left)
        if not data:
            if _size(fd) > offset + length - left:
                raise UnreadableError("cannot be read: the system says that the file ends before its end")
            break
        parts.append(data)
        left -= len(data)
    return b"".join(parts)


def read_exactly(fd: int, offset: int, length: int) -> bytes:
    """Bytes [offset, offset + length) of a file.

    Raises FormatError where the file ends before, UnreadableError where the medium does not give them.
    """
    data = read_up_to(fd, offset, length)
    if len(data) != length:
        raise FormatError(f"the file ends {length - len(data)} bytes too early")
    return data


def _pread(fd: int, length: int, offset: int) -> bytes:
    try:
        return os.pread(fd, length, offset)
    except OSError as error:
        raise UnreadableError(f"cannot be read: {error.strerror}") from error


def _size(fd: int) -> int:
    try:
        return os.fstat(fd).st_size
    except OSError as error:
        raise UnreadableError(f"cannot be read: {error.strerror}") from error
