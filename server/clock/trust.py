"""By which time something may be granted: the wall clock's, or while that is in doubt, the last time it was trusted.

Rule: whoever permits something because time has passed asks here, at that moment, and compares with `granting_ms`.
The state in the keyring and both clocks are read each time, so that a jump that no process has noted yet grants
nothing either. Changes nothing.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from coffer.keys.clock import LAST_MS, ClockWatch, Sighting, reading
from coffer.keys.errors import AccessDeniedError
from coffer.keys.mailbox import clock

if TYPE_CHECKING:
    from coffer.keys.keyring.keyring import Keyring

__all__ = ["REMEDY", "Trust", "granting_ms", "trust"]

REMEDY: Final = "compare this machine's clock with another, set it, then coffer clock confirm --reason TEXT"


@dataclass(frozen=True, slots=True)
class Trust:
    """The wall clock now, in ms since 1970 UTC, and the doubt in it: what was seen, None if nothing was."""

    wall_ms: int
    doubt: Sighting | None

    @property
    def granting_ms(self) -> int:
        """The time by which something may be granted. It stands still while the clock is in doubt."""
        return self.wall_ms if self.doubt is None else min(self.wall_ms, self.doubt.earliest_ms)

    @property
    def latest_ms(self) -> int:
        """The time from which a period counts that begins now: none ends earlier because the clock is wrong."""
        return self.wall_ms if self.doubt is None else max(self.wall_ms, self.doubt.latest_ms)

    def concern(self) -> str:
        """The doubt in a sentence; "" if there is none."""
        if self.doubt is None:
            return ""
        seen = self.doubt
        told = f"the clock is in doubt: it showed {_when(seen.wall_ms)}"
        if seen.expected_ms is not None:
            told += f", by the time since the machine started it should have shown {_when(seen.expected_ms)}"
        if seen.last_record_ms is not None and seen.last_record_ms > seen.wall_ms:
            told += f", and the log's last record is of {_when(seen.last_record_ms)}"
        return told

    def refusal(self, what: str) -> AccessDeniedError:
        """The error for something that only a clock in doubt would grant; `what` says what is not granted."""
        return AccessDeniedError(f"{what}; {self.concern()}", hint=REMEDY)

    def require(self, what: str) -> None:
        """Return unless the clock is in doubt; then raise AccessDeniedError, which says that `what` is not granted."""
        if self.doubt is not None:
            raise self.refusal(what)


def trust(keyring: Keyring, last_record_ms: int | None = None) -> Trust:
    """The trust in the wall clock at this moment. `last_record_ms` is the time of the log's last record, where the
    caller knows it: after a start of the machine nothing else tells that the clock is wrong. It grants no less without.

    Raises IntegrityError, FormatError, UnavailableError: then nothing is known of the clock, and nothing granted.
    """
    state, now = clock.read(keyring).state, reading()
    if state is None:
        return Trust(now.wall_ms, ClockWatch.begin(now).look(now, last_record_ms))
    behind = None if state.is_log_behind else last_record_ms  # that it is later is known, and confirmed to be wrong
    return Trust(now.wall_ms, state.doubt or state.clock_watch.look(now, behind))


def granting_ms(keyring: Keyring) -> int:
    """The time by which something may be granted, in ms since 1970 UTC. Raises as `trust`."""
    return trust(keyring).granting_ms


def _when(ms: int) -> str:
    return f"{dt.datetime.fromtimestamp(min(ms, LAST_MS) / 1000, dt.UTC):%Y-%m-%d %H:%M:%S} UTC"
