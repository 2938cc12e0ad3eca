"""The tag of a group: a signed statement of which records were synced together, and where they end the chain.

Rule: pure. The statement has a zero byte, which no signed note has, so that one Ed25519 key can sign both and neither
can be taken for the other. The head binds every record before it, so the newest valid tag vouches for all of them. It
names the lineage of its writer as well: which of the copies of an archive, all with the same keys, wrote the group.
"""

import struct
from collections.abc import Callable
from typing import Final, NamedTuple

__all__ = ["LINEAGE_BYTES", "NO_LINEAGE", "GroupEnd", "lineage_of", "signature_of"]

LINEAGE_BYTES: Final = 16
NO_LINEAGE: Final = bytes(LINEAGE_BYTES)
_CONTEXT = b"coffer/group/v2\0"
_LAYOUT = struct.Struct(">16sIQQQ32s16s")


class GroupEnd(NamedTuple):
    """A group of records by its end: archive id (16 bytes), log, epoch of the log, number of the group's first record,
    number of records in the log after it, and the leaf hash of its last record (32 bytes)."""

    archive_id: bytes
    log: int
    epoch: int
    first_seq: int
    size: int
    head: bytes

    def statement(self, lineage: bytes) -> bytes:
        """What is signed under a lineage (16 bytes), big endian."""
        return _CONTEXT + _LAYOUT.pack(*self, lineage)

    def tag(self, lineage: bytes, sign: Callable[[bytes], bytes]) -> bytes:
        """The tag under a lineage (16 bytes): the lineage, and the signature (Ed25519, 64 bytes) that `sign` makes."""
        return lineage + sign(self.statement(lineage))


def lineage_of(tag: bytes) -> bytes:
    """The lineage that a tag names (16 bytes)."""
    return tag[:LINEAGE_BYTES]


def signature_of(tag: bytes) -> bytes:
    """The signature in a tag (64 bytes)."""
    return tag[LINEAGE_BYTES:]
