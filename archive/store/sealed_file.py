"""A file whose bytes go into the log: examined before the log is touched, and checked against its SHA-256 while it is
copied.

Rule: whoever made the file may be lying about it, or still be writing to it. So it is opened once, relative to the
handle of its folder, never through a link, and only if it is a regular file with a single name and the stated length;
and the copied bytes must have the hash that is then already in the record's header. Anything else is a `SourceError`,
after which the log undoes the append.
"""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from coffer.keys.disk import opening
from coffer.keys.errors import FormatError, UnavailableError, UnreadableError

__all__ = ["SourceError", "opened", "pieces"]

_COPY_BYTES: Final = 1 << 20
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # non-blocking: it may be a pipe


class SourceError(UnavailableError):
    """The file is not what was stated, or cannot be read. The log itself is not at fault and keeps running."""

    def __init__(self, message: str) -> None:
        super().__init__(message, hint="send the object again")


@contextmanager
def opened(path: Path, length: int) -> Iterator[int]:
    """The descriptor of a file of `length` bytes, open while the block runs. Raises SourceError."""
    try:
        with opening.below(path) as (folder, name):
            descriptor = os.open(name, _FILE, dir_fd=folder)
    except OSError as error:
        raise SourceError(f"a sealed body cannot be opened: {error.strerror}") from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise SourceError("a sealed body is not a regular file with a single name")
        if found.st_size != length:
            raise SourceError(f"a sealed body has {found.st_size} bytes instead of {length}")
        yield descriptor
    finally:
        os.close(descriptor)


def pieces(read: Callable[[int, int], bytes], length: int, sha256: bytes) -> Iterator[bytes]:
    """The bytes that `read(offset, length)` gives, in order. Raises SourceError before the end if they are not `length`
    with `sha256`.

    Each piece is read once, so the caller writes exactly the bytes that were hashed.
    """
    digest, at = hashlib.sha256(), 0
    while True:
        try:
            piece = read(at, min(length - at, _COPY_BYTES))
        except FormatError as error:
            raise SourceError("a sealed body is shorter than it was when opened") from error
        except UnreadableError as error:
            raise SourceError(f"a sealed body {error}") from error
        digest.update(piece)
        at += len(piece)
        if at == length:
            if digest.digest() != sha256:
                raise SourceError("a sealed body does not have the SHA-256 that was stated")
            yield piece
            return
        yield piece
