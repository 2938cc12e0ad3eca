"""Rekeys in the server: a thread that carries out what commands in other processes ordered, and what a stop left."""

import threading
from typing import Final

import structlog

from coffer.keys.errors import CofferError
from coffer.keys.keyring import rekey, rows
from coffer.server.engine.rekey import Rekeyer
from coffer.server.host.watched import Watched
from coffer.server.services.bundle import WriterServices

__all__ = ["RekeyWatch"]

_log = structlog.get_logger(__name__)
_POLL_SECONDS: Final = 0.5
_RETRY_SECONDS: Final = 10.0
_GRACE_SECONDS: Final = 10.0  # retrievals that were planned before the change-over read old records for so long


class RekeyWatch:
    """Carries out rekeys from `start` to `stop`."""

    def __init__(self, services: WriterServices) -> None:
        self._archive = services.archive
        self._stopping = threading.Event()
        self.watched = Watched("rekeying", self._run, self._stopping)
        self._rekeyer = Rekeyer(
            services.archive,
            pause=services.committer.paused,
            grace_seconds=_GRACE_SECONDS,
            is_stopping=self._stopping.is_set,
        )

    def start(self) -> None:
        """Begin, or go on where the last run stopped."""
        self.watched.start()

    def stop(self) -> None:
        """End after the group that is being written."""
        self._stopping.set()
        self.watched.join()

    def concerns(self) -> list[str]:
        """What a human should look at, for /readyz; nothing when all is well."""
        stuck = [each.stuck for each in rekey.under_way(self._archive.keyring) if each.stuck != rekey.NOT_STUCK]
        if not stuck:
            return []
        return [f"{len(stuck)} rekeys wait for a repair, record {min(stuck)} does not open: coffer verify"]

    def _run(self) -> None:
        while not self._stopping.wait(_POLL_SECONDS):
            try:
                if self._archive.keyring.rows(rows.REKEY_PREFIX):
                    self._archive.log.require_writable()
                    self._rekeyer.run()
            except CofferError as error:
                if not self._stopping.is_set():
                    _log.error("a rekey does not go on now", cause=str(error), way_out=error.hint())
                self._stopping.wait(_RETRY_SECONDS)
