"""The audit trail of an open archive as its writer has it: acts become sealed records of the archive's own log.

Rule: records that are made while one is being written share the next sync. Nothing is dropped: where none can be
stored, `require` raises, and what was noted waits. While the log takes no record until a restart or a repair, they are
left in the keyring like those of a command: what is read of a damaged log is recorded, too.
"""

import os
import threading
from collections.abc import Callable, Sequence
from typing import Final

from coffer.archive.events.accesses import AccessRecorded, Act
from coffer.archive.events.recorded import Occurrence
from coffer.archive.format.entry import Appended, Entry, RecordId
from coffer.archive.log import LogWriter
from coffer.keys.crypto import derive
from coffer.keys.errors import AuditError, CofferError
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.mailbox import events
from coffer.keys.values.waiting_event import UNIQUE, WaitingEvent
from coffer.server.audit.auditor import refused, report
from coffer.server.audit.packing import events_of

__all__ = ["Trail"]

_WRITTEN_AT: Final = 256  # noted acts: then whoever adds one writes them
_MOST_NOTES: Final = 4096  # then nobody is let in whose coming would have to be noted
_MOST_LEFT: Final = 10_000  # records in the keyring


class _Ticket:
    __slots__ = ("done", "entries", "error")

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = entries
        self.done = False
        self.error: CofferError | None = None


class Trail:
    """The `Auditor` of an archive's writer. Thread-safe; one per archive."""

    def __init__(self, keyring: Keyring, log: LogWriter, covered: Callable[[RecordId], None]) -> None:
        """`covered` gets the name of each appended record: the index has nothing to read in it."""
        self._keyring = keyring
        self._log = log
        self._covered = covered
        self._key = keyring.archive_key(derive.AUDIT)
        self._waiting: list[_Ticket] = []
        self._notes: list[Act] = []
        self._queue_lock = threading.Lock()
        self._lock = threading.Lock()
        self._left = 0
        self._trouble: CofferError | None = None  # why the last record could not be stored

    def require(self, acts: Sequence[Act]) -> None:
        """As `Auditor.require`."""
        ticket = _Ticket(self.entries(acts))
        with self._queue_lock:
            self._waiting.append(ticket)
        with self._lock:
            if not ticket.done:
                self._write_waiting()
        if ticket.error is not None:
            raise ticket.error.with_traceback(None)

    def note(self, act: Act) -> None:
        """As `Auditor.note`."""
        with self._queue_lock:
            self._notes.append(act)
            is_due = len(self._notes) % _WRITTEN_AT == 0
        if is_due:
            self.flush()

    def flush(self) -> None:
        """Write what was noted, durable on return unless it still cannot be stored. Raises nothing."""
        if not self._notes:
            return
        with self._lock:
            with self._queue_lock:
                notes, self._notes = self._notes, []
            ticket = _Ticket(self.entries(notes))
            self._write([ticket])
            if ticket.error is not None:
                with self._queue_lock:
                    self._notes = notes + self._notes

    def entries(self, acts: Sequence[Act]) -> list[Entry]:
        """The sealed records of these acts, for somebody who appends them together with what they are about, and then
        calls `appended`. Raises TooCostlyError."""
        return [self._sealed(each) for each in events_of(acts)]

    def appended(self, done: Sequence[Appended]) -> None:
        """Record that these records are in the log."""
        for each in done:
            self._covered(each.position.id)

    def require_able(self) -> None:
        """Return if a record can be expected to be stored. Raises AuditError."""
        try:
            if not self._must_wait():
                self._log.require_auditable()
        except CofferError as error:
            raise refused(error) from error
        if self._trouble is not None:
            raise self._trouble.with_traceback(None)

    def require_room(self) -> None:
        """Return if what happens can still be noted. Raises AuditError."""
        if len(self._notes) >= _MOST_NOTES:
            raise AuditError("busy: audit records wait to be stored", hint="see /readyz")

    def _must_wait(self) -> bool:
        """Whether the log takes no record until a restart or a repair."""
        if self._log.refusal is not None:
            return True
        try:
            self._log.require_stable()
        except CofferError:
            return True
        return False

    def _write_waiting(self) -> None:
        with self._queue_lock:
            tickets, self._waiting = self._waiting, []
        self._write(tickets)

    def _write(self, tickets: Sequence[_Ticket]) -> None:
        """Store the records of these tickets with one sync; an error is that of each. The caller holds the lock."""
        entries = [entry for ticket in tickets for entry in ticket.entries]
        error: CofferError | None = None
        try:
            if self._must_wait():
                self._leave(entries)
            else:
                self.appended(self._log.append(entries))
        except Exception as found:  # noqa: BLE001  # every waiting caller must get its end, whatever it is
            error = refused(found)
            if self._trouble is None:
                report(error)
        self._trouble = error
        for ticket in tickets:
            ticket.error, ticket.done = error, True

    def _leave(self, entries: Sequence[Entry]) -> None:
        if self._left + len(entries) > _MOST_LEFT:
            raise AuditError("too many audit records wait in the keyring", hint="repair the log: coffer verify")
        rows = []
        for each in entries:
            assert isinstance(each.body, bytes)
            key_id, cid = each.study_key_id, each.content_id
            rows.append(WaitingEvent(each.kind, each.least_ms, key_id, cid, each.body, os.urandom(UNIQUE)))
        events.leave(self._keyring, rows)
        self._left += len(entries)

    def _sealed(self, event: AccessRecorded) -> Entry:
        return Occurrence(event, event.acts[-1].at_ms).seal(self._key, self._keyring.archive_id, os.urandom)
