"""How far the erasure of each shredded study is.

Rule: `scheduled` means that no process of this archive gives the key away any more; `effective` that no backup which
was kept as configured can: the days that backups of the keyring are kept are over, and no epoch under which the key was
ever wrapped can be opened by the provider. What was copied out of the archive before is beyond both.
"""

from collections.abc import Callable
from dataclasses import dataclass

from keys import rows
from keys.clock import clock_ms
from keys.destruction import Destruction
from keys.keyring import Keyring
from keys.rows import GONE, EpochRow
from keys.shred import tombstones
from keys.tombstone import Tombstone

__all__ = ["EFFECTIVE", "SCHEDULED", "Erasure", "erasures", "uncompacted"]

SCHEDULED, EFFECTIVE = "scheduled", "effective"


@dataclass(frozen=True, slots=True)
class Erasure:
    """One shredded key and what still stands against its erasure: epochs that are not destroyed, and time."""

    key_id: bytes
    stone: Tombstone
    open_epochs: tuple[int, ...]
    is_dropped: bool  # its wrapped form has left the keyring
    is_over: bool  # the days of the backups

    @property
    def state(self) -> str:
        """`scheduled` or `effective`."""
        return EFFECTIVE if self.is_dropped and self.is_over and not self.open_epochs else SCHEDULED


def erasures(keyring: Keyring, now_ms: Callable[[], int] = clock_ms) -> list[Erasure]:
    """Every shredded key, the oldest first."""
    now = now_ms()
    receipts = ((place[1:], Destruction.decode(value)) for place, value in keyring.rows(rows.DESTRUCTION_PREFIX))
    destroyed = {int.from_bytes(epoch, "big") for epoch, each in receipts if each.effective_ms <= now}
    still_open = [each.epoch for each in keyring.epochs() if each.epoch not in destroyed]
    found = [
        Erasure(
            key_id,
            stone,
            tuple(epoch for epoch in still_open if epoch <= stone.epoch),
            keyring.row(rows.STUDY_PREFIX + key_id) is None,
            stone.until_ms <= now,
        )
        for key_id, stone in tombstones(keyring).items()
    ]
    return sorted(found, key=lambda each: (each.stone.scheduled_ms, each.key_id))


def uncompacted(keyring: Keyring) -> int:
    """The newest ended epoch since whose end the index was not written anew; 0 where none waits for it.

    Until then its file may still hold, in unused pages, tokens and sealed rows of what was shredded in that epoch.
    """
    ended = (row.epoch for _, value in keyring.rows(rows.EPOCH_PREFIX) if (row := EpochRow.decode(value)).state in GONE)
    newest = max(ended, default=0)
    return newest if newest > int.from_bytes(keyring.row(rows.COMPACTED_KEY) or b"", "big") else 0
