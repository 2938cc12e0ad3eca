"""Follow the chain through a segment: the one place that decides whether bytes on disk are a record.

Rule: reads only, at given offsets, and trusts nothing it has not checked. Recovery, readers and verification all use
it.
"""

import hashlib
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from coffer.archive.format import segment
from coffer.archive.format.epoch import LONGEST_BODY, stated_epoch
from coffer.archive.format.merkle import Frontier, leaf_hash
from coffer.archive.format.order import Order
from coffer.archive.format.record import (
    HEADER,
    MAGIC,
    RecordHeader,
    genesis_hash,
    parse_header,
    parse_trailer,
    record_size,
)
from coffer.archive.format.segment import Footer, SegmentHeader
from coffer.archive.store.source import Source
from coffer.keys.errors import FormatError

_SEARCH_BYTES = 1 << 20
_SKIP = struct.Struct(">4s2xHQ28xQ")  # of a record header: magic, kind, number, length of the body
_SKIP_BYTES = 8 << 10  # small records are read many at a time, large ones are skipped


@dataclass(slots=True)
class Chain:
    """The state of the chain: the next record's number, the hash it must chain to, the tree so far, and what the next
    record's time and group must follow."""

    next_seq: int
    head: bytes
    tree: Frontier
    order: Order = field(default_factory=Order)

    @classmethod
    def start(cls, archive_id: bytes) -> "Chain":
        """The state before the first record of an archive."""
        return cls(0, genesis_hash(archive_id), Frontier())

    @classmethod
    def behind(cls, footer: Footer) -> "Chain":
        """The state after a sealed segment."""
        return cls(footer.tree_size, footer.head, footer.frontier(), Order(footer.time_ms))

    def copy(self) -> "Chain":
        """An independent copy of this state."""
        return Chain(self.next_seq, self.head, Frontier(self.tree.size, list(self.tree.edge)), self.order.copy())

    def complaint(self, header: RecordHeader) -> str | None:
        """Why this record cannot be the next one; None if it can."""
        if header.seq != self.next_seq:
            return f"record {header.seq} stands where record {self.next_seq} belongs"
        if header.prev_leaf != self.head:
            return f"record {header.seq} does not chain to the record before it"
        return self.order.complaint(header)

    def follow(self, raw: bytes, tag: bytes) -> None:
        """Add the next record, by its 160 header bytes and the tag in its trailer, to chain and tree."""
        self.next_seq += 1
        self.head = leaf_hash(raw)
        self.tree.append(self.head)
        self.order.follow(raw, tag)


class RecordOnDisk(NamedTuple):
    """A record without its body: its header, raw and parsed, the tag in its trailer (zeros: none), and the offset after
    the record."""

    raw: bytes
    header: RecordHeader
    tag: bytes
    end: int


def read_record(source: Source, at: int, stop: int) -> RecordOnDisk:
    """The record at `at`.

    The body is not read. Raises FormatError if no whole record lies before `stop`, UnreadableError if the medium cannot
    be read.
    """
    if at + HEADER.size > stop:
        raise FormatError("a record header is cut")
    raw = source.read(at, HEADER.size)
    header = parse_header(raw)
    end = at + record_size(header.body_len)
    if end > stop:
        raise FormatError("a record is cut")
    body_end = at + HEADER.size + header.body_len
    tag = parse_trailer(source.read(body_end, end - body_end), header.body_len)
    return RecordOnDisk(raw, header, tag, end)


def read_segment_header(source: Source) -> SegmentHeader:
    """The header of a segment. Raises FormatError, UnreadableError."""
    return segment.parse_segment_header(source.read(0, min(source.size, segment.HEADER.size)))


def read_first_header(source: Source) -> RecordHeader | None:
    """The header of a segment's first record; None if no whole header stands there. Raises UnreadableError."""
    try:
        return parse_header(source.read(segment.HEADER.size, HEADER.size))
    except FormatError:
        return None


def read_epoch(source: Source, first: RecordHeader) -> int:
    """The epoch that a segment's first record, a LOG_EPOCH, begins, by its body. Raises FormatError if it is damaged or
    no such record, UnreadableError."""
    if first.body_len > LONGEST_BODY:
        raise FormatError("the record that begins an epoch of the log is longer than any")
    body = source.read(segment.HEADER.size + HEADER.size, first.body_len)
    if hashlib.sha256(body).digest() != first.body_sha256:
        raise FormatError("the body does not match its hash")
    if any(first.study_key_id) or first.content_id != first.body_sha256:
        raise FormatError("the record that begins an epoch of the log names a key or another content")
    return stated_epoch(body)


