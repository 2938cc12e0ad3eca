"""Find out who calls, as a task that another thread can do: a password takes long to check.

Rule: it takes the turns of its host among the other tasks, so that whoever guesses passwords slows down themselves.
"""

from collections.abc import Callable
from typing import TypeAlias

from coffer.server.access.principal import Principal
from coffer.server.identity.admission import Admission, Connected
from coffer.server.identity.claim import AssociationClaim, Refusal
from coffer.server.observe.logs import get_logger

__all__ = ["Identification"]

_log = get_logger()

Done: TypeAlias = "Callable[[Identification], None]"


class Identification:
    """One claim over one connection. `found` is valid when `done` is called: None after an internal error."""

    def __init__(self, by: Connected, claim: AssociationClaim, admission: Admission, done: Done) -> None:
        self.host = by.host
        self.spent_seconds = 0.0
        self.found: Principal | Refusal | None = None
        self._by = by
        self._claim = claim
        self._admission = admission
        self._done = done

    def work(self, seconds: float) -> bool:  # noqa: ARG002  # a hash cannot be interrupted
        """Find out, in one turn however long it takes; returns that no other is needed. Raises nothing."""
        try:
            self.found = self._admission.associate(self._claim, self._by)
        except Exception:  # noqa: BLE001  # whoever waits for it must not wait forever
            _log.exception("nobody could be identified: internal error", name="identity.failed")
        self._done(self)
        return False
