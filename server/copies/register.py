"""The register of copies: where copies of the keyring and of what opens it are, and until when.

Rule: a copy counts until its end is past or somebody reports that it was destroyed; a clock in doubt ends none. Whether
a copy has a key is decided by the order of the keyring's changes, never by a time that somebody typed.
"""

from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from coffer.archive.events.officer import Officer
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.keyring.tombstone import Tombstone
from coffer.keys.mailbox.officer_records import OfficerRecords
from coffer.keys.values.officer_record import RecordKind

__all__ = ["Copy", "concerns", "copies", "latest_end", "open_copies", "stale_since"]

_PLACE_SHOWN: Final = 80


class Copy(msgspec.Struct, frozen=True):
    """A copy of the keyring, or of what opens its epochs (key file, HSM backup): where it is, when it ends (ms since
    1970 UTC; 0: when it is reported destroyed), the newest epoch and the newest entry of the feed that it can have;
    `backup` names the snapshot that it was made with ("": somebody made it)."""

    of: Literal["keyring", "provider"]
    place: str
    until_ms: int
    epoch: int
    feed: int
    by: Officer
    added_ms: int
    backup: str = ""

    def is_over(self, now_ms: int) -> bool:
        """Whether its end is past; of a copy that a backup made, only its disappearance is an end."""
        return not self.backup and 0 < self.until_ms <= now_ms

    def has_key(self, tombstone: Tombstone) -> bool:
        """Whether it can help to open the key that this tombstone replaced: a copy of the keyring, from before the key
        left it; one of a provider's secrets, from when an epoch that wrapped it was the newest, or earlier."""
        if self.of == "provider":
            return self.epoch <= tombstone.epoch
        return not tombstone.dropped or self.feed <= tombstone.dropped

    def __str__(self) -> str:
        what = "the keyring" if self.of == "keyring" else "what opens the epochs"
        return f"a copy of {what} at {self.place[:_PLACE_SHOWN]}"


def copies(keyring: Keyring) -> list[tuple[str, Copy]]:
    """Return every registered copy with its id, oldest first, those that are over included. Raises IntegrityError."""
    found = OfficerRecords(keyring, RecordKind.COPY, Copy).all()
    return sorted(found, key=lambda pair: (pair[1].added_ms, pair[0]))


def open_copies(registered: Iterable[tuple[str, Copy]], tombstone: Tombstone, now_ms: int) -> list[tuple[str, Copy]]:
    """Return the copies that still have the key that this tombstone replaced, with their ids."""
    return [(own, each) for own, each in registered if not each.is_over(now_ms) and each.has_key(tombstone)]


def latest_end(found: Iterable[Copy]) -> int | None:
    """Return when the last of these copies ends (ms since 1970 UTC; 0: none is left); None if one has no end."""
    ends = [each.until_ms for each in found]
    return None if 0 in ends else max(ends, default=0)


def concerns(keyring: Keyring) -> list[str]:
    """What to look at: copies that a rotation made stale."""
    epoch = stale_since(keyring)
    what = f"the registered copies of the keyring or of what opens it are stale: none has epoch {epoch}"
    return [f"{what}: copy them, then coffer keys copied --to PLACE --until DATE"] if epoch else []


def stale_since(keyring: Keyring) -> int:
    """Return the epoch since whose beginning no copy was registered although there are some from before; 0 for none.

    What is stored under the newest epoch has keys that those copies do not open.
    """
    newest = dict.fromkeys(("keyring", "provider"), 0)
    for _, each in copies(keyring):
        newest[each.of] = max(newest[each.of], each.epoch)
    current = keyring.epoch
    return current if any(0 < epoch < current for epoch in newest.values()) else 0
