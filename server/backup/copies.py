"""Which copies of the keyring backups have made, and how long each stays: what a register of copies has to know.

Rule: the one place that is asked. A copy counts from before its first byte is stored until after its last one is gone.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from coffer.archive.copies.keyring_copies import KeyringCopies, KeysHeld
from coffer.archive.copies.shelf import Shelf
from coffer.archive.copies.target import Target
from coffer.server.config.settings import Config

__all__ = ["MadeCopy", "copies_made", "kept_days"]

_DAY_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class MadeCopy:
    """A copy of the keyring: where, under which id, when it was made and until when it is kept (ms since 1970, by the
    host's clock), which keys it has, and to whom it is sealed (ids; none: not sealed)."""

    place: str
    id: str
    made_ms: int
    until_ms: int
    held: KeysHeld
    recipients: tuple[str, ...]


def kept_days(config: Config) -> float:
    """How many days copies of the keyring are kept."""
    return config.backup.keep_keys_days or config.keys.shred_hold_days


def copies_made(targets: Iterable[Target], archive_id: bytes, keep_days: float) -> list[MadeCopy]:
    """Every copy at these targets, oldest first, interrupted ones included, which may have any key.

    `until_ms` is when `prune` may remove it; it stays until somebody runs that. Raises UnavailableError if a target
    cannot be asked: then nobody knows.
    """
    found = []
    for target in targets:
        copies = KeyringCopies(Shelf(target, archive_id))
        listed = {each.id: each for each in copies.usable()}
        for own, made_ms in copies.begun():
            copy = listed.get(own)
            held, recipients = (copy.held, copy.recipients) if copy else (KeysHeld(0, 0, 0), ())
            found.append(MadeCopy(target.name, own, made_ms, made_ms + int(keep_days * _DAY_MS), held, recipients))
    return sorted(found, key=lambda each: each.made_ms)
