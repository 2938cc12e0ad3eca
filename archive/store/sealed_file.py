"""A file whose bytes go into the log: looked at before the log is touched, and held against its SHA-256 while it is
copied.

Rule: who made the file may be lying about it, or still be writing to it. So it is opened once, relative to the handle
of its folder, never through a link, and only a regular file with one name and the length that was told; and what is
copied must have the hash that the record's header has by then. Anything else is a `SourceError`, which the log undoes.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from coffer.keys.disk import opening
from coffer.keys.disk.reading import read_exactly
from coffer.keys.errors import FormatError, UnavailableError, UnreadableError

__all__ = ["SourceError", "opened", "pieces"]

_COPY_BYTES: Final = 1 << 20
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # not to wait for the other end of a pipe


class SourceError(UnavailableError):
    """The file is not what it was said to be, or cannot be read. The fault is not the log's, which goes on."""

    def __init__(self, message: str) -> None:
        super().__init__(message, hint="send the object again")


@contextmanager
def opened(path: Path, length: int) -> Iterator[int]:
    """Hold a file of `length` bytes open while the block runs: its descriptor. Raises SourceError."""
    try:
        with opening.below(path) as (folder, name):
            descriptor = os.open(name, _FILE, dir_fd=folder)
    except OSError as error:
        raise SourceError(f"a sealed body cannot be opened: {error.strerror}") from error
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise SourceError("a sealed body is not a file of its own")
        if found.st_size != length:
            raise SourceError(f"a sealed body has {found.st_size} bytes instead of {length}")
        yield descriptor
    finally:
        os.close(descriptor)


def pieces(descriptor: int, length: int, sha256: bytes) -> Iterator[bytes]:
    """The bytes of an open file in order. Raises SourceError before the end where they are not `length` with `sha256`.

    Whoever writes the pieces has written what was hashed: each is read once.
    """
    digest, at = hashlib.sha256(), 0
    while True:
        try:
            piece = read_exactly(descriptor, at, min(length - at, _COPY_BYTES))
        except FormatError as error:
            raise SourceError("a sealed body is shorter than it was") from error
        except UnreadableError as error:
            raise SourceError(f"a sealed body {error}") from error
        digest.update(piece)
        at += len(piece)
        if at == length:
            if digest.digest() != sha256:
                raise SourceError("a sealed body does not have the SHA-256 that it was said to have")
            yield piece
            return
        yield piece
