"""The record: a 160-byte header, a body of ciphertext, a trailer.

Rule: pure. Bytes in, frozen values out; nothing here opens a file or knows a key. Only headers are chained, and each
holds the hash of its body, so the chain is checked without keys, and bodies can be checked in any order.
"""

import hashlib
import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum, IntFlag

from coffer.keys.errors import FormatError

MAGIC = b"CFRC"
END_MAGIC = b"CFRE"
VERSION = 1
HEADER = struct.Struct(">4sHHQQ16sIQ32s32s32sQI")
TRAILER = struct.Struct(">QI4s")
ALIGNMENT = 8
assert HEADER.size == 160
assert HEADER.size % ALIGNMENT == TRAILER.size % ALIGNMENT == 0  # so padding follows from the body alone


class Kind(IntEnum):
    """The kind of a record. The log never looks inside a body; only the code that wrote the kind does."""

    OBJECT = 1
    STUDY_KEY_CREATED = 2
    KEYRING_ROTATED = 3
    SHRED_SCHEDULED = 4
    EPOCH_DESTROYED = 5
    STATE = 6
    AUDIT_HEAD = 7
    REPAIR = 8
    STUDY_REKEYED = 9
    SIGNING_KEY_ROTATED = 10


class Flags(IntFlag):
    """Bits of the header's flags field."""

    UNINDEXED = 1  # stored raw: the data set's header could not be parsed to the end


@dataclass(frozen=True, slots=True)
class RecordHeader:
    """The parsed header. Numbers are unsigned; ids and hashes are raw bytes; `time_ms` counts from 1970 UTC.

    `prev_leaf` is the Merkle leaf hash of the previous record: chain and tree share one hash per record. `group` is the
    number of the first record that was synced together with this one: a record of a later group proves that this one
    had reached stable storage.
    """

    kind: int
    seq: int
    time_ms: int
    study_key_id: bytes
    flags: int
    body_len: int
    content_id: bytes
    body_sha256: bytes
    prev_leaf: bytes
    group: int

    def serialize(self) -> bytes:
        """The 160 header bytes, big endian, ending in the CRC-32 of the 156 before it."""
        packed = HEADER.pack(
            MAGIC, VERSION, self.kind, self.seq, self.time_ms, self.study_key_id, self.flags, self.body_len,
            self.content_id, self.body_sha256, self.prev_leaf, self.group, 0,
        )  # fmt: skip
        return packed[:156] + zlib.crc32(packed[:156]).to_bytes(4, "big")


def parse_header(data: bytes) -> RecordHeader:
    """Parse exactly one serialized header. Raises FormatError on anything `serialize` would not have written."""
    if len(data) != HEADER.size:
        raise FormatError(f"a record header is {HEADER.size} bytes, not {len(data)}")
    magic, version, kind, seq, time_ms, key_id, flags, length, content_id, body, prev, group, crc = HEADER.unpack(data)
    if magic != MAGIC:
        raise FormatError("no record starts here")
    if crc != zlib.crc32(data[:156]):
        raise FormatError("the record header is damaged (CRC)")
    if version != VERSION:
        raise FormatError(f"record version {version} is unknown", hint="open it with a newer Coffer")
    if group > seq:
        raise FormatError("a record's group begins after the record itself")
    return RecordHeader(kind, seq, time_ms, key_id, flags, length, content_id, body, prev, group)


def genesis_hash(archive_id: bytes) -> bytes:
    """The hash that the first record chains to: the records of one archive can never start another."""
    return hashlib.sha256(b"coffer/genesis/v1\0" + archive_id).digest()


def trailer(body_len: int) -> bytes:
    """Trailer and padding for a body: they distinguish a complete record from a torn write."""
    crc = zlib.crc32(body_len.to_bytes(8, "big"))
    return TRAILER.pack(body_len, crc, END_MAGIC) + bytes(-(HEADER.size + body_len + TRAILER.size) % ALIGNMENT)


def record_size(body_len: int) -> int:
    """The size of a whole record on disk, in bytes."""
    size = HEADER.size + body_len + TRAILER.size
    return size + -size % ALIGNMENT
