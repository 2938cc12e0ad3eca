"""How a doubt in the wall clock begins and ends, each with an event for the log.

Rule: a doubt is noted by whichever process sees it first, once; only a person ends it. Where the log had run ahead of
the confirmed time, the writer continues it from there under a new epoch of the log.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final, Protocol

from coffer.archive.events import codec
from coffer.archive.events.clocks import ClockConfirmed, ClockDoubted, LogEpochBegun
from coffer.archive.events.recorded import Occurrence
from coffer.keys.clock import TOLERANCE_MS, ClockWatch, Sighting, reading
from coffer.keys.errors import InputError, UnavailableError
from coffer.keys.mailbox import clock
from coffer.server.access.action import Action
from coffer.server.access.operator import require_reason
from coffer.server.mailbox import outbox
from coffer.server.observe.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from coffer.archive.format.entry import Position, RecordId
    from coffer.keys.keyring.keyring import Keyring
    from coffer.server.access.decision import Policy
    from coffer.server.access.principal import Principal

__all__ = ["confirm", "continue_log", "is_log_behind", "look"]

_log = get_logger()
_TRIES: Final = 10


class Log(Protocol):
    """The log as the confirmation continues it."""

    @property
    def last_ms(self) -> int | None:
        """The time of the last record; None: there is none."""

    @property
    def epoch(self) -> int:
        """The epoch of the log that is written now."""

    def begin_epoch(self, body: bytes) -> Position:
        """Begin a new epoch with this body; durable on return. Raises UnavailableError."""


def look(keyring: Keyring, last_record_ms: int | None = None) -> Sighting | None:
    """Look at the wall clock, and note a doubt in it with an event; returns the doubt, new or not. Durable on return.

    The first look ever, and the first since the machine started, begin the watch; without a doubt nothing else is
    written. `last_record_ms` is the time of the log's last record, where the caller knows it. Raises IntegrityError,
    FormatError, UnavailableError.
    """
    for _ in range(_TRIES):
        read, now = clock.read(keyring), reading()
        state = read.state
        if state is not None and state.doubt is not None:
            return state.doubt
        if state is not None and state.is_log_behind:
            last_record_ms = None  # that it is later is known, and confirmed to be wrong
        held = state.clock_watch if state is not None else ClockWatch.begin(now)
        seen = held.look(now, last_record_ms)
        if state is None or not held.is_of(now):
            if not clock.watch(keyring, read, now):
                continue
            held = ClockWatch.begin(now)
        if seen is None or _note(keyring, held, seen):
            return seen
    raise _busy()


def _note(keyring: Keyring, held: ClockWatch, seen: Sighting) -> bool:
    """Put the clock in doubt, with its event, durable on return; False if another process was faster, and it is not
    `held` against that reading any more."""
    read = clock.read(keyring)
    if read.state is None or read.state.doubt is not None or read.state.clock_watch != held:
        return False
    event = ClockDoubted(wall_ms=seen.wall_ms, expected_ms=seen.expected_ms, last_record_ms=seen.last_record_ms)
    return clock.begin_doubt(keyring, read, seen, outbox.enclosed(keyring, Occurrence(event, seen.wall_ms)))


def confirm(  # noqa: PLR0917
    keyring: Keyring,
    policy: Policy,
    reason: str,
    by: Principal,
    told_ms: int | None = None,
    last_record_ms: int | None = None,
) -> int:
    """Confirm that the wall clock is right now, with an event; durable on return. Returns its time, ms since 1970 UTC.

    `told_ms` is the time as the person knows it from elsewhere; `last_record_ms` as for `look`. Raises InputError if
    the clock is more than 5 minutes away from `told_ms`, if it is not in doubt, and for the reason; AccessDeniedError,
    UnavailableError.
    """
    policy.require(by, Action.CONFIRM_CLOCK)
    require_reason("a confirmation of the clock", reason)
    look(keyring, last_record_ms)
    for _ in range(_TRIES):
        read, now = clock.read(keyring), reading()
        if told_ms is not None and abs(now.wall_ms - told_ms) > TOLERANCE_MS:
            raise InputError(
                "this machine's clock is more than 5 minutes away from the time given",
                hint="set the clock of the machine first; coffer clock show shows it",
            )
        if read.state is None or read.state.doubt is None:
            raise InputError("the clock is not in doubt: there is nothing to confirm", hint="coffer clock show")
        doubted_ms = read.state.doubt.wall_ms
        event = ClockConfirmed(confirmed_ms=now.wall_ms, doubted_ms=doubted_ms, reason=reason.strip(), by=by.officer)
        if clock.confirm(keyring, read, now, outbox.enclosed(keyring, Occurrence(event, now.wall_ms))):
            return now.wall_ms
    raise _busy()


def is_log_behind(keyring: Keyring) -> bool:
    """Whether the writer has yet to continue the log from a confirmed time. Raises as `look`."""
    state = clock.read(keyring).state
    return state is not None and state.is_log_behind


def continue_log(keyring: Keyring, log: Log, covered: Callable[[RecordId], None]) -> bool:
    """Continue the log from a confirmed time: under a new epoch, if its last record is more than 5 minutes later.

    The writer's part of `confirm`, durable on return; returns whether an epoch began. Every event that waited must be
    in the log already: one of the time when the clock was ahead would take the new epoch there. `covered` gets the new
    record's name: the index has nothing to read in it. After a stop the next call does it. Raises UnavailableError.
    """
    read = clock.read(keyring)
    if read.state is None or not read.state.is_log_behind:
        return False
    is_ahead = log.last_ms is not None and log.last_ms > reading().wall_ms + TOLERANCE_MS
    if is_ahead:
        begun = LogEpochBegun(epoch=log.epoch + 1, holder=socket.gethostname(), why="clock")
        covered(log.begin_epoch(codec.encode(begun)).id)
        _log.warning("the log goes on from the confirmed time in a new epoch", name="log.epoch_begun", epoch=log.epoch)
    clock.settle(keyring, read)
    return is_ahead


def _busy() -> UnavailableError:
    return UnavailableError("other processes keep changing the state of the clock", hint="run the command again")
