"""Rekeys in the server: the job that carries out rekeys ordered by commands in other processes, or left by a stop.

Rule: the order is in the keyring, so a rekey that is interrupted at any point is resumed by the next turn.
"""

import threading
from typing import Final

from coffer.keys.errors import CofferError
from coffer.keys.keyring import rekey
from coffer.server.engine.rekey import Rekeyer
from coffer.server.observe.logs import get_logger
from coffer.server.services.bundle import WriterServices

__all__ = ["RekeyJob"]

_log = get_logger()
_POLL_SECONDS: Final = 0.5
_RETRY_SECONDS: Final = 10.0
_GRACE_SECONDS: Final = 10.0  # so long may retrievals planned before the change-over read old records


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
        """See `server.host.job.Job.begin`. Nothing to restore: the keyring holds what the last run left."""

    def turn(self) -> float:
        """Carry out what was ordered, or resume where the last run stopped."""
        try:
            if rekey.under_way(self._archive.keyring):
                self._archive.log.require_writable()
                self._rekeyer.run()
        except CofferError as error:
            if not self.stopping.is_set():
                _log.error("a rekey did not continue", name="rekey.failed", cause=str(error), remedy=error.hint())
            return _RETRY_SECONDS
        return _POLL_SECONDS

    def end(self) -> None:
        """See `server.host.job.Job.end`. Nothing to release."""

    def concerns(self) -> list[str]:
        """Return a concern if rekeys wait for a repair."""
        stuck = [each.stuck for each in rekey.under_way(self._archive.keyring) if each.stuck != rekey.NOT_STUCK]
        if not stuck:
            return []
        return [f"{len(stuck)} rekeys wait for a repair, record {min(stuck)} does not open: coffer verify"]
