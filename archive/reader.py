"""Read records beside a live writer: verified bodies, ranges of large bodies, headers in order.

Rule: it never writes and holds no lock; at an incomplete tail it stops as if the log ended there.
"""

import hashlib
import threading
from collections.abc import Callable, Iterator
from functools import partial

from coffer.archive.format import segment
from coffer.archive.format.chain import offsets_of, pass_over, read_footer, read_record
from coffer.archive.format.entry import OWN_LOG, Position
from coffer.archive.format.record import HEADER, RecordHeader, parse_header, record_size
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.segment_store import LOG, segment_numbers
from coffer.archive.store.source import Source
from coffer.keys.disk.reading import reading
from coffer.keys.errors import FormatError, IntegrityError


class LogReader:
    """Reads the records of one archive. Thread-safe. Keeps every segment it has read from open until `close`."""

    def __init__(self, folder: ArchiveFolder) -> None:
        self._segments = folder.segment_store()
        self._open: dict[int, Source] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close every segment. Later reads reopen them."""
        with self._lock:
            for source in self._open.values():
                source.close()
            self._open.clear()

    def read_header(self, position: Position) -> RecordHeader:
        """The header of a record.

        Raises IntegrityError naming segment, offset and record; NotFoundError, UnreadableError.
        """
        try:
            with reading(_where(position)):
                header = parse_header(self._source(position.segment).read(position.offset, HEADER.size))
        except FormatError as error:
            raise self.damaged(position, str(error)) from error
        if header.seq != position.seq or header.body_len != position.body_len:
            raise self.damaged(position, "a different record is here")
        return header

    def read_body(self, position: Position) -> bytes:
        """The body of a record, checked against the hash in its header. Raises the same errors as `read_header`."""
        header = self.read_header(position)
        body = self._read(position, 0, header.body_len)
        if hashlib.sha256(body).digest() != header.body_sha256:
            raise self.damaged(position, "the body does not match its hash")
        return body

    def range_of(self, position: Position) -> Callable[[int, int], bytes]:
        """A `read(offset, length)` over the body, for bodies too large for memory.

        Ranges are not checked against the header's hash: the body's AEAD checks every chunk that is used.
        """
        self.read_header(position)
        return partial(self._read, position)

    def records(self, from_seq: int = 0, *, behind: Position | None = None) -> Iterator[tuple[Position, RecordHeader]]:
        """Complete records from `from_seq` on, in order, up to the end of what is written. Raises IntegrityError, and
        UnreadableError if the medium cannot be read, which is not taken for the end.

        `behind` is the position of a record before `from_seq`: nothing before it is read again.
        """
        numbers = segment_numbers(self._segments)
        for number in numbers:
            if behind is not None and number < behind.segment:
                continue
            with reading(f"segment {number}"):
                source = self._source(number)
                size = source.size
                sealed = self._footer(source, size, is_last=number == numbers[-1])
                if sealed is not None and sealed[0].tree_size <= from_seq:
                    continue
                # Only the last segment may be growing: in any other, stopping early would skip records silently.
                is_sealed = sealed is not None or number != numbers[-1]
                at, stop = segment.HEADER.size, sealed[1] if sealed else size
                if behind is not None and number == behind.segment:
                    at = behind.offset + record_size(behind.body_len)
                at = pass_over(source, at, stop, from_seq)
                yield from self._records(source, number, at, stop, is_sealed=is_sealed)

    def latest(self, kind: int) -> Iterator[tuple[Position, RecordHeader]]:
        """The records of a kind, the newest first. Headers of others are not checked: what damage hides, `coffer
        verify` reports. Raises IntegrityError for a damaged one of this kind, UnreadableError."""
        numbers = segment_numbers(self._segments)
        for number in reversed(numbers):
            with reading(f"segment {number}"):
                source = self._source(number)
                sealed = self._footer(source, source.size, is_last=number == numbers[-1])
                stop = sealed[1] if sealed else source.size
                for at in reversed(offsets_of(source, segment.HEADER.size, stop, kind)):
                    yield next(self._records(source, number, at, stop, is_sealed=True))

    @staticmethod
    def _footer(source: Source, size: int, *, is_last: bool) -> tuple[segment.Footer, int] | None:
        """A segment's footer; None if the last segment has a damaged one, which the next writer makes again."""
        try:
            return read_footer(source, size)
        except FormatError:
            if is_last:
                return None
            raise

    def _records(
        self, source: Source, number: int, at: int, stop: int, *, is_sealed: bool
    ) -> Iterator[tuple[Position, RecordHeader]]:
        while at < stop:
            try:
                _, header, _, end = read_record(source, at, stop)
            except FormatError as error:
                if is_sealed:
                    raise IntegrityError(f"segment {number}, offset {at}: {error}", hint=_HINT) from error
                return
            yield Position(OWN_LOG, header.seq, number, at, header.body_len), header
            at = end

    def _source(self, number: int) -> Source:
        with self._lock:
            source = self._open.get(number)
            if source is None:
                source = self._open[number] = self._segments.open(LOG, number)
            return source

    def _read(self, position: Position, offset: int, length: int) -> bytes:
        try:
            with reading(_where(position)):
                return self._source(position.segment).read(position.offset + HEADER.size + offset, length)
        except FormatError as error:
            raise self.damaged(position, "the body is truncated") from error

    @staticmethod
    def damaged(position: Position, what: str) -> IntegrityError:
        """The error for a damaged record: where it is, and what is wrong."""
        return IntegrityError(f"{_where(position)}: {what}", hint=_HINT)


def _where(position: Position) -> str:
    return f"segment {position.segment}, offset {position.offset}, record {position.seq}"


_HINT = "run coffer verify; restore the segment from a backup or replica"
