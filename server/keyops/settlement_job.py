"""Changes of the keys and checkpoints in the server: what commands in other processes began is finished twice a second,
and what was stored is signed once a minute or when that is ordered.

Rule: one job does both, so that what a change of the keys wrote to the log is signed right after. Nothing that goes
wrong here ends it; each cause is logged once and shown until it has passed.
"""

import threading
import time
from typing import Final

import structlog

from coffer.keys.clock import clock_ms
from coffer.keys.errors import CofferError
from coffer.keys.memory import hardening
from coffer.server.engine.archive import WritableArchive
from coffer.server.host import headroom
from coffer.server.mailbox import sign_order

__all__ = ["SettlementJob"]

_log = structlog.get_logger(__name__)
_SETTLE_SECONDS: Final = 0.5
_CHECKPOINT_SECONDS: Final = 60.0
_AGAIN_SECONDS: Final = 5.0  # after a checkpoint that was ordered and could not be signed


class SettlementJob:
    """The `server.host.job.Job` that settles and signs. A stop waits for the turn under way, which writes the log."""

    name: Final = "settling keys and signing checkpoints"
    patience_seconds: float | None = None

    def __init__(self, archive: WritableArchive) -> None:
        self._archive = archive
        self._signed = time.monotonic()  # when a checkpoint was signed last, or could not be
        self._unsigned = ""  # why the last checkpoint was not signed
        self._unfinished = ""  # why a change of the keys waits
        self._unsettled = ""  # what went wrong in the last turn
        self._unguarded: set[str] = set()  # what was told
        self.stopping = threading.Event()

    def begin(self) -> None:
        """Tell what the system refuses to do for keys in memory."""
        self._tell_unguarded()

    def turn(self) -> float:
        """Settle, and sign where it is time.

        After a checkpoint that was ordered the next one is a minute away too: time to copy what must fit together.
        """
        try:
            self._settle()
            since = time.monotonic() - self._signed
            is_due = not self._unsigned or since >= _AGAIN_SECONDS
            if (is_due and self._is_asked_to_sign()) or since >= _CHECKPOINT_SECONDS:
                self._signed = time.monotonic()
                self._sign()
                self._tell_unguarded()
            self._unsettled = ""
        except Exception as error:  # noqa: BLE001  # short of descriptors or memory: the next turn may do
            self._tell_unsettled(error)
        return _SETTLE_SECONDS

    def end(self) -> None:
        """As `server.host.job.Job.end`: nothing is held. The archive signs once more when it is closed."""

    def concerns(self) -> list[str]:
        """Why no checkpoint is signed, and why a change of the keys waits."""
        return [told for told in (self._unsigned, self._unfinished, self._unsettled) if told]

    def _settle(self) -> None:
        """Do what commands in other processes began with the keys."""
        try:
            self._archive.log.require_stable()
        except CofferError:
            return  # told by readyz; the next opening does it
        try:
            self._archive.check_keys()
            self._archive.reconcile()
            self._unfinished = ""
        except CofferError as error:
            told = f"a change of keys is not finished: {error}"
            if told != self._unfinished:  # it is tried twice a second
                _log.error("a change of keys is not finished", cause=str(error), way_out=error.hint())
            self._unfinished = told

    def _is_asked_to_sign(self) -> bool:
        try:
            return sign_order.is_waited_for(self._archive.keyring, clock_ms())
        except CofferError:
            return False  # a keyring that cannot be read is told of by whoever needs a key

    def _sign(self) -> None:
        """Sign what was stored since the last checkpoint, so that after a crash little of the log is without one."""
        try:
            self._archive.sign_checkpoint()
            self._unsigned = ""
        except CofferError as error:
            told = f"no checkpoint was signed: {error}"
            if told != self._unsigned:
                _log.error("no checkpoint was signed", cause=str(error), way_out=error.hint())
            self._unsigned = told

    def _tell_unsettled(self, error: Exception) -> None:
        what = headroom.what_ran_out(error)
        told = f"keys and checkpoints wait: {f'short of {what}' if what else type(error).__name__}"
        if told != self._unsettled:
            _log.error("keys and checkpoints were not looked after", exc_info=error)
        self._unsettled = told

    def _tell_unguarded(self) -> None:
        """Tell once what the system refused to do for keys in memory."""
        for what, way_out in hardening.refusals().items():
            if what not in self._unguarded:
                self._unguarded.add(what)
                _log.warning("keys are less guarded than they could be", cause=what, way_out=way_out)
