"""Groups of shares of an epoch's KEK, recorded in the keyring before any of their shares exists.

Rule: first the keyring records the group, then its shares are written, last the keyring records that they are complete.
So an interrupted split leaves no unrecorded share, and is found again by the place that its shares were to go to. No
share is stored. It writes no files: the floors above do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

from coffer.keys.crypto.shamir import Group
from coffer.keys.errors import InputError, UnavailableError
from coffer.keys.keyring import rows
from coffer.keys.keyring.keepers import Burned, burned_row_key
from coffer.keys.values.waiting_event import WaitingEvent

if TYPE_CHECKING:
    from coffer.keys.keyring.keyring import Keyring

__all__ = ["begin", "burn", "end", "give_up", "place_of", "unfinished"]

_LABEL: Final = b"coffer/splitting/v1\x00"
_PLACE: Final = 16


def place_of(folder: Path) -> bytes:
    """Return the 16 bytes that identify the folder of a group's shares: SHA-256 of label and path, truncated."""
    return sha256(_LABEL + str(folder).encode("utf-8", "surrogateescape")).digest()[:_PLACE]


def begin(keyring: Keyring, of: Group, place: bytes, event: WaitingEvent) -> None:
    """Record a group whose shares are about to be written at `place`, and an event; durable on return."""
    begun = [(rows.SHARES_PREFIX + of.group, of.encode()), (rows.SPLITTING_PREFIX + of.group, place)]
    keyring.amend([*begun, event.row])


def end(keyring: Keyring, of: Group) -> None:
    """Record that all shares of a group are written; durable on return, harmless when repeated."""
    keyring.amend([], [rows.SPLITTING_PREFIX + of.group])


def burn(
    keyring: Keyring,
    of: Group,
    numbers: Sequence[int],
    now_ms: int,
    event: Callable[[Burned], WaitingEvent],
) -> Burned:
    """Record that these shares of a group, counted from 1, are burned, and an event; durable on return.

    Coffer cannot verify it: the caller has an officer's word. Raises InputError for a number that no share of the group
    has, UnavailableError where the row changed meanwhile.
    """
    if not numbers or not all(1 <= number <= of.count for number in numbers):
        raise InputError(
            f"the shares of group {of.group.hex()} are numbered 1 to {of.count}", hint="each share states its number"
        )
    row_key = burned_row_key(of)
    value = keyring.row(row_key)
    burned = (Burned() if value is None else Burned.decode(value)).add(of, numbers, now_ms)
    if not keyring.amend([(row_key, burned.encode()), event(burned).row], expected=[(row_key, value)]):
        raise UnavailableError("somebody else dealt with these shares just now", hint="run the command again")
    return burned


def give_up(keyring: Keyring, of: Group, event: WaitingEvent) -> None:
    """Remove a group of which no share is left, and record an event; durable on return.

    Call it after everything that was written of the shares is durably removed.
    """
    keyring.amend([event.row], [rows.SHARES_PREFIX + of.group, rows.SPLITTING_PREFIX + of.group])


def unfinished(keyring: Keyring) -> list[tuple[Group, bytes]]:
    """Return the groups whose shares are not all written, each with its place, oldest first."""
    places = {key[1:]: value for key, value in keyring.rows(rows.SPLITTING_PREFIX)}
    return [(of, places[of.group]) for of in keyring.share_groups() if of.group in places]
