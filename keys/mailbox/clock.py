"""What the keyring keeps of the wall clock: by which reading it is watched, whether it is in doubt, what is confirmed.

Rule: one row, sealed like an officer's record and changed only from the state that was read, together with the event
that records the change. A doubt stays, whatever the clock shows later, until an administrator's confirmation.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import msgspec

from coffer.keys.clock import ClockWatch, Reading, Sighting
from coffer.keys.crypto import aead, derive
from coffer.keys.errors import FormatError

if TYPE_CHECKING:
    from coffer.keys.keyring.keyring import Keyring
    from coffer.keys.values.waiting_event import WaitingEvent

__all__ = ["ROW", "ClockState", "ClockStateAsRead", "begin_doubt", "confirm", "read", "settle", "watch"]

ROW: Final = b"M"
_CONTEXT: Final = b"coffer/clock/v1\0"
_PAD: Final = 256


class ClockState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The reading that the wall clock is held against, the doubt in it (None: none), and whether the log has yet to be
    continued from a confirmed time."""

    boot: str
    offset_ms: int
    doubt: Sighting | None = None
    is_log_behind: bool = False

    @property
    def clock_watch(self) -> ClockWatch:
        """The watch that goes on from that reading."""
        return ClockWatch(self.boot, self.offset_ms)


class ClockStateAsRead(msgspec.Struct, frozen=True):
    """The state, and the row as it was read: what a change expects to find."""

    state: ClockState | None
    sealed: bytes | None


def read(keyring: Keyring) -> ClockStateAsRead:
    """Return the state; None in it before the clock was ever watched. Raises IntegrityError for an altered row,
    FormatError, UnavailableError."""
    sealed = keyring.row(ROW)
    if sealed is None:
        return ClockStateAsRead(None, None)
    plain = aead.open_sealed(keyring.archive_key(derive.CLOCK), _context(keyring), sealed)
    try:
        return ClockStateAsRead(msgspec.json.decode(plain, type=ClockState), sealed)
    except msgspec.DecodeError as error:
        raise FormatError("the state of the clock in the keyring is not one that this version writes") from error


def watch(keyring: Keyring, before: ClockStateAsRead, now: Reading) -> bool:
    """Hold the wall clock against what it shows now, from here on: after a start of the machine. Durable on return.

    As for every change here, False if another process was faster, and then nothing is changed.
    """
    begun = ClockWatch.begin(now)
    is_log_behind = before.state is not None and before.state.is_log_behind
    return _put(keyring, before, ClockState(begun.boot, begun.offset_ms, None, is_log_behind))


def begin_doubt(keyring: Keyring, before: ClockStateAsRead, seen: Sighting, event: WaitingEvent) -> bool:
    """Put the wall clock in doubt, with the event; durable on return."""
    assert before.state is not None
    return _put(keyring, before, msgspec.structs.replace(before.state, doubt=seen), event)


def confirm(keyring: Keyring, before: ClockStateAsRead, now: Reading, event: WaitingEvent) -> bool:
    """End the doubt: trust the wall clock as it is read now. Durable on return, with the event; the writer then
    continues the log from that time, and calls `settle`."""
    begun = ClockWatch.begin(now)
    return _put(keyring, before, ClockState(begun.boot, begun.offset_ms, None, is_log_behind=True), event)


def settle(keyring: Keyring, before: ClockStateAsRead) -> bool:
    """Note that the log goes on from the confirmed time; durable on return."""
    assert before.state is not None
    return _put(keyring, before, msgspec.structs.replace(before.state, is_log_behind=False))


def _context(keyring: Keyring) -> bytes:
    return _CONTEXT + keyring.archive_id + ROW


def _put(keyring: Keyring, before: ClockStateAsRead, after: ClockState, event: WaitingEvent | None = None) -> bool:
    plain = msgspec.json.encode(after)
    plain += b" " * (-len(plain) % _PAD)
    row = ROW, aead.seal(keyring.archive_key(derive.CLOCK), _context(keyring), plain, os.urandom)
    return keyring.amend([row, *([event.row] if event else [])], expected=[(ROW, before.sealed)])
