"""Rotations in the server: a thread that finishes what a stop left half done, and renews an epoch that is old enough.

Rule: an HSM may never answer, so nothing else waits for this thread: at the end it stops after the keys it is moving,
and one that waits for its provider is left behind. What it leaves half done opens, and the next start goes on with it.
"""

import threading
from typing import Final

import structlog

from coffer.keys.errors import CofferError, LockedError
from coffer.server.access.principal import Principal
from coffer.server.host.watched import Watched
from coffer.server.keyops.epochs import Renewal
from coffer.server.observe.metrics import Metrics
from coffer.server.services.engine import Engine

__all__ = ["RenewalWatch"]

_log = structlog.get_logger(__name__)
_POLL_SECONDS: Final = 5.0
_RETRY_SECONDS: Final = 60.0
_JOIN_SECONDS: Final = 5.0


class _StoppedError(Exception):
    """The server ends while keys are moved."""


class RenewalWatch:
    """Finishes and renews from `start` to `stop`."""

    def __init__(self, engine: Engine, metrics: Metrics) -> None:
        self._engine = engine
        self._metrics = metrics
        self._renewal = Renewal(engine.folder, engine.keyring, engine.config.keys, Principal.service(), "coffer serve")
        self._failure = ""
        self._stopping = threading.Event()
        self.watched = Watched("renewing the keys", self._run, self._stopping)

    def start(self) -> None:
        """Begin, with what the last run left."""
        self.watched.start()

    def stop(self) -> None:
        """End after the keys that are being moved; a provider that does not answer is not waited for."""
        self._stopping.set()
        self.watched.join(_JOIN_SECONDS)

    def concerns(self) -> list[str]:
        """What a human should look at, for /readyz; nothing when all is well."""
        if self._failure:
            return [self._failure]
        keyring = self._engine.keyring
        if keyring.half_left() and keyring.changing() is None:
            return ["a rotation of the keys was stopped and is half done; it is gone on with at once"]
        return []

    def look(self) -> None:
        """Do what there is to do now."""
        try:
            self._engine.log.require_writable()
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

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.look()
            self._stopping.wait(_RETRY_SECONDS if self._failure else _POLL_SECONDS)

    def _moved(self, _done: int, _total: int) -> None:
        if self._stopping.is_set():
            raise _StoppedError
