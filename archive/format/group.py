"""The statement that the tag of a group signs: which records were synced together, and where they end the chain.

Rule: pure. The statement has a zero byte, which no signed note has, so that one Ed25519 key can sign both and neither
can be taken for the other. The head binds every record before it, so the newest valid tag vouches for all of them.
"""

import struct
from typing import NamedTuple

__all__ = ["GroupEnd"]

_CONTEXT = b"coffer/group/v1\0"
_LAYOUT = struct.Struct(">16sIQQQ32s")


class GroupEnd(NamedTuple):
    """A group of records by its end: archive id (16 bytes), log, epoch of the log, number of the group's first record,
    number of records in the log after it, and the leaf hash of its last record (32 bytes)."""

    archive_id: bytes
    log: int
    epoch: int
    first_seq: int
    size: int
    head: bytes

    def statement(self) -> bytes:
        """What is signed, big endian; the signature (Ed25519, 64 bytes) is the tag."""
        return _CONTEXT + _LAYOUT.pack(*self)
