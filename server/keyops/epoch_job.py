"""Rotations in the server: the job that finishes what a stop left half done, and renews an epoch that is old enough.

Rule: an HSM may never answer, so nothing else waits for this job: at the end it stops after the keys it is moving,
and a turn that waits for its provider is left behind. What it leaves half done opens, and the next start resumes it.
"""

import threading
from typing import Final

import structlog

from coffer.keys.errors import CofferError, LockedError
from coffer.server.access.principal import Principal
from coffer.server.engine.archive import WritableArchive
from coffer.server.keyops.epochs import Renewal
from coffer.server.observe.metrics import Metrics

__all__ = ["EpochJob"]

_log = structlog.get_logger(__name__)
_POLL_SECONDS: Final = 5.0
_RETRY_SECONDS: Final = 60.0


class _StoppedError(Exception):
    """The server ends while keys are moved."""


class EpochJob:
    """The `server.host.job.Job` that finishes rotations and renews epochs."""

    name: Final = "renewing the keys"
    patience_seconds: float | None = 5.0

    def __init__(self, archive: WritableArchive, metrics: Metrics) -> None:
        self._archive = archive
        self._metrics = metrics
        self._renewal = Renewal(
            archive.folder, archive.keyring, archive.config.keys, Principal.service(), "coffer serve"
        )
        self._failure = ""
        self.stopping = threading.Event()

    def begin(self) -> None:
        """As `server.host.job.Job.begin`: what the last run left is in the keyring."""

    def turn(self) -> float:
        """Finish what was stopped, then renew what is old enough."""
        self._look()
        return _RETRY_SECONDS if self._failure else _POLL_SECONDS

    def end(self) -> None:
        """As `server.host.job.Job.end`: nothing is held."""

    def concerns(self) -> list[str]:
        """A rotation that failed, or is half done and not under way."""
        if self._failure:
            return [self._failure]
        keyring = self._archive.keyring
        if keyring.partly_rotated() and keyring.change_holder() is None:
            return ["a rotation of the keys was stopped and is half done; it is gone on with at once"]
        return []

    def _look(self) -> None:
        try:
            self._archive.log.require_writable()
        except CofferError:
            return  # told by readyz; an archive that is not written is not changed
        try:
            self._renewal.resume(self._moved)
            self._renewal.renew_if_old(self._moved)
        except LockedError:
            return  # somebody else is at it
        except _StoppedError:
            _log.info("a rotation stops with the server, the next start goes on with it")
        except CofferError as error:
            self._metrics.rotation_failed()
            _log.error("the keys were not rotated", cause=str(error), way_out=error.hint())
            self._failure = f"the keys were not moved to a new epoch: {error}"
        else:
            self._failure = ""

    def _moved(self, _done: int, _total: int) -> None:
        if self.stopping.is_set():
            raise _StoppedError
