"""Where acts are recorded, and what a command does that does not write the log: leave them in the keyring, or refuse.

Rule: one who must not go on without a record calls `require`; what only happened is handed to `note`. A command whose
keyring cannot be written answers nothing, unless its user said why nothing is recorded.
"""

from collections.abc import Sequence
from typing import Protocol

from coffer.archive.events.accesses import Act
from coffer.archive.events.recorded import Occurrence
from coffer.keys.clock import clock_ms
from coffer.keys.errors import AuditError, CofferError, TooCostlyError
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.mailbox import events
from coffer.server.audit.packing import events_of
from coffer.server.mailbox import outbox
from coffer.server.observe.logs import get_logger

__all__ = ["Auditor", "MailboxAuditor", "ReadOnlyAuditor", "Unaudited", "refused", "report"]

_log = get_logger()


class Auditor(Protocol):
    """Where acts are recorded. Thread-safe."""

    def require(self, acts: Sequence[Act]) -> None:
        """Record acts, durable on return. Raises AuditError: then what they allow must not be done; TooCostlyError for
        a query that is too long to be recorded."""

    def note(self, act: Act) -> None:
        """Record what happened; durable soon. Raises nothing."""


class ReadOnlyAuditor:
    """Of an archive whose keyring cannot be written: every act is refused."""

    def require(self, acts: Sequence[Act]) -> None:  # noqa: ARG002  whatever they are
        """As `Auditor.require`: raises AuditError."""
        raise AuditError(
            "refused, because no audit record of it can be stored: the keyring cannot be written here",
            hint="run it where the keyring can be written, or say why it is not recorded: --unaudited REASON",
        )

    def note(self, act: Act) -> None:
        """As `Auditor.note`: what a command that may answer nothing did, is nothing."""


class Unaudited:
    """Of a command whose user said why nothing is recorded."""

    def require(self, acts: Sequence[Act]) -> None:
        """As `Auditor.require`: nothing is kept."""

    def note(self, act: Act) -> None:
        """As `Auditor.note`: nothing is kept."""


class MailboxAuditor:
    """Of a command that does not write the log: records wait in the keyring, durable, until a writer appends them."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def require(self, acts: Sequence[Act]) -> None:
        """As `Auditor.require`."""
        made = list(events_of(acts))
        now = clock_ms()
        try:
            events.leave(self._keyring, [outbox.enclosed(self._keyring, Occurrence(each, now)) for each in made])
        except CofferError as error:
            raise refused(error) from error

    def note(self, act: Act) -> None:
        """As `Auditor.note`."""
        try:
            self.require([act])
        except CofferError as error:
            report(error)


def refused(cause: Exception) -> CofferError:
    """The error of an act whose record could not be stored, for this cause."""
    if isinstance(cause, (AuditError, TooCostlyError)):
        return cause
    hint = cause.hint() if isinstance(cause, CofferError) else "see the server's log"
    what = str(cause) if isinstance(cause, CofferError) else "internal error"
    return AuditError(f"refused, because no audit record of it can be stored: {what}", hint=hint)


def report(error: CofferError) -> None:
    """Log that a record could not be stored."""
    _log.error("no audit record can be stored", name="audit.refused", cause=str(error), remedy=error.hint())
