"""A record of officers in the keyring as it was read: what a change of the record compares with.

Rule: the bytes stay sealed here. A change that names a record as it was read happens only while its row is unchanged.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

__all__ = ["RecordAsRead", "RecordKind"]


class RecordKind(Enum):
    """What a record is, and the letter of its rows."""

    HOLD = b"L"
    REQUEST = b"Q"  # to shred, waiting for another officer
    COPY = b"Y"  # of the keyring, or of what opens it

    def row_key(self, record_id: str) -> bytes:
        """Return the key of a record's row; the id is hexadecimal. Raises ValueError for one that is not."""
        return self.value + bytes.fromhex(record_id)


class RecordAsRead(NamedTuple):
    """A record's kind, its id (hexadecimal), and the sealed bytes of its row as they were read."""

    kind: RecordKind
    record_id: str
    sealed: bytes

    @property
    def row_key(self) -> bytes:
        """The key of its keyring row."""
        return self.kind.row_key(self.record_id)

    @property
    def row(self) -> tuple[bytes, bytes]:
        """The key and the bytes of its row: what a transaction expects."""
        return self.row_key, self.sealed
