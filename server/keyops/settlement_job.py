"""Changes of the keys and checkpoints in the server: twice a second it finishes what commands in other processes began;
once a minute, or when ordered, it signs what was stored.

Rule: one job does both, so that the records of a change of the keys are signed right after it. No failure ends the job;
each cause is logged once and shown until it has passed. But nothing more is stored once records have waited for a
signature for two minutes: what a server acknowledges, the next opening must be able to find.
"""

import threading
import time
from typing import Final

from coffer.keys.clock import clock_ms
from coffer.keys.errors import CofferError
from coffer.keys.memory import hardening
from coffer.server.engine.archive import WritableArchive
from coffer.server.host import headroom
from coffer.server.mailbox import sign_order
from coffer.server.observe.logs import get_logger

__all__ = ["SettlementJob"]

_log = get_logger()
_SETTLE_SECONDS: Final = 0.5
_CHECKPOINT_SECONDS: Final = 60.0
_MOST_UNSIGNED_SECONDS: Final = 120.0
_AGAIN_SECONDS: Final = 5.0  # after a checkpoint that could not be signed


class SettlementJob:
    """The `server.host.job.Job` that settles and signs. A stop waits for the current turn, which writes the log."""

    name: Final = "settling keys and signing checkpoints"
    patience_seconds: float | None = None

    def __init__(self, archive: WritableArchive) -> None:
        self._archive = archive
        self._signed = time.monotonic()  # time of the last attempt to sign a checkpoint
        self.unsigned: CofferError | None = None  # why the last checkpoint was not signed
        self._unfinished = ""  # why a change of the keys waits
        self._unsettled = ""  # what went wrong in the last turn
        self._unhardened: set[str] = set()  # what was logged already
        self.stopping = threading.Event()

    def begin(self) -> None:
        """Log what the operating system refuses to do for keys in memory; bound how long a record waits for its
        checkpoint."""
        self._report_unhardened()
        self._archive.log.sign_within(_MOST_UNSIGNED_SECONDS)

    def turn(self) -> float:
        """Settle, and sign if a checkpoint is due.

        After an ordered checkpoint, too, the next one is a minute away: time to copy files that must fit together.
        """
        try:
            self._settle()
            since = time.monotonic() - self._signed
            is_again = self.unsigned is not None
            is_due = not is_again or since >= _AGAIN_SECONDS
            if (is_due and (is_again or self._is_signing_ordered())) or since >= _CHECKPOINT_SECONDS:
                self._signed = time.monotonic()
                self._sign()
                self._report_unhardened()
            self._unsettled = ""
        except Exception as error:  # noqa: BLE001  # short of descriptors or memory: the next turn may succeed
            self._report_unsettled(error)
        return _SETTLE_SECONDS

    def end(self) -> None:
        """See `server.host.job.Job.end`. Nothing to release: the archive signs once more when it is closed."""

    def concerns(self) -> list[str]:
        """Return why no checkpoint is signed, and why a change of the keys waits."""
        unsigned = "" if self.unsigned is None else f"no checkpoint was signed: {self.unsigned}"
        return [concern for concern in (unsigned, self._unfinished, self._unsettled) if concern]

    def _settle(self) -> None:
        """Finish the changes of the keys that commands in other processes began."""
        try:
            self._archive.log.require_stable()
        except CofferError:
            return  # shown by readyz; the next opening does it
        try:
            self._archive.check_keys()
            self._archive.reconcile()
            self._unfinished = ""
        except CofferError as error:
            concern = f"a change of keys is not finished: {error}"
            if concern != self._unfinished:  # it is tried twice a second
                _log.error(
                    "a change of the keys was not finished", name="keys.settle_failed",
                    cause=str(error), remedy=error.hint(),
                )  # fmt: skip
            self._unfinished = concern

    def _is_signing_ordered(self) -> bool:
        try:
            return sign_order.is_waited_for(self._archive.keyring, clock_ms())
        except CofferError:
            return False  # the next caller that needs a key reports a keyring that cannot be read

    def _sign(self) -> None:
        """Sign what was stored since the last checkpoint, so that after a crash little of the log is without one."""
        try:
            self._archive.sign_checkpoint()
            self.unsigned = None
        except CofferError as error:
            if str(error) != str(self.unsigned or ""):
                _log.error(
                    "no checkpoint was signed", name="checkpoint.sign_failed", cause=str(error), remedy=error.hint()
                )
            self.unsigned = error

    def _report_unsettled(self, error: Exception) -> None:
        what = headroom.what_ran_out(error)
        concern = f"keys and checkpoints wait: {f'short of {what}' if what else type(error).__name__}"
        if concern != self._unsettled:
            _log.error("keys were not settled and no checkpoint was signed", name="settlement.failed", exc_info=error)
        self._unsettled = concern

    def _report_unhardened(self) -> None:
        """Log once what the operating system refused to do for keys in memory."""
        for what, remedy in hardening.refusals().items():
            if what not in self._unhardened:
                self._unhardened.add(what)
                _log.warning("keys in memory are less protected", name="hardening.refused", cause=what, remedy=remedy)
