"""Orders to the process that writes the archive, given by commands that run beside it: sign a checkpoint now.

Rule: an order is a row of the keyring, and is removed when it is carried out or withdrawn; nothing else changes with
it. Orders that a row of their own noun expresses are not here: a rekey, the next signing key.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from coffer.keys.errors import FormatError

if TYPE_CHECKING:
    from coffer.keys.keyring.keyring import Keyring

__all__ = ["PREFIX", "SignOrder", "give", "is_waiting", "remove", "waiting"]

PREFIX: Final = b"O"
_ID_BYTES: Final = 8
_TIME_BYTES: Final = 8


class SignOrder(NamedTuple):
    """An order to sign a checkpoint now: its id (8 random bytes), and when it was given (ms since 1970 UTC)."""

    id: bytes
    given_ms: int

    @property
    def row_key(self) -> bytes:
        """The key of its keyring row."""
        return PREFIX + self.id


def give(keyring: Keyring, now_ms: int, random: Callable[[int], bytes] = os.urandom) -> SignOrder:
    """Give an order, durable on return. Raises UnavailableError."""
    order = SignOrder(random(_ID_BYTES), now_ms)
    keyring.amend([(order.row_key, now_ms.to_bytes(_TIME_BYTES, "big"))])
    return order


def waiting(keyring: Keyring) -> list[SignOrder]:
    """Return the orders that are neither carried out nor withdrawn. Raises FormatError, UnavailableError."""
    return [_decode(row_key, value) for row_key, value in keyring.rows(PREFIX)]


def is_waiting(keyring: Keyring, order: SignOrder) -> bool:
    """Whether an order is neither carried out nor withdrawn."""
    return keyring.row(order.row_key) is not None


def remove(keyring: Keyring, orders: Sequence[SignOrder]) -> None:
    """Remove orders that are carried out, or withdrawn; durable on return, harmless when repeated."""
    if orders:
        keyring.amend([], [each.row_key for each in orders])


def _decode(row_key: bytes, value: bytes) -> SignOrder:
    if len(row_key) != 1 + _ID_BYTES or len(value) != _TIME_BYTES:
        raise FormatError("an order in the keyring has the wrong length", hint="restore the keyring from its backup")
    return SignOrder(row_key[1:], int.from_bytes(value, "big"))
