"""An entry that is ready to be committed: it fits a record header, and its body is hashed or is a stream that will be
held to its hash."""

import hashlib
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

from coffer.archive.commit.commit_log import Body
from coffer.archive.format.entry import Entry, SealedFile
from coffer.archive.format.record import record_size
from coffer.archive.store.sealed_file import opened, pieces
from coffer.keys.disk.reading import read_exactly

__all__ = ["HashedEntry", "hashed_entry", "require_header", "size_of"]


class HashedEntry(NamedTuple):
    """An entry with its body as it can be committed, the length of that in bytes, and its SHA-256."""

    entry: Entry
    body: Body
    length: int
    sha256: bytes


def require_header(entry: Entry) -> None:
    """Raise ValueError for values that no header can hold: checked here, they fail the caller and not the log."""
    numbers = ((entry.kind, 16), (entry.flags, 32), (entry.least_ms, 64))
    sizes_fit = (len(entry.study_key_id), len(entry.content_id)) == (16, 32)
    sizes_fit &= not isinstance(entry.body, SealedFile) or (entry.body.length >= 0 and len(entry.body.sha256) == 32)
    if not sizes_fit or any(not 0 <= number < 1 << bits for number, bits in numbers):
        raise ValueError("the entry does not fit a record header")


def hashed_entry(entry: Entry, files: ExitStack) -> HashedEntry:
    """Hash the body, or open the file that it is in until `files` is left. Raises SourceError."""
    body = entry.body
    if isinstance(body, SealedFile):
        file = files.enter_context(opened(body.path, body.length))

        def read(offset: int, size: int) -> bytes:
            body.went_on()
            return read_exactly(file, offset, size)

        stream = partial(pieces, read, body.length, body.sha256)
        return HashedEntry(entry, stream, body.length, body.sha256)
    return HashedEntry(entry, body, memoryview(body).nbytes, hashlib.sha256(body).digest())


def size_of(entry: Entry) -> int:
    """The size of its record, in bytes."""
    body = entry.body
    return record_size(body.length if isinstance(body, SealedFile) else memoryview(body).nbytes)
