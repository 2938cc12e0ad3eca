"""The record: a 160-byte header, a body of ciphertext, a trailer with room for the tag of its group.

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
VERSION = 3
HEADER = struct.Struct(">4sHHQQ16sIQ32s32s32sQI")
TRAILER = struct.Struct(">Q80sI4s")  # length of the body, tag of the group, CRC-32 of both, end magic
TAG_BYTES = 80
NO_TAG = bytes(TAG_BYTES)  # more records of the group follow
ALIGNMENT = 8
CLEAR_KINDS = range(256, 512)  # their bodies are not sealed
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
    LOG_EPOCH = 256  # first record of an epoch of the log; its body is in the clear
    REGISTER = 257  # reserved: the signed sizes and roots of other logs, in the clear


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
        raise FormatError(f"record version {version} is unknown", hint="open it with the Coffer that wrote it")
    return RecordHeader(kind, seq, time_ms, key_id, flags, length, content_id, body, prev, group)


def is_of_another_version(data: bytes) -> bool:
    """Whether this is a whole header, of a version that `parse_header` does not know: no torn write leaves that."""
    if len(data) != HEADER.size or int.from_bytes(data[156:], "big") != zlib.crc32(data[:156]):
        return False
    return data[:4] == MAGIC and int.from_bytes(data[4:6], "big") != VERSION


def genesis_hash(archive_id: bytes, log: int = 0) -> bytes:
    """The hash that the first record of a log chains to: the records of one log can never start another."""
    return hashlib.sha256(b"coffer/genesis/v2\0" + archive_id + log.to_bytes(4, "big")).digest()


def trailer(body_len: int, tag: bytes = NO_TAG) -> bytes:
    """Trailer and padding for a body: they distinguish a complete record from a torn write.

    `tag` is the 80-byte tag of the group (`archive.format.group`) in its last record, zeros in all others.
    """
    packed = TRAILER.pack(body_len, tag, 0, END_MAGIC)
    crc = zlib.crc32(packed[:88]).to_bytes(4, "big")
    return packed[:88] + crc + END_MAGIC + bytes(-(HEADER.size + body_len + TRAILER.size) % ALIGNMENT)


def parse_trailer(data: bytes, body_len: int) -> bytes:
    """The tag in a record's trailer and padding, zeros if none. Raises FormatError on anything `trailer` would not have
    written for a body of this length."""
    tag = data[8:88]
    if data != trailer(body_len, tag if len(tag) == TAG_BYTES else NO_TAG):
        raise FormatError("the end of a record is damaged")
    return tag


def record_size(body_len: int) -> int:
    """The size of a whole record on disk, in bytes."""
    size = HEADER.size + body_len + TRAILER.size
    return size + -size % ALIGNMENT
