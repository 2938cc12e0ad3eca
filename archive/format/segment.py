"""A segment file: an 88-byte header, records back to back and, once full, a footer that indexes them.

Rule: pure codec. Every byte of a segment belongs to its header, a record or its footer, and each is covered by a check.
The footer holds the state of chain and tree after its last record: opening reads one footer, not all records.
"""

import hashlib
import struct
import zlib
from dataclasses import dataclass

from coffer.archive.format.merkle import Frontier
from coffer.keys.errors import FormatError

MAGIC = b"CFSG"
FOOTER_MAGIC = b"CFSF"
FOOTER_END = b"CFSX"
VERSION = 3
HEADER = struct.Struct(">4sHH16sQQ32sIQI")
FOOTER_HEAD = struct.Struct(">4sHHQ32sQQ")  # magic, version, tree hashes, records, last leaf hash, tree size, last time
FOOTER_TAIL = struct.Struct(">Q32s4s")  # length of the whole footer, SHA-256 of everything before it, end magic
HASH_BYTES, OFFSET_BYTES = 32, 8
MOST_RECORDS = 1 << 22  # per segment: the footer, which is read as a whole, stays small
assert HEADER.size == 88


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """The archive and log that a segment belongs to, where in its chain the segment begins, and in which epoch of the
    log (`docs/adr/0029-one-format.md`): nothing that does not follow from the records before it and its own first."""

    archive_id: bytes
    number: int
    first_seq: int
    prev_leaf: bytes
    log: int = 0
    epoch: int = 0

    def serialize(self) -> bytes:
        """The 88 header bytes, big endian, ending in their CRC-32."""
        packed = HEADER.pack(
            MAGIC, VERSION, 0, self.archive_id, self.number, self.first_seq, self.prev_leaf, self.log, self.epoch, 0,
        )  # fmt: skip
        return packed[:-4] + zlib.crc32(packed[:-4]).to_bytes(4, "big")


def parse_segment_header(data: bytes) -> SegmentHeader:
    """Parse exactly one header. Raises FormatError on anything `serialize` would not have written."""
    if len(data) != HEADER.size:
        raise FormatError("the segment is shorter than its header")
    magic, version, _, archive_id, number, first_seq, prev, log, epoch, _ = HEADER.unpack(data)
    if magic != MAGIC:
        raise FormatError("this file is not a segment")
    if version != VERSION:
        raise FormatError(f"segment version {version} is unknown", hint="open it with the Coffer that wrote it")
    parsed = SegmentHeader(archive_id, number, first_seq, prev, log, epoch)
    if parsed.serialize() != data:
        raise FormatError("the segment header is damaged")
    return parsed


@dataclass(frozen=True, slots=True)
class Footer:
    """The record offsets of a sealed segment, the state of chain and tree after the last record, and its time."""

    offsets: tuple[int, ...]
    head: bytes
    tree_size: int
    edge: tuple[bytes, ...]
    time_ms: int

    def serialize(self) -> bytes:
        """The footer bytes; their length and SHA-256 come last, because readers start from the end of the file."""
        body = FOOTER_HEAD.pack(
            FOOTER_MAGIC, VERSION, len(self.edge), len(self.offsets), self.head, self.tree_size, self.time_ms
        )
        body += b"".join(self.edge) + struct.pack(f">{len(self.offsets)}Q", *self.offsets)
        return body + FOOTER_TAIL.pack(len(body) + FOOTER_TAIL.size, hashlib.sha256(body).digest(), FOOTER_END)

    def frontier(self) -> Frontier:
        """The tree after the segment, ready to grow."""
        return Frontier(self.tree_size, list(self.edge))


@dataclass(frozen=True, slots=True)
class FooterHead:
    """The fixed part of a footer: the number of records, the last record's leaf hash, the tree's size, the last
    record's time; and the length in bytes of a footer with lists for so many."""

    records: int
    head: bytes
    tree_size: int
    time_ms: int
    size: int


def parse_footer_head(data: bytes) -> FooterHead:
    """Parse the fixed part of a footer and ignore the lists after it. Raises FormatError."""
    magic, version, hashes, records, head, tree_size, time_ms = FOOTER_HEAD.unpack_from(data)
    if magic != FOOTER_MAGIC:
        raise FormatError("the segment footer is damaged")
    if version != VERSION:
        raise FormatError(f"segment version {version} is unknown", hint="open it with the Coffer that wrote it")
    if hashes != tree_size.bit_count():
        raise FormatError("the segment footer describes an impossible tree")
    if records > MOST_RECORDS:
        raise FormatError("the segment footer claims more records than a segment can hold")
    size = FOOTER_HEAD.size + hashes * HASH_BYTES + records * OFFSET_BYTES + FOOTER_TAIL.size
    return FooterHead(records, head, tree_size, time_ms, size)


def footer_size(records: int) -> int:
    """The largest footer of a segment with this many records, in bytes: the tree's edge has at most 64 hashes."""
    return FOOTER_HEAD.size + 64 * HASH_BYTES + OFFSET_BYTES * records + FOOTER_TAIL.size


MAX_FOOTER_BYTES = footer_size(MOST_RECORDS)


def footer_length(tail: bytes) -> int | None:
    """The length of the footer whose last FOOTER_TAIL.size bytes are `tail`; None if no footer ends here."""
    length, _, magic = FOOTER_TAIL.unpack(tail)
    valid = magic == FOOTER_END and FOOTER_HEAD.size + FOOTER_TAIL.size <= length <= MAX_FOOTER_BYTES
    return int(length) if valid else None


def parse_footer(data: bytes) -> Footer:
    """Parse exactly one footer. Raises FormatError on anything `serialize` would not have written."""
    if len(data) < FOOTER_HEAD.size + FOOTER_TAIL.size:
        raise FormatError("the segment footer is cut")
    if FOOTER_TAIL.unpack(data[-FOOTER_TAIL.size :])[1] != hashlib.sha256(data[: -FOOTER_TAIL.size]).digest():
        raise FormatError("the segment footer is damaged")
    head = parse_footer_head(data)
    if head.size != len(data):
        raise FormatError("the segment footer has the wrong length")
    at = len(data) - FOOTER_TAIL.size - head.records * OFFSET_BYTES
    edge = tuple(data[i : i + HASH_BYTES] for i in range(FOOTER_HEAD.size, at, HASH_BYTES))
    offsets = struct.unpack_from(f">{head.records}Q", data, at)
    footer = Footer(offsets, head.head, head.tree_size, edge, head.time_ms)
    if footer.serialize() != data:
        raise FormatError("the segment footer is damaged")
    return footer
