"""Read bytes of an open file at an offset: all of them, or an error that says whether the medium or the file failed.

Rule: this is the only place in the product that reads by offset. The system may return fewer bytes than exist (NFS,
FUSE, signals): the read is continued, and a short one never counts as the end of the file. An unreadable medium is
reported differently from a short file: the bytes may be there at the next attempt, so what merely could not be read
must not be cut, moved, skipped or reported as altered.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from coffer.keys.errors import FormatError, UnreadableError

__all__ = ["read_exactly", "read_up_to", "reading", "size_of", "unreadable"]

_NO_RIGHT = "run the command as the account that runs Coffer, or let this account read it and the folders above it"


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Name `what` in an UnreadableError from the block, and raise its OSErrors (as of opening) as UnreadableError."""
    try:
        yield
    except UnreadableError as error:
        named = str(error) if not str(error).startswith("cannot be read") else f"{what} {error}"
        raise UnreadableError(named) from error
    except OSError as error:
        raise unreadable(what, error) from error


def unreadable(what: str, error: OSError) -> UnreadableError:
    """Return the UnreadableError for what the system does not let us read; its hint tells lacking rights from a medium
    that fails."""
    hint = _NO_RIGHT if isinstance(error, PermissionError) else ""
    return UnreadableError(f"{what} cannot be read: {error.strerror}", hint=hint)


def read_up_to(fd: int, offset: int, length: int) -> bytes:
    """Return bytes [offset, offset + length) of a file, fewer only where the file ends: pread, repeated.

    Raises UnreadableError where the medium cannot be read.
    """
    data = _pread(fd, length, offset)
    if len(data) == length:
        return data
    parts = [data]
    left = length - len(data)
    while left:
        data = _pread(fd, left, offset + length - left)
        if not data:
            if size_of(fd) > offset + length - left:
                raise UnreadableError("cannot be read: the system reports the end of the file too early")
            break
        parts.append(data)
        left -= len(data)
    return b"".join(parts)


def read_exactly(fd: int, offset: int, length: int) -> bytes:
    """Return bytes [offset, offset + length) of a file.

    Raises FormatError where the file is shorter, UnreadableError where the medium cannot be read.
    """
    try:
        data = os.pread(fd, length, offset)  # not `_pread`: a verification comes here for each large record
    except OSError as error:
        raise UnreadableError(f"cannot be read: {error.strerror}") from error
    if len(data) != length:
        data = read_up_to(fd, offset, length)
        if len(data) != length:
            raise FormatError(f"the file ends {length - len(data)} bytes too early")
    return data


def _pread(fd: int, length: int, offset: int) -> bytes:
    try:
        return os.pread(fd, length, offset)
    except OSError as error:
        raise UnreadableError(f"cannot be read: {error.strerror}") from error


def size_of(fd: int) -> int:
    """Return the size of an open file in bytes. Raises UnreadableError where it cannot be asked."""
    try:
        return os.fstat(fd).st_size
    except OSError as error:
        raise UnreadableError(f"cannot be read: {error.strerror}") from error
