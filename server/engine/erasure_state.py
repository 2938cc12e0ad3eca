"""How far the erasure of each shredded study is.

Rule: `scheduled` means that no process of this archive gives the key away any more; `effective` that no backup which
was kept as configured can: the days that backups of the keyring are kept are over, and everything that could ever open
an epoch under which the key was wrapped has given its receipt. What was copied out before is beyond both.
"""

from collections.abc import Callable
from dataclasses import dataclass

from coffer.keys.clock import clock_ms
from coffer.keys.crypto.shamir import Group
from coffer.keys.keyring import rows
from coffer.keys.keyring.keepers import Burned
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.keyring.rows import GONE, EpochRow
from coffer.keys.keyring.shred import tombstones
from coffer.keys.keyring.tombstone import Tombstone

__all__ = ["EFFECTIVE", "SCHEDULED", "Erasure", "erasures", "openers", "shares", "uncompacted"]

SCHEDULED, EFFECTIVE = "scheduled", "effective"


@dataclass(frozen=True, slots=True)
class Erasure:
    """One shredded key and what still stands against its erasure: epochs that something opens, that which opens them in
    words, and time."""

    key_id: bytes
    stone: Tombstone
    open_epochs: tuple[int, ...]
    opened_by: tuple[str, ...]
    is_dropped: bool  # its wrapped form has left the keyring
    is_over: bool  # the days of the backups

    @property
    def state(self) -> str:
        """`scheduled` or `effective`."""
        return EFFECTIVE if self.is_dropped and self.is_over and not self.open_epochs else SCHEDULED


def erasures(keyring: Keyring, now_ms: Callable[[], int] = clock_ms) -> list[Erasure]:
    """Every shredded key, the oldest first. Asks the providers whether secrets that were destroyed are back."""
    now = now_ms()
    stones = tombstones(keyring)
    still_open = openers(keyring, now, max((each.epoch for each in stones.values()), default=0))
    found = [
        Erasure(
            key_id,
            stone,
            tuple(epoch for epoch in still_open if epoch <= stone.epoch),
            tuple(what for epoch, by in still_open.items() if epoch <= stone.epoch for what in by),
            keyring.row(rows.STUDY_PREFIX + key_id) is None,
            stone.until_ms <= now,
        )
        for key_id, stone in stones.items()
    ]
    return sorted(found, key=lambda each: (each.stone.scheduled_ms, each.key_id))


def openers(keyring: Keyring, now: int, last: int) -> dict[int, tuple[str, ...]]:
    """By epoch, from 1 to `last`, everything that opens its key yet, in words. Epochs that nothing opens are left out.

    That is keepers without a receipt, or whose secret can be brought back or is back, and shares that were not burned.
    """
    if not last:
        return {}
    back = keyring.returned()
    known = {each.epoch: each for each in keyring.epochs()}
    found: dict[int, tuple[str, ...]] = {}
    for number in range(1, last + 1):
        info = known.get(number)
        by = [str(each) for each in keyring.keepers() if each.epoch == number and not back.is_gone(each, now)]
        by += shares(keyring, number)
        if number in back.epochs:
            by.append(f"a secret that is back at its provider: coffer keys destroy {number}")
        if info is None or (info.gone_ms is None and not any(by)):
            by.append("something that this keyring does not know")
        if told := tuple(f"epoch {number}: {what}" for what in by if what):
            found[number] = told
    return found


def shares(keyring: Keyring, epoch: int) -> tuple[str, ...]:
    """The share groups that open an epoch's key yet, in words; whatever became of its providers."""
    burned = keyring.burned()
    told = (_shares(of, burned.get(of.group, Burned())) for of in keyring.share_groups() if of.epoch == epoch)
    return tuple(each for each in told if each)


def _shares(of: Group, burned: Burned) -> str:
    """What can be done with the shares of a group yet, "" where those that are left are too few."""
    left = burned.left(of)
    if left < of.threshold:
        return ""
    return f"shares of group {of.group.hex()}, any {of.threshold} of {left}: coffer keys burn {of.group.hex()} NUMBERS"


def uncompacted(keyring: Keyring) -> int:
    """The newest ended epoch since whose end the index was not written anew; 0 where none waits for it.

    Until then its file may still hold, in unused pages, tokens and sealed rows of what was shredded in that epoch.
    """
    ended = (row.epoch for _, value in keyring.rows(rows.EPOCH_PREFIX) if (row := EpochRow.decode(value)).state in GONE)
    newest = max(ended, default=0)
    return newest if newest > int.from_bytes(keyring.row(rows.COMPACTED_KEY) or b"", "big") else 0
