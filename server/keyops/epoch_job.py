"""Rotations in the server: the job that finishes a rotation left by a stop, and rotates an epoch that is old enough;
every ten minutes it registers the
copies that backups made, and lets the keyring forget which studies were erased.

Rule: an HSM may never answer, so nothing else waits for this job. When the server stops, the job ends after the keys it
is moving; a turn that waits for its provider is left behind. A partly moved keyring opens, and the next start resumes.
"""

import threading
import time
from typing import Final

from coffer.keys.errors import CofferError, LockedError
from coffer.server.access.principal import Principal
from coffer.server.engine.archive import WritableArchive
from coffer.server.engine.erasure_state import forget_names
from coffer.server.keyops.backup_copies import follow_backups
from coffer.server.keyops.epochs import EpochAdmin
from coffer.server.observe.logs import get_logger
from coffer.server.observe.metrics import Metrics

__all__ = ["EpochJob"]

_log = get_logger()
_POLL_SECONDS: Final = 5.0
_RETRY_SECONDS: Final = 60.0
_FORGET_SECONDS: Final = 600.0


class _StoppedError(Exception):
    """The server stops while keys are being moved."""


class EpochJob:
    """The `server.host.job.Job` that finishes rotations and rotates old epochs."""

    name: Final = "renewing the keys"
    patience_seconds: float | None = 5.0

    def __init__(self, archive: WritableArchive, metrics: Metrics) -> None:
        self._archive = archive
        self._metrics = metrics
        self._epochs = EpochAdmin(
            archive.folder, archive.keyring, archive.config.keys, Principal.service(), "coffer serve"
        )
        self._failure = self._unknown = ""
        self._forgot = time.monotonic() - _FORGET_SECONDS
        self.stopping = threading.Event()

    def begin(self) -> None:
        """See `server.host.job.Job.begin`. Nothing to restore: the keyring holds what the last run left."""

    def turn(self) -> float:
        """Finish a stopped rotation, then rotate if the epoch is old enough."""
        self._rotate()
        return _RETRY_SECONDS if self._failure else _POLL_SECONDS

    def end(self) -> None:
        """See `server.host.job.Job.end`. Nothing to release."""

    def concerns(self) -> list[str]:
        """Return a concern if a rotation failed, or is half done and not under way."""
        if self._failure or self._unknown:
            return [each for each in (self._failure, self._unknown) if each]
        keyring = self._archive.keyring
        if keyring.partly_rotated() and keyring.change_holder() is None:
            return ["a rotation of the keys was stopped and is half done; it is resumed at once"]
        return []

    def _rotate(self) -> None:
        try:
            self._archive.log.require_writable()
        except CofferError:
            return  # shown by readyz; the keys of an archive that cannot be written stay as they are
        try:
            self._epochs.resume(self._on_moved)
            self._epochs.rotate_if_old(self._on_moved)
            self._forget()
        except LockedError:
            return  # another process is changing the keys
        except _StoppedError:
            _log.info("a rotation stopped with the server; the next start resumes it", name="rotation.interrupted")
        except CofferError as error:
            self._metrics.rotation_failed()
            _log.error("the keys were not rotated", name="rotation.failed", cause=str(error), remedy=error.hint())
            self._failure = f"the keys were not moved to a new epoch: {error}"
        else:
            self._failure = ""

    def _forget(self) -> None:
        """Forget the names of erasures that became effective: by a date, without anybody doing anything."""
        if time.monotonic() - self._forgot < _FORGET_SECONDS:
            return
        self._forgot = time.monotonic()
        try:
            follow_backups(self._archive)
        except CofferError as error:
            self._unknown = f"nobody knows which copies of the keyring the backups' target has: {error}"
            return
        self._unknown = ""
        if count := forget_names(self._archive.keyring, self._archive.index.is_stored):
            _log.info("it was forgotten which studies were erased", name="erasure.forgotten", keys=count)

    def _on_moved(self, _done: int, _total: int) -> None:
        if self.stopping.is_set():
            raise _StoppedError
