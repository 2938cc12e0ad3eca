"""What stays in a key's place when it is gone, as bytes (pure). Layout: FORMAT.md.

Rule: a key that is gone has a tombstone, one that is missing has none, so that the two are told apart.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from coffer.keys.errors import FormatError

__all__ = ["NO_SUCCESSOR", "Reason", "Tombstone"]

_LAYOUT: Final = struct.Struct(">HHIQQ16s16s")  # version reason epoch scheduled_ms until_ms name successor
_VERSION: Final = 1
NO_SUCCESSOR: Final = bytes(16)


class Reason(IntEnum):
    """Why a key is gone: the study was erased, or it has another key now."""

    SHREDDED = 0
    REKEYED = 1


@dataclass(frozen=True, slots=True)
class Tombstone:
    """What stays of a shredded key: the last epoch it was wrapped under, when it was shredded, until when backups may
    hold it (ms since 1970 UTC), the 16 bytes by which whoever shredded it finds what it sealed, why it is gone, and the
    id of the key that took its place (zeros: none did)."""

    epoch: int
    scheduled_ms: int
    until_ms: int
    name: bytes
    reason: Reason = Reason.SHREDDED
    successor: bytes = NO_SUCCESSOR

    def encode(self) -> bytes:
        """Return the 56 bytes."""
        return _LAYOUT.pack(
            _VERSION, self.reason, self.epoch, self.scheduled_ms, self.until_ms, self.name, self.successor
        )

    @classmethod
    def decode(cls, data: bytes) -> Tombstone:
        """Return the tombstone. Raises FormatError for what FORMAT.md says must be rejected."""
        if len(data) != _LAYOUT.size:
            raise FormatError("a tombstone of the keyring has the wrong length")
        version, reason, epoch, scheduled_ms, until_ms, name, successor = _LAYOUT.unpack(data)
        if version != _VERSION or reason not in {*Reason} or (reason == Reason.REKEYED) != any(successor):
            raise FormatError("a tombstone of the keyring has values that this version never writes")
        return cls(epoch, scheduled_ms, until_ms, name, Reason(reason), successor)
