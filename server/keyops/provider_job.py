"""Ask the key provider now and then whether it still opens the key in use, and act on the answer.

Rule: a provider that is away costs nothing, for the key is in memory; what is stored meanwhile opens again when it is
back. A provider that has lost the key is another thing: what is stored would be gone with this process, so that
nothing is stored any more until the key is back. So it is where another process has moved the keys to an epoch that
this one never opened. It is asked in a thread of its own, since an HSM may never answer.
"""

import threading
import time
from collections.abc import Callable
from typing import Final

import structlog

from coffer.keys.errors import CofferError, IntegrityError, KeyUnavailableError, UnavailableError
from coffer.keys.keyring.keyring import Keyring
from coffer.server.engine.commit import Committer
from coffer.server.observe.metrics import Metrics

__all__ = ["ProviderJob"]

_log = structlog.get_logger(__name__)
_CONFIRM: Final = 2  # times in a row that the key must be gone: a key file that is being replaced is back at once
_CONFIRM_SECONDS: Final = 2.0
_SILENCE_SECONDS: Final = 30.0


class ProviderJob:
    """The `server.host.job.Job` that asks the provider every `seconds`."""

    name: Final = "watching the key provider"
    patience_seconds: float | None = 5.0

    def __init__(
        self,
        keyring: Keyring,
        committer: Committer,
        metrics: Metrics,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keyring = keyring
        self._committer = committer
        self._metrics = metrics
        self._seconds = seconds
        self._clock = clock
        self._concern = ""
        self._gone = 0
        self._returned: tuple[int, ...] = ()
        self._asked: float | None = None
        self._is_fresh = True  # the archive was just opened: the first question waits for its time
        self.stopping = threading.Event()

    def begin(self) -> None:
        """As `server.host.job.Job.begin`."""
        self._metrics.asked_for_keys(up=True)

    def turn(self) -> float:
        """Ask the provider; the first time only for the secrets of destroyed epochs."""
        if self._is_fresh:
            self._is_fresh = False
            self._look_at_ended()
        else:
            self.look()
        return min(self._seconds, _CONFIRM_SECONDS) if self._gone == 1 else self._seconds

    def end(self) -> None:
        """As `server.host.job.Job.end`: nothing is held."""

    def concerns(self) -> list[str]:
        """The provider does not open the key in use, or opens what was destroyed."""
        back = [
            f"the secret of destroyed epoch {epoch} is back and opens old keyrings: coffer keys destroy {epoch}"
            for epoch in self._returned
        ]
        return [*back, *self._of_the_key_in_use()]

    def _of_the_key_in_use(self) -> list[str]:
        asked = self._asked
        if asked is not None and self._clock() - asked > _SILENCE_SECONDS:
            return [f"the key provider has not answered for {self._clock() - asked:.0f} s; stores go on"]
        return [self._concern] if self._concern else []

    def look(self) -> None:
        """Ask once."""
        self._asked = self._clock()
        try:
            self._keyring.check_provider()
        except (KeyUnavailableError, IntegrityError) as error:
            self._lost(error)
        except CofferError as error:
            if self._keyring.lacks_current_kek():
                self._refuse(f"nothing is stored: the keys moved to an epoch that does not open here: {error}", error)
                return
            self._tell(f"the key provider cannot be used now; stores go on: {error}", error)
        else:
            self._well()
            self._look_at_ended()
        finally:
            self._asked = None

    def _look_at_ended(self) -> None:
        before, self._returned = self._returned, self._keyring.returned().epochs
        for epoch in set(self._returned).difference(before):
            way_out = f"coffer keys destroy {epoch}"
            _log.error("the secret of a destroyed epoch is back at its provider", epoch=epoch, way_out=way_out)

    def _lost(self, error: CofferError) -> None:
        self._gone += 1
        self._tell(f"the key in use cannot be opened again: {error}", error)
        if self._gone == _CONFIRM:
            self._committer.refusal = UnavailableError(
                f"nothing is stored, because it could not be opened after a restart: {error}", hint=error.hint()
            )
            _log.critical("stores are refused: do not stop this server before the key is back", cause=str(error))

    def _refuse(self, reason: str, error: CofferError) -> None:
        """The current epoch was never open here: another process made it, with a provider that is not known or away."""
        self._tell(reason, error)
        self._committer.refusal = UnavailableError(reason, hint=error.hint())

    def _tell(self, concern: str, error: CofferError) -> None:
        self._metrics.asked_for_keys(up=False)
        if concern != self._concern:
            _log.error("the key provider does not open the key in use", cause=str(error), way_out=error.hint())
        self._concern = concern

    def _well(self) -> None:
        self._metrics.asked_for_keys(up=True)
        if self._concern:
            _log.info("the key provider opens the key in use again")
        self._concern, self._gone, self._committer.refusal = "", 0, None
