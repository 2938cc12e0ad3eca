"""How far the erasure of each shredded study has progressed.

Rule: `scheduled` means that no process of this archive uses the key any more; `effective` that no backup kept as
configured can yield it: the retention time of keyring backups and every registered copy are over, and everything that
could ever open an epoch under which the key was wrapped has given its receipt. Neither covers objects that were
exported before.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass

from coffer.keys.crypto.shamir import Group
from coffer.keys.keyring.keepers import Burned
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.keyring.shred import forget, is_dropped, tombstones
from coffer.keys.keyring.tombstone import Tombstone
from coffer.server.clock.trust import granting_ms
from coffer.server.copies.register import Copy, copies, open_copies

__all__ = ["EFFECTIVE", "SCHEDULED", "Erasure", "erasures", "forget_names", "openers", "shares"]

SCHEDULED, EFFECTIVE = "scheduled", "effective"


@dataclass(frozen=True, slots=True)
class Erasure:
    """One shredded key and what still prevents its erasure: epochs that can be opened, a description of what opens
    them, and time."""

    key_id: bytes
    tombstone: Tombstone
    open_epochs: tuple[int, ...]
    opened_by: tuple[str, ...]
    is_dropped: bool  # its wrapped form was removed from the keyring
    is_over: bool  # the retention time of keyring backups
    copies: tuple[tuple[str, Copy], ...] = ()  # registered ones that have the key, by id

    @property
    def state(self) -> str:
        """`scheduled` or `effective`."""
        return EFFECTIVE if self.is_dropped and self.is_over and not self.open_epochs and not self.copies else SCHEDULED


def erasures(keyring: Keyring, now_ms: Callable[[], int] | None = None) -> list[Erasure]:
    """Every shredded key, oldest first; no window is over by a clock in doubt. Asks the providers whether destroyed
    secrets are back."""
    now = now_ms() if now_ms else granting_ms(keyring)
    shredded, registered = tombstones(keyring), copies(keyring)
    still_open = openers(keyring, now, max((each.epoch for each in shredded.values()), default=0))
    found = [
        Erasure(
            key_id,
            tombstone,
            tuple(epoch for epoch in still_open if epoch <= tombstone.epoch),
            tuple(what for epoch, by in still_open.items() if epoch <= tombstone.epoch for what in by),
            is_dropped(keyring, key_id),
            tombstone.until_ms <= now,
            tuple(open_copies(registered, tombstone, now)),
        )
        for key_id, tombstone in shredded.items()
    ]
    return sorted(found, key=lambda each: (each.tombstone.scheduled_ms, each.key_id))


def forget_names(keyring: Keyring, is_stored: Callable[[bytes], bool], now_ms: Callable[[], int] | None = None) -> int:
    """Forget which study was meant by every erasure that is effective; durable on return. Returns by how many keys.

    A study is remembered while any of its keys can still be opened, and while objects of it are stored under another
    key (`is_stored` takes its name), as a certificate has to know. Raises IntegrityError. Asks the providers.
    """
    found = [each for each in erasures(keyring, now_ms) if not each.tombstone.is_forgotten]
    kept = {each.tombstone.name for each in found if each.state != EFFECTIVE}
    kept |= {name for name in {each.tombstone.name for each in found} - kept if is_stored(name)}
    gone = [each.key_id for each in found if each.tombstone.name not in kept]
    return forget(keyring, gone, os.urandom) if gone else 0


def openers(keyring: Keyring, now: int, last: int) -> dict[int, tuple[str, ...]]:
    """By epoch, from 1 to `last`, a description of everything that still opens its key; other epochs are left out.

    Openers are keepers without a receipt, or whose secret is back or can be restored, and shares that were not burned.
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
        if described := tuple(f"epoch {number}: {what}" for what in by if what):
            found[number] = described
    return found


def shares(keyring: Keyring, epoch: int) -> tuple[str, ...]:
    """A description of the share groups that still open an epoch's key, whatever became of its providers."""
    burned = keyring.burned()
    described = (_shares(of, burned.get(of.group, Burned())) for of in keyring.share_groups() if of.epoch == epoch)
    return tuple(each for each in described if each)


def _shares(of: Group, burned: Burned) -> str:
    """What the remaining shares of a group can still open, "" if too few remain."""
    left = burned.left(of)
    if left < of.threshold:
        return ""
    return f"shares of group {of.group.hex()}, any {of.threshold} of {left}: coffer keys burn {of.group.hex()} NUMBERS"
