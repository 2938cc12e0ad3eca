"""An event that waits in the keyring for the writer of the log, as bytes. Layout: FORMAT.md, "Waiting event".

Rule: the body is sealed by the floor above and opaque here. Before the event is appended to the log, its row gets the
number of the log's next record, so that a stop between the append and the row's removal does not append it twice.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from coffer.keys.errors import FormatError

__all__ = ["PREFIX", "UNIQUE", "WaitingEvent"]

PREFIX: Final = b"P"
UNIQUE: Final = 8  # bytes: events of one millisecond get different rows
_LAYOUT: Final = struct.Struct(">HQ16s32sQ")  # kind time_ms study_key_id content_id number; the sealed body follows
_PLACE: Final = struct.Struct(f">1sQ{UNIQUE}s")  # letter time_ms unique
_NOT_TRIED: Final = (1 << 64) - 1
_BACKUP: Final = "restore the keyring from its backup"


@dataclass(frozen=True, slots=True)
class WaitingEvent:
    """One event: the kind, time (ms since 1970 UTC), study key id (16 bytes) and content id (32 bytes) of the record
    that it becomes, its sealed body, 8 random bytes, and once the writer has tried to append it, the number of the
    record from which on to look for it in the log (None: not tried yet)."""

    kind: int
    time_ms: int
    study_key_id: bytes
    content_id: bytes
    body: bytes
    unique: bytes
    number: int | None = None

    @property
    def row_key(self) -> bytes:
        """The key of its keyring row."""
        return _PLACE.pack(PREFIX, self.time_ms, self.unique)

    @property
    def row(self) -> tuple[bytes, bytes]:
        """The key and the bytes of its row: for the transaction of the change that it records."""
        return self.row_key, self.encode()

    def encode(self) -> bytes:
        """Return 66 bytes and the sealed body."""
        number = _NOT_TRIED if self.number is None else self.number
        return _LAYOUT.pack(self.kind, self.time_ms, self.study_key_id, self.content_id, number) + self.body

    @classmethod
    def decode(cls, row_key: bytes, data: bytes) -> WaitingEvent:
        """Return the event of a row. Raises FormatError for whatever FORMAT.md says a reader must reject."""
        if len(data) <= _LAYOUT.size:
            raise FormatError("an event in the keyring is truncated", hint=_BACKUP)
        kind, time_ms, study_key_id, content_id, number = _LAYOUT.unpack_from(data)
        if len(row_key) != _PLACE.size or row_key[:-UNIQUE] != _PLACE.pack(PREFIX, time_ms, b"")[:-UNIQUE]:
            raise FormatError("an event in the keyring is stored under another event's key", hint=_BACKUP)
        tried = None if number == _NOT_TRIED else number
        return cls(kind, time_ms, study_key_id, content_id, data[_LAYOUT.size :], row_key[-UNIQUE:], tried)
