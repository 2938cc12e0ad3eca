"""Noted acts reach the log: the job that writes them each second."""

import threading
from typing import Final

from coffer.server.audit.trail import Trail

__all__ = ["TrailJob"]

_SECONDS: Final = 1.0


class TrailJob:
    """The `server.host.job.Job` that writes what was noted and found no other record to go with."""

    name: Final = "writing the audit trail"
    patience_seconds: float | None = None

    def __init__(self, trail: Trail) -> None:
        self._trail = trail
        self.stopping = threading.Event()

    def begin(self) -> None:
        """See `server.host.job.Job.begin`. Nothing to do."""

    def turn(self) -> float:
        """Write what was noted."""
        self._trail.flush()
        return _SECONDS

    def end(self) -> None:
        """See `server.host.job.Job.end`."""
        self._trail.flush()

    def concerns(self) -> list[str]:
        """Nothing: that no record can be stored is a reason not to be ready."""
        return []
