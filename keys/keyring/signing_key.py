"""The key that signs the archive's checkpoints, and its rotation.

Rule: seeds are random and wrapped under an epoch, so an old seed is gone with its epoch. The next one waits in a row of
its own until it is publicly endorsed (by the floors above); the transaction that makes it current leaves nothing of the
old one in the keyring. There are never more than these two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from coffer.keys.crypto import derive
from coffer.keys.crypto.hedge import new_key
from coffer.keys.crypto.signing import CheckpointSigner
from coffer.keys.errors import LockedError
from coffer.keys.keyring import rows
from coffer.keys.keyring.rows import KeyRow, KeyState
from coffer.keys.memory.secret import Secret
from coffer.keys.values.waiting_event import WaitingEvent

if TYPE_CHECKING:
    from coffer.keys.keyring.keyring import Keyring

__all__ = ["begin", "current", "is_under_way", "pending", "promote"]


def current(keyring: Keyring) -> CheckpointSigner:
    """Return the current signer, other processes' rotations included. Raises IntegrityError, KeyUnavailableError."""
    return CheckpointSigner(keyring.own_key(rows.SIGNING_KEY))


def is_under_way(keyring: Keyring) -> bool:
    """Whether a rotation of the signing key has begun and not ended; about 4 us."""
    return keyring.row(rows.NEXT_SIGNING_KEY) is not None


def pending(keyring: Keyring) -> CheckpointSigner | None:
    """Return the signer that takes over when the rotation under way ends; None where none is under way."""
    return CheckpointSigner(keyring.own_key(rows.NEXT_SIGNING_KEY)) if is_under_way(keyring) else None


def begin(
    keyring: Keyring, random: Callable[[int], bytes], now_ms: int, event: Callable[[CheckpointSigner], WaitingEvent]
) -> CheckpointSigner:
    """Make the next signing key, with the event that `event` makes of it; durable on return. It signs nothing yet.

    If there is one already, it is returned, without an event.
    """
    while True:
        if (known := pending(keyring)) is not None:
            return known
        header, epoch = keyring.row(rows.HEADER_KEY), keyring.epoch
        seed = new_key(keyring.archive_key(derive.HEDGE), random, rows.NEXT_SIGNING_KEY, now_ms.to_bytes(8, "big"))
        value = _row(keyring, rows.NEXT_SIGNING_KEY, epoch, now_ms, seed)
        made = CheckpointSigner(seed)
        expected = [(rows.NEXT_SIGNING_KEY, None), (rows.HEADER_KEY, header)]
        if keyring.amend([(rows.NEXT_SIGNING_KEY, value), event(made).row], expected=expected):
            return made


def promote(keyring: Keyring, now_ms: int, event: WaitingEvent) -> None:
    """Replace the current signing key by the next one, together with an event; durable on return. The same
    transaction destroys the old seed. Raises LockedError where another process has done so meanwhile."""
    while True:
        header, old, new = (keyring.row(each) for each in (rows.HEADER_KEY, rows.SIGNING_KEY, rows.NEXT_SIGNING_KEY))
        if new is None:
            raise LockedError("another process changed the signing key", hint="run coffer keys list to see it")
        seed = keyring.own_key(rows.NEXT_SIGNING_KEY)
        value = _row(keyring, rows.SIGNING_KEY, keyring.epoch, now_ms, seed)
        expected = [(rows.HEADER_KEY, header), (rows.SIGNING_KEY, old), (rows.NEXT_SIGNING_KEY, new)]
        if keyring.amend([(rows.SIGNING_KEY, value), event.row], [rows.NEXT_SIGNING_KEY], expected):
            return


def _row(keyring: Keyring, row_key: bytes, epoch: int, now_ms: int, seed: Secret) -> bytes:
    row = KeyRow(rows.OWN_KEYS[row_key], KeyState.ACTIVE, epoch, keyring.epoch_row(epoch).kek_id, now_ms)
    return keyring.sealed(row, rows.NO_ID, seed)
