"""The wall clock in the server: looked at every few seconds, and shown while it is in doubt.

Rule: nothing that peers ask for depends on it: objects are stored, found and sent while the clock is in doubt.
"""

import threading
from collections.abc import Callable
from typing import Final

from coffer.keys.clock import Sighting
from coffer.keys.errors import CofferError
from coffer.keys.keyring.keyring import Keyring
from coffer.server.clock.trust import REMEDY, Trust
from coffer.server.clock.watching import look
from coffer.server.observe.logs import get_logger
from coffer.server.observe.metrics import Metrics

__all__ = ["ClockJob"]

_log = get_logger()
_LOOK_SECONDS: Final = 5.0


class ClockJob:
    """The `server.host.job.Job` that looks at the wall clock. `last_ms` gives the time of the log's last record."""

    name: Final = "watching the clock"
    patience_seconds: float | None = None

    def __init__(self, keyring: Keyring, metrics: Metrics, last_ms: Callable[[], int | None]) -> None:
        self._keyring = keyring
        self._metrics = metrics
        self._last_ms = last_ms
        self._doubt: Sighting | None = None
        self._failure = ""
        self.stopping = threading.Event()

    def begin(self) -> None:
        """Show the doubt that the last run left, or that was seen while the archive was opened."""
        self.turn()

    def turn(self) -> float:
        """Look at the clock; a doubt that begins or has ended is logged."""
        try:
            self._show(look(self._keyring, self._last_ms()))
            self._failure = ""
        except CofferError as error:
            failure = f"a doubt in the clock could not be noted: {error}"
            if failure != self._failure:
                _log.error(
                    "the clock could not be checked", name="clock.check_failed", cause=str(error), remedy=error.hint()
                )
            self._failure = failure
        return _LOOK_SECONDS

    def end(self) -> None:
        """See `server.host.job.Job.end`. Nothing to release."""

    def concerns(self) -> list[str]:
        """Return the doubt in the clock with its remedy, and why it cannot be noted."""
        doubt = self._doubt
        told = [] if doubt is None else [f"{Trust(doubt.wall_ms, doubt).concern()}: {REMEDY}"]
        return [*told, self._failure] if self._failure else told

    def _show(self, doubt: Sighting | None) -> None:
        before, self._doubt = self._doubt, doubt
        if doubt == before:
            return
        self._metrics.clock_doubted(doubt is not None)
        if doubt is None:
            _log.info("the clock is confirmed", name="clock.confirmed")
            return
        _log.error(
            "the clock is in doubt: nothing is granted because time has passed", name="clock.doubted",
            cause=Trust(doubt.wall_ms, doubt).concern(), remedy=REMEDY,
        )  # fmt: skip
