"""Stored bodies, opened: the sealed bytes from the log, the key by the id in the record, and the checks between.

Rule: it needs no writer and no index, so any process that gets keys can read. A small body is read at once and checked
against its record's hash before use; of a large one the AEAD checks every chunk that is used.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from archive.body import BodyContext, BodyReader
from archive.log import Position
from archive.reader import LogReader
from archive.record import Kind
from keys.keyring import StudyKey

_IN_MEMORY_BYTES = 8 << 20


class Bodies:
    """Opens stored bodies. Thread-safe as far as `study` is."""

    def __init__(self, archive_id: bytes, reader: LogReader, study: Callable[[bytes], StudyKey]) -> None:
        """`study` gives a study's key by its id, and raises KeyUnavailableError or ShreddedError."""
        self._archive_id = archive_id
        self._reader = reader
        self._study = study

    @contextmanager
    def open(self, study_key_id: bytes, content_id: bytes, position: Position) -> Iterator[BodyReader]:
        """An object's body. Raises IntegrityError, KeyUnavailableError, ShreddedError, NotFoundError."""
        context = BodyContext(self._archive_id, study_key_id, content_id, Kind.OBJECT)
        key = self._study(study_key_id).blob
        if position.body_len <= _IN_MEMORY_BYTES:
            whole = memoryview(self._reader.read_body(position))
            yield BodyReader(key, context, lambda at, length: bytes(whole[at : at + length]), position.body_len)
        else:
            yield BodyReader(key, context, self._reader.range_of(position), position.body_len)
