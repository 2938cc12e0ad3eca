"""Whose association has to end because what let its peer in does so no longer.

Rule: an association outlives a password, a token or a user's entry by seconds only. The process that serves it is told
to end it in order; whether it does is not left to that process, which parses what strangers send.
"""

import time
from collections.abc import Callable, Collection
from typing import Final, Protocol, TypeVar

from coffer.server.access.principal import Principal
from coffer.server.identity.admission import Admission
from coffer.server.observe.logs import get_logger

__all__ = ["WITHDRAWAL_SECONDS", "Withdrawals"]

_log = get_logger()
WITHDRAWAL_SECONDS: Final = 30.0  # for the operation under way; with all that is waited for, an association ends in 60
_MOST_SECONDS: Final = 45.0
_LOOK_SECONDS: Final = 1.0


class Line(Protocol):
    """What serves one association. `withdrawn_at` is when it was told to end it (monotonic, in seconds)."""

    withdrawn_at: float | None

    @property
    def caller(self) -> Principal | None:
        """Who was let in; None before anybody was."""

    @property
    def withdraw(self) -> Callable[[], None]:
        """Have the association ended in order; returns at once."""


_L = TypeVar("_L", bound=Line)


class Withdrawals:
    """Looks at lines once a second. Used by one thread."""

    def __init__(self, admission: Admission, now: Callable[[], float] = time.monotonic) -> None:
        self._admission = admission
        self._now = now
        self._next = 0.0

    def look(self, lines: Collection[_L]) -> list[_L]:
        """Have the associations ended that have to; returns those that go on although they were told long ago."""
        now = self._now()
        if now < self._next:
            return []
        self._next = now + _LOOK_SECONDS
        for line in lines:
            if line.withdrawn_at is None:
                self._judge(line, now)
        late = [each for each in lines if each.withdrawn_at is not None and now - each.withdrawn_at > _MOST_SECONDS]
        for line in late:
            _log.error(
                "a worker did not end an association that had to end: its line is closed",
                name="worker.rule_broken",
                host=line.caller.host if line.caller else "",
            )
        return late

    def _judge(self, line: Line, now: float) -> None:
        caller = line.caller
        why = None if caller is None else self._admission.withdrawn(caller)
        if caller is None or why is None:
            return
        line.withdrawn_at = now
        _log.warning(
            "an association is ended: what let its peer in does so no longer",
            name="identity.withdrawn",
            reason=why.value,
            user=caller.user,
            calling_ae=caller.ae_title,
            host=caller.host,
        )
        line.withdraw()
