"""A transactional outbox: events wait in the keyring until the writer moves them into the log.

Rule: an event is put into the keyring in the same transaction as the change that it records, and into the log exactly
once: before it is appended, it is noted from which record of log 0 on to look for it, so that a stop between append and
removal is detected. An event in the keyring is sealed as it will be in the log.
"""

import os
from collections.abc import Callable, Iterable
from typing import Protocol

from coffer.archive.events.recorded import Occurrence, Recorded
from coffer.archive.format.entry import Appended, Entry, Position, RecordId
from coffer.archive.format.record import RecordHeader
from coffer.keys.crypto import derive
from coffer.keys.errors import FormatError, IntegrityError
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.mailbox import events
from coffer.keys.values.waiting_event import UNIQUE, WaitingEvent

__all__ = ["deliver", "enclosed", "header_of"]


class Log(Protocol):
    """The log that events are appended to."""

    @property
    def next_seq(self) -> int:
        """The number of the next record."""

    def append(self, entries: list[Entry]) -> list[Appended]:
        """Append records; durable on return. Raises UnavailableError."""


class Reader(Protocol):
    """The log as it is searched for events."""

    def records(self, from_seq: int) -> Iterable[tuple[Position, RecordHeader]]:
        """The records from a number on, in order."""


def enclosed(keyring: Keyring, event: Occurrence) -> WaitingEvent:
    """Seal an event, to be written into the keyring together with the change that it records."""
    entry = event.seal(keyring.archive_key(derive.EVENT), keyring.archive_id, os.urandom)
    assert isinstance(entry.body, bytes)
    return WaitingEvent(entry.kind, event.time_ms, entry.study_key_id, entry.content_id, entry.body, os.urandom(UNIQUE))


def deliver(keyring: Keyring, log: Log, reader: Reader, covered: Callable[[RecordId], None]) -> int:
    """Move every waiting event into the log, durably; return how many there were. Raises UnavailableError, and
    IntegrityError where somebody else wrote one: then none is moved.

    `covered` gets the name of each appended record: the index has nothing to read in it.
    """
    found = events.waiting(keyring)
    if found:
        events.require_genuine(keyring, found)
        _require_sealed(keyring, found)
    for event in found:
        if event.number is None or not _is_in(reader, event, event.number):
            events.tried(keyring, event, log.next_seq)
            entry = Entry(event.kind, event.study_key_id, 0, event.content_id, event.body, event.time_ms)
            covered(log.append([entry])[0].position.id)
        events.delivered(keyring, event)
    return len(found)


def header_of(event: WaitingEvent) -> RecordHeader:
    """Return the header of the record that an event becomes, as far as it is known."""
    return RecordHeader(event.kind, 0, event.time_ms, event.study_key_id, 0, 0, event.content_id, b"", b"", 0)


def _require_sealed(keyring: Keyring, found: Iterable[WaitingEvent]) -> None:
    """Open every event: what the log has once is there for ever, under a genuine signature."""
    key = keyring.archive_key(derive.EVENT)
    for event in found:
        try:
            Recorded.open(key, keyring.archive_id, header_of(event), event.body)
        except (FormatError, IntegrityError) as error:
            raise IntegrityError(
                f"an event that waits in the keyring was not written by this archive: {error}",
                hint="stop the server, put the newest copy of the keyring folder back, then run coffer keys audit",
            ) from error


def _is_in(reader: Reader, event: WaitingEvent, from_seq: int) -> bool:
    wanted = event.kind, event.study_key_id, event.content_id
    return any((h.kind, h.study_key_id, h.content_id) == wanted for _, h in reader.records(from_seq))
