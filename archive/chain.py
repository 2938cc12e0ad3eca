"""Follow the chain through a segment: one place where a record on disk is told from anything else.

Rule: reads only, at given offsets, and trusts nothing it has not checked. Recovery, readers and verify all use it.
"""

import os
import struct
from dataclasses import dataclass

from archive import segment
from archive.merkle import Frontier, leaf_hash
from archive.record import HEADER, MAGIC, RecordHeader, genesis_hash, parse_header, record_size, trailer
from archive.segment import Footer, SegmentHeader
from keys.errors import FormatError

_SEARCH_BYTES = 1 << 20
_LOOK = struct.Struct(">4s4xQ28xQ")  # of a record header: magic, number, bytes of the body
_LOOK_BYTES = 8 << 10  # small records stand close together, large ones are leapt over


@dataclass(slots=True)
class Chain:
    """Where the chain stands: the next record's number, the hash it must chain to, and the tree so far."""

    next_seq: int
    head: bytes
    tree: Frontier

    @classmethod
    def start(cls, archive_id: bytes) -> "Chain":
        """The state before the first record of an archive."""
        return cls(0, genesis_hash(archive_id), Frontier())

    @classmethod
    def behind(cls, footer: Footer) -> "Chain":
        """The state behind a sealed segment."""
        return cls(footer.tree_size, footer.head, footer.frontier())

    def complaint(self, header: RecordHeader) -> str | None:
        """Why this record cannot be the next one, or None."""
        if header.seq != self.next_seq:
            return f"record {header.seq} stands where record {self.next_seq} belongs"
        if header.prev_leaf != self.head:
            return f"record {header.seq} does not chain to the record before it"
        return None

    def follow(self, raw: bytes) -> None:
        """Take the next record's 160 header bytes into chain and tree."""
        self.next_seq += 1
        self.head = leaf_hash(raw)
        self.tree.append(self.head)


def read_record(fd: int, at: int, stop: int) -> tuple[bytes, RecordHeader, int]:
    """The header of the record at `at`, raw and parsed, and the offset behind the record's trailer and padding.

    Raises FormatError where no whole record lies before `stop`. The body is not read.
    """
    if at + HEADER.size > stop:
        raise FormatError("a record header is cut")
    raw = os.pread(fd, HEADER.size, at)
    header = parse_header(raw)
    end = at + record_size(header.body_len)
    if end > stop:
        raise FormatError("a record is cut")
    closing = trailer(header.body_len)
    if os.pread(fd, len(closing), end - len(closing)) != closing:
        raise FormatError("the end of a record is damaged")
    return raw, header, end


def read_segment_header(fd: int) -> SegmentHeader:
    """The header of a segment file. Raises FormatError."""
    return segment.parse_segment_header(os.pread(fd, segment.HEADER.size, 0))


def read_footer(fd: int, size: int) -> tuple[Footer, int] | None:
    """The footer of a segment file of `size` bytes and its offset; None where none ends there. Raises FormatError."""
    if size < segment.HEADER.size + segment.FOOTER_TAIL.size:
        return None
    length = segment.footer_length(os.pread(fd, segment.FOOTER_TAIL.size, size - segment.FOOTER_TAIL.size))
    if length is None or length > size - segment.HEADER.size:
        return None
    return segment.parse_footer(os.pread(fd, length, size - length)), size - length


def pass_over(fd: int, at: int, stop: int, seq: int) -> int:
    """The offset of record `seq`, from that of an earlier record; or of the first place where no whole record starts.

    Lengths are believed, nothing else is looked at: about 0.5 us for a small record, 2 us for a large one.
    """
    while at + _LOOK.size <= stop:
        block = os.pread(fd, min(_LOOK_BYTES, stop - at), at)
        place = 0
        while place + _LOOK.size <= len(block):
            magic, number, length = _LOOK.unpack_from(block, place)
            end = place + record_size(length)
            if magic != MAGIC or number >= seq or at + end > stop:
                return at + place
            place = end
        at += place
    return at


def find_record(fd: int, start: int, stop: int, least_seq: int) -> int | None:
    """The offset of the next valid record header at or after `start` whose number is at least `least_seq`, or None."""
    while start < stop:
        block = os.pread(fd, min(_SEARCH_BYTES + HEADER.size, stop - start), start)
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
