"""Events waiting in the keyring until the writer has appended them to the log.

Rule: an event is written in the transaction of the change that it records (functions that change keys take a
`WaitingEvent`), or by `leave` where nothing else changes. Exactly once into the log: `tried` is durable before the
append, `delivered` follows it. It knows no log: `server.mailbox.outbox` appends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from coffer.keys.values.waiting_event import PREFIX, WaitingEvent

if TYPE_CHECKING:
    from coffer.keys.keyring.keyring import Keyring

__all__ = ["delivered", "leave", "tried", "waiting"]


def waiting(keyring: Keyring) -> list[WaitingEvent]:
    """Return the events that are not known to be in the log, oldest first; other processes' commits included.

    Raises FormatError for a row that is no event, UnavailableError.
    """
    return [WaitingEvent.decode(row_key, value) for row_key, value in keyring.rows(PREFIX)]


def leave(keyring: Keyring, events: Sequence[WaitingEvent]) -> None:
    """Leave events that record no change of the keyring; all durable on return, or none. Raises UnavailableError."""
    keyring.amend([each.row for each in events])


def require_genuine(keyring: Keyring, found: Sequence[WaitingEvent]) -> None:
    """Return if these events were left by somebody with the keys. Raises IntegrityError where they, or any rows, were
    planted or put back."""
    keyring.require_genuine(each.row_key for each in found)


def tried(keyring: Keyring, event: WaitingEvent, number: int) -> WaitingEvent:
    """Note that the event is about to be appended as record `number` of the log or a later one; durable on return."""
    after = replace(event, number=number)
    keyring.amend([after.row])
    return after


def delivered(keyring: Keyring, event: WaitingEvent) -> None:
    """Remove an event that is durable in the log; durable on return, harmless when repeated."""
    keyring.amend([], [event.row_key])
