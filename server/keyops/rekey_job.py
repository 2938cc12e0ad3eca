"""Rekeys in the server: the job that carries out what commands in other processes ordered, and what a stop left."""

import threading
from typing import Final

import structlog

from coffer.keys.errors import CofferError
from coffer.keys.keyring import rekey, rows
from coffer.server.engine.rekey import Rekeyer
from coffer.server.services.bundle import WriterServices

__all__ = ["RekeyJob"]

_log = structlog.get_logger(__name__)
_POLL_SECONDS: Final = 0.5
_RETRY_SECONDS: Final = 10.0
_GRACE_SECONDS: Final = 10.0  # retrievals that were planned before the change-over read old records for so long


class RekeyJob:
    """The `server.host.job.Job` for rekeys. A stop waits for the group that is being written."""

    name: Final = "rekeying"
    patience_seconds: float | None = None

    def __init__(self, services: WriterServices) -> None:
        self._archive = services.archive
        self.stopping = threading.Event()
        self._rekeyer = Rekeyer(
            services.archive,
            pause=services.committer.paused,
            grace_seconds=_GRACE_SECONDS,
            is_stopping=self.stopping.is_set,
        )

    def begin(self) -> None:
        """As `server.host.job.Job.begin`: what the last run left is in the keyring."""

    def turn(self) -> float:
        """Carry out what was ordered, or go on where the last run stopped."""
        try:
            if self._archive.keyring.rows(rows.REKEY_PREFIX):
                self._archive.log.require_writable()
                self._rekeyer.run()
        except CofferError as error:
            if not self.stopping.is_set():
                _log.error("a rekey does not go on now", cause=str(error), way_out=error.hint())
            return _RETRY_SECONDS
        return _POLL_SECONDS

    def end(self) -> None:
        """As `server.host.job.Job.end`: nothing is held."""

    def concerns(self) -> list[str]:
        """Rekeys that wait for a repair."""
        stuck = [each.stuck for each in rekey.under_way(self._archive.keyring) if each.stuck != rekey.NOT_STUCK]
        if not stuck:
            return []
        return [f"{len(stuck)} rekeys wait for a repair, record {min(stuck)} does not open: coffer verify"]
