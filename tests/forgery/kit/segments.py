"""Segments, taken apart and built again: numbers, chain, groups, body hashes, checksums and footers are made to fit.

Only tags cannot be made: a group whose end has none gets a tag that stood elsewhere.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from zlib import crc32

from tests.forgery.kit.tree import edge, leaf

HEADER, RECORD, TRAILER = 88, 160, 96
LOG_EPOCH = 256
OPEN = bytes(80)  # the tag of a record whose group goes on


@dataclass(frozen=True, slots=True)
class Record:
    """A record's header (160 bytes), sealed body and tag (80: lineage, signature)."""

    header: bytes
    body: bytes
    tag: bytes

    @property
    def kind(self) -> int:
        return int.from_bytes(self.header[6:8], "big")

    @property
    def time_ms(self) -> int:
        return int.from_bytes(self.header[16:24], "big")

    @property
    def ends_group(self) -> bool:
        return self.tag != OPEN

    def with_header(self, at: int, value: bytes) -> Record:
        """The same record with other bytes in its header; the checksum does not fit any more."""
        return replace(self, header=self.header[:at] + value + self.header[at + len(value) :])


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment's header (88 bytes) and records, whether a footer follows, and whatever else stands at its end."""

    header: bytes
    records: tuple[Record, ...]
    is_sealed: bool
    rest: bytes = b""

    @property
    def epoch(self) -> int:
        return int.from_bytes(self.header[76:84], "big")

    def with_header(self, at: int, value: bytes) -> Segment:
        """The same segment with other bytes in its header, and a true checksum."""
        header = self.header[:at] + value + self.header[at + len(value) :]
        return replace(self, header=sealed_header(header))


def sealed_header(header: bytes) -> bytes:
    """A header of a segment or a record with a true checksum."""
    return header[:-4] + crc32(header[:-4]).to_bytes(4, "big")


def parse(data: bytes) -> Segment:
    """Take a segment apart, up to whatever is no record; zeros behind the last one are left out."""
    at, records = HEADER, []
    while data[at : at + 4] == b"CFRC":
        end = at + RECORD + int.from_bytes(data[at + 44 : at + 52], "big")
        if end + TRAILER > len(data):
            break
        records.append(Record(data[at : at + RECORD], data[at + RECORD : end], data[end + 8 : end + 88]))
        at = -(-(end + TRAILER) // 8) * 8
    is_sealed = data[at : at + 4] == b"CFSF" and data[-4:] == b"CFSX"
    rest = b"" if is_sealed or not any(data[at:]) else data[at:]
    return Segment(data[:HEADER], tuple(records), is_sealed, rest)


def leaves_of(log: Iterable[Segment]) -> list[bytes]:
    """The leaf hashes of all records."""
    return [leaf(record.header) for segment in log for record in segment.records]


def genesis(archive_id: bytes) -> bytes:
    """The hash before record 0 of log 0."""
    return sha256(b"coffer/genesis/v2\0" + archive_id + bytes(4)).digest()


def chained(log: Sequence[Segment], archive_id: bytes) -> list[Segment]:
    """The same records in this order as one true log: everything is made to fit but the tags and what was signed."""
    out: list[Segment] = []
    seq, head, time_ms, epoch = 0, genesis(archive_id), 0, 0
    tag = next((r.tag for s in reversed(log) for r in reversed(s.records) if r.ends_group), b"\1" * 80)
    for number, segment in enumerate(log, 1):
        begins = bool(segment.records) and segment.records[0].kind == LOG_EPOCH
        epoch, time_ms = (epoch + 1, 0) if begins else (epoch, time_ms)
        place = struct.pack(">8s16sQQ32sIQ", segment.header[:8], archive_id, number, seq, head, 0, epoch)
        records, group = [], seq
        for at, record in enumerate(segment.records):
            time_ms = max(time_ms + 1, record.time_ms)
            is_last = at == len(segment.records) - 1
            made = replace(record, tag=tag) if is_last and not record.ends_group else record
            made = _begun(made, epoch) if made.kind == LOG_EPOCH else made
            header = (
                made.header[:8] + struct.pack(">QQ", seq, time_ms) + made.header[24:44]
                + struct.pack(">Q", len(made.body)) + made.header[52:84] + sha256(made.body).digest() + head
                + struct.pack(">Q", group) + bytes(4)
            )  # fmt: skip
            made = replace(made, header=sealed_header(header))
            seq, head = seq + 1, leaf(made.header)
            group = seq if made.ends_group else group
            records.append(made)
        out.append(Segment(sealed_header(place + bytes(4)), tuple(records), number < len(log) or segment.is_sealed))
    return out


def _begun(record: Record, epoch: int) -> Record:
    """The record that begins an epoch, of this number: its body is in the clear."""
    try:
        said = json.loads(record.body) | {"epoch": epoch}
    except (ValueError, TypeError):
        return record
    body = json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    return replace(record, body=body).with_header(52, sha256(body).digest())


def serialized(log: Sequence[Segment]) -> list[bytes]:
    """The bytes of each segment, footers computed from the records that are there."""
    out, leaves = [], list[bytes]()
    for segment in log:
        data, offsets = bytearray(segment.header), []
        for record in segment.records:
            offsets.append(len(data))
            leaves.append(leaf(record.header))
            closing = len(record.body).to_bytes(8, "big") + record.tag
            data += record.header + record.body + closing + crc32(closing).to_bytes(4, "big") + b"CFRE"
            data += bytes(-len(data) % 8)
        if segment.is_sealed:
            data += footer(offsets, leaves, segment.records[-1].time_ms if segment.records else 0)
        out.append(bytes(data + segment.rest))
    return out


def footer(offsets: Sequence[int], leaves: Sequence[bytes], time_ms: int) -> bytes:
    """The footer of a segment: `offsets` of its records, all `leaves` of the log up to here."""
    roots = edge(leaves)
    last = leaves[-1] if leaves else bytes(32)
    fixed = struct.pack(">4sHHQ32sQQ", b"CFSF", 3, len(roots), len(offsets), last, len(leaves), time_ms)
    text = fixed + b"".join(roots) + b"".join(at.to_bytes(8, "big") for at in offsets)
    size = len(text) + 44
    text += size.to_bytes(8, "big")
    return text + sha256(text[:-8]).digest() + b"CFSX"
