"""The row that replaces a destroyed key, as bytes (pure). Layout: FORMAT.md.

Rule: a destroyed key has a tombstone and a missing key has none, so the two can be told apart.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from coffer.keys.errors import FormatError

__all__ = ["NO_SUCCESSOR", "Reason", "Tombstone"]

# version reason is_forgotten epoch scheduled_ms until_ms name successor dropped
_LAYOUT: Final = struct.Struct(">HBBIQQ16s16sQ")
_VERSION: Final = 3
NO_SUCCESSOR: Final = bytes(16)


class Reason(IntEnum):
    """Why a key was destroyed: the study was erased, or has a new key."""

    SHREDDED = 0
    REKEYED = 1


@dataclass(frozen=True, slots=True)
class Tombstone:
    """What remains of a destroyed key: the last epoch that wrapped it, when it was shredded and until when backups may
    hold it (ms since 1970 UTC), the 16 bytes by which the index finds what it sealed, the reason, the id of the key
    that replaced it (zeros: none), and the number of the feed's newest entry before its wrapped form left the keyring
    (0: it has not yet): a copy of the keyring whose feed ends there or earlier has the key. With `is_forgotten` the
    name is a random one: it says which tombstones are about the same study, and nothing about which study that was."""

    epoch: int
    scheduled_ms: int
    until_ms: int
    name: bytes
    reason: Reason = Reason.SHREDDED
    successor: bytes = NO_SUCCESSOR
    is_forgotten: bool = False
    dropped: int = 0

    def encode(self) -> bytes:
        """Return the 64 bytes."""
        head = _VERSION, self.reason, self.is_forgotten, self.epoch
        return _LAYOUT.pack(*head, self.scheduled_ms, self.until_ms, self.name, self.successor, self.dropped)

    @classmethod
    def decode(cls, data: bytes) -> Tombstone:
        """Return the tombstone. Raises FormatError for whatever FORMAT.md says a reader must reject."""
        if len(data) != _LAYOUT.size:
            raise FormatError("a tombstone of the keyring has the wrong length")
        version, reason, forgotten, epoch, scheduled_ms, until_ms, name, successor, dropped = _LAYOUT.unpack(data)
        if (
            version != _VERSION
            or reason not in {*Reason}
            or forgotten > 1
            or (reason == Reason.REKEYED) != any(successor)
        ):
            raise FormatError("a tombstone of the keyring has values that this version never writes")
        return cls(epoch, scheduled_ms, until_ms, name, Reason(reason), successor, bool(forgotten), dropped)
