"""Open stored bodies: the sealed bytes from the log, the key by the id in the record, and the checks in between.

Rule: it needs no writer and no index, so any process that gets keys can read. The AEAD checks every chunk that is used
and the position it was sealed for; hashing the ciphertext as well would find nothing more and cost a tenth of a
retrieval.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from coffer.archive.body.sealed_body import BodyContext, BodyReader
from coffer.archive.format.entry import Position
from coffer.archive.format.record import Kind
from coffer.archive.reader import LogReader
from coffer.keys.buffer import Buffer
from coffer.keys.crypto.study_key import StudyKey
from coffer.keys.errors import IntegrityError, SupersededError

_IN_MEMORY_BYTES = 8 << 20
Read = Callable[[int, int], Buffer]


class Bodies:
    """Opens stored bodies. Thread-safe if `study` is."""

    def __init__(self, archive_id: bytes, reader: LogReader, study: Callable[[bytes], StudyKey]) -> None:
        """`study` returns a study's key by its id, and raises KeyUnavailableError or ShreddedError."""
        self._archive_id = archive_id
        self._reader = reader
        self._study = study

    @contextmanager
    def open(self, study_key_id: bytes, content_id: bytes, position: Position) -> Iterator[BodyReader]:
        """An object's body. Raises IntegrityError, KeyUnavailableError, ShreddedError, NotFoundError."""
        context = BodyContext(self._archive_id, study_key_id, content_id, Kind.OBJECT)
        key = self._study(study_key_id).blob
        if position.body_len <= _IN_MEMORY_BYTES:
            read = _within(self._reader.range_of(position)(0, position.body_len))
        else:
            read = self._while_there(study_key_id, position)
        try:
            yield BodyReader(key, context, read, position.body_len)
        except IntegrityError as error:
            raise self._reader.damaged(position, str(error)) from error

    def _while_there(self, study_key_id: bytes, position: Position) -> Read:
        """As `LogReader.range_of`, but raises ShreddedError as soon as the key is shredded."""
        read = self._reader.range_of(position)

        def read_on(at: int, length: int) -> Buffer:
            with contextlib.suppress(SupersededError):  # the read began under the old key, which opens it
                self._study(study_key_id)
            return read(at, length)

        return read_on


def _within(body: Buffer) -> Read:
    whole = memoryview(body)
    return lambda at, length: whole[at : at + length]