def read_footer(source: Source, size: int) -> tuple[Footer, int] | None:
    """The footer of a segment of `size` bytes and its offset; None if no footer ends there.

    Raises FormatError, UnreadableError.
    """
    if size < segment.HEADER.size + segment.FOOTER_TAIL.size:
        return None
    length = segment.footer_length(source.read(size - segment.FOOTER_TAIL.size, segment.FOOTER_TAIL.size))
    if length is None or length > size - segment.HEADER.size:
        return None
    return segment.parse_footer(source.read(size - length, length)), size - length


@dataclass(frozen=True, slots=True)
class SegmentEnd:
    """The end of a sealed segment, by its footer: leaf hash, offset and time (ms since 1970) of the last record, and
    the number of records in the log up to there."""

    head: bytes
    offset: int
    tree_size: int
    time_ms: int


def read_segment_end(source: Source, size: int) -> SegmentEnd | None:
    """The end of a segment of `size` bytes, None if no footer ends there. It takes two rounds of reads.

    The footer's hash is not checked: the caller compares the result with the neighbouring segments and the last record.
    Raises FormatError, UnreadableError.
    """
    if size < segment.HEADER.size + segment.FOOTER_TAIL.size:
        return None
    tail_at = size - segment.FOOTER_TAIL.size
    length = segment.footer_length(source.read(tail_at, segment.FOOTER_TAIL.size))
    if length is None or length > size - segment.HEADER.size:
        return None
    raw_head, raw_last = source.read_many(
        ((size - length, segment.FOOTER_HEAD.size), (tail_at - segment.OFFSET_BYTES, segment.OFFSET_BYTES))
    )
    head = segment.parse_footer_head(raw_head)
    if head.size != length or not head.records:
        raise FormatError("the segment footer has the wrong length")
    last = int.from_bytes(raw_last, "big")
    if not segment.HEADER.size <= last <= size - length - HEADER.size:
        raise FormatError("the segment footer names no record of it")
    return SegmentEnd(head.head, last, head.tree_size, head.time_ms)


def pass_over(source: Source, at: int, stop: int, seq: int) -> int:
    """The offset of record `seq`, or of the first place where no whole record starts; `at` is an earlier record's.

    Lengths are trusted and nothing else is checked: about 0.5 us for a small record, 2 us for a large one. Raises
    UnreadableError.
    """
    for offset, _, number, end in _glance(source, at, stop):
        if number >= seq:
            return offset
        at = end
    return at


def offsets_of(source: Source, at: int, stop: int, kind: int) -> list[int]:
    """The offsets of the records of a kind that start at or after `at`, a record's offset, up to the first place where
    no whole record starts. What is trusted, cost and errors as `pass_over`."""
    return [offset for offset, found, _, _ in _glance(source, at, stop) if found == kind]


def _glance(source: Source, at: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """Offset, kind, number and end of each record from `at` on, as their headers say without being checked."""
    while at + _SKIP.size <= stop:
        try:
            block = source.read(at, min(_SKIP_BYTES, stop - at))
        except FormatError:
            return  # a writer cut a torn end off meanwhile
        place = 0
        while place + _SKIP.size <= len(block):
            magic, kind, number, length = _SKIP.unpack_from(block, place)
            end = place + record_size(length)
            if magic != MAGIC or at + end > stop:
                return
            yield at + place, kind, number, at + end
            place = end
        at += place


def find_record(source: Source, start: int, stop: int, least_seq: int) -> int | None:
    """The offset of the next valid record header at or after `start` with a number of at least `least_seq`, or None.

    Raises UnreadableError.
    """
    while start < stop:
        try:
            block = source.read(start, min(_SEARCH_BYTES + HEADER.size, stop - start))
        except FormatError:
            return None  # a writer cut a torn end off meanwhile
        at = block.find(MAGIC)
        while at >= 0:
            try:
                if parse_header(block[at : at + HEADER.size]).seq >= least_seq:
                    return start + at
            except FormatError:
                pass
            at = block.find(MAGIC, at + 1)
        start += _SEARCH_BYTES
    return None


def is_zero(source: Source, at: int, stop: int) -> bool:
    """Whether all bytes [at, stop) are zeros. Raises FormatError, UnreadableError."""
    while at < stop:
        piece = source.read(at, min(stop - at, _SEARCH_BYTES))
        if piece.count(0) < len(piece):
            return False
        at += len(piece)
    return True
