"""Ask the key provider regularly whether it still opens the key in use, and act on the answer.

Rule: a provider that cannot be reached does no harm, because the key is in memory; what is stored meanwhile opens once
the provider is back. A provider that has lost the key is different: whatever is stored would be lost with this process,
so stores are refused until the key is back. The same holds when another process has moved the keys to an epoch that
this one never opened. The provider is asked in a thread of its own, since an HSM may never answer.
"""

import threading
import time
from collections.abc import Callable
from typing import Final

from coffer.keys.errors import CofferError, IntegrityError, KeyUnavailableError, UnavailableError
from coffer.keys.keyring.keyring import Keyring
from coffer.server.engine.commit import Committer
from coffer.server.observe.logs import get_logger
from coffer.server.observe.metrics import Metrics

__all__ = ["ProviderJob"]

_log = get_logger()
_CONFIRM: Final = 2  # the key must be gone so many times in a row: a key file being replaced is back at once
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
        self._is_fresh = True  # the archive was just opened, so the provider has just been asked
        self.stopping = threading.Event()

    def begin(self) -> None:
        """See `server.host.job.Job.begin`."""
        self._metrics.asked_for_keys(up=True)

    def turn(self) -> float:
        """Ask the provider; the first time only about the secrets of destroyed epochs."""
        if self._is_fresh:
            self._is_fresh = False
            self._check_destroyed()
        else:
            self.ask()
        return min(self._seconds, _CONFIRM_SECONDS) if self._gone == 1 else self._seconds

    def end(self) -> None:
        """See `server.host.job.Job.end`. Nothing to release."""

    def concerns(self) -> list[str]:
        """Return concerns: the provider does not open the key in use, or a destroyed secret is back."""
        back = [
            f"the secret of destroyed epoch {epoch} is back and opens old keyrings: coffer keys destroy {epoch}"
            for epoch in self._returned
        ]
        return [*back, *self._concerns_of_current_key()]

    def _concerns_of_current_key(self) -> list[str]:
        asked = self._asked
        if asked is not None and self._clock() - asked > _SILENCE_SECONDS:
            return [f"the key provider has not answered for {self._clock() - asked:.0f} s; stores continue"]
        return [self._concern] if self._concern else []

    def ask(self) -> None:
        """Ask once, and refuse or allow stores accordingly."""
        self._asked = self._clock()
        try:
            self._keyring.check_provider()
        except (KeyUnavailableError, IntegrityError) as error:
            self._key_lost(error)
        except CofferError as error:
            if self._keyring.lacks_current_kek():
                self._refuse(f"nothing is stored: the keys moved to an epoch that does not open here: {error}", error)
                return
            self._report(f"the key provider cannot be used now; stores continue: {error}", error)
        else:
            self._recovered()
            self._check_destroyed()
        finally:
            self._asked = None

    def _check_destroyed(self) -> None:
        before, self._returned = self._returned, self._keyring.returned().epochs
        for epoch in set(self._returned).difference(before):
            _log.error(
                "the secret of a destroyed epoch is back at its provider", name="provider.secret_returned",
                epoch=epoch, remedy=f"coffer keys destroy {epoch}",
            )  # fmt: skip

    def _key_lost(self, error: CofferError) -> None:
        self._gone += 1
        self._report(f"the key in use cannot be opened again: {error}", error)
        if self._gone == _CONFIRM:
            self._committer.refusal = UnavailableError(
                f"nothing is stored, because it could not be opened after a restart: {error}", hint=error.hint()
            )
            _log.critical(
                "stores are refused: do not stop this server before the key is back", name="provider.key_lost",
                cause=str(error),
            )  # fmt: skip

    def _refuse(self, reason: str, error: CofferError) -> None:
        """Refuse stores: another process made the current epoch, with a provider unknown here or unreachable."""
        self._report(reason, error)
        self._committer.refusal = UnavailableError(reason, hint=error.hint())

    def _report(self, concern: str, error: CofferError) -> None:
        self._metrics.asked_for_keys(up=False)
        if concern != self._concern:
            _log.error(
                "the key provider does not open the key in use", name="provider.check_failed",
                cause=str(error), remedy=error.hint(),
            )  # fmt: skip
        self._concern = concern

    def _recovered(self) -> None:
        self._metrics.asked_for_keys(up=True)
        if self._concern:
            _log.info("the key provider opens the key in use again", name="provider.recovered")
        self._concern, self._gone, self._committer.refusal = "", 0, None
