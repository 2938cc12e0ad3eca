"""A transactional outbox: events wait in the keyring until the writer moves them into the log.

Rule: an event is put into the keyring in the same transaction as the change that it records, and into the log exactly
once: before it is appended, its row states from which record of log 0 on to look for it, so that a stop between append
and removal is detected. An event in the keyring is sealed as it will be in the log.
"""

import os
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol

from coffer.archive.event import Event
from coffer.archive.format.entry import Entry, Position, RecordId
from coffer.archive.format.record import RecordHeader
from coffer.keys.crypto import aead
from coffer.keys.errors import FormatError
from coffer.keys.keyring import rows
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.memory.secret import Secret

_LAYOUT: Final = struct.Struct(">HQ16s32sQ")  # kind time_ms key_id content_id from_seq; the sealed body follows
_NOT_TRIED: Final = (1 << 64) - 1


class Log(Protocol):
    """The log that events are appended to."""

    @property
    def next_seq(self) -> int:
        """The number of the next record."""

    def append(self, entries: list[Entry]) -> list[Position]:
        """Append records; durable on return. Raises UnavailableError."""


class Reader(Protocol):
    """The log as it is searched for events."""

    def records(self, from_seq: int) -> Iterable[tuple[Position, RecordHeader]]:
        """The records from a number on, in order."""


def enclose(entry: Entry, unique: bytes) -> tuple[bytes, bytes]:
    """The keyring's row for an event: put it there together with the change it records. `unique` is 8 random bytes."""
    return rows.EVENT_PREFIX + entry.time_ms.to_bytes(8, "big") + unique, _encode(entry, _NOT_TRIED)


def enclosed(event: Event, key: Secret, archive_id: bytes) -> tuple[bytes, bytes]:
    """The keyring's row for an event, sealed under the archive's event key, as `enclose`."""
    return enclose(event.seal(key, archive_id, os.urandom(aead.SALT)), os.urandom(8))


def waiting(keyring: Keyring) -> Iterator[tuple[bytes, Entry]]:
    """The events that are not known to be in the log, oldest first, and the keys of their rows."""
    for place, value in keyring.rows(rows.EVENT_PREFIX):
        yield place, decode(value)[0]


def deliver(keyring: Keyring, log: Log, reader: Reader, covered: Callable[[RecordId], None]) -> int:
    """Move every waiting event into the log, durably; return how many there were. Raises UnavailableError.

    `covered` gets the name of each appended record: the index has nothing to read in it.
    """
    count = 0
    for place, value in keyring.rows(rows.EVENT_PREFIX):
        entry, tried_from = decode(value)
        if tried_from == _NOT_TRIED or not _is_in(reader, entry, tried_from):
            keyring.amend([(place, _encode(entry, log.next_seq))])
            covered(log.append([entry])[0].id)
        keyring.amend([], [place])
        count += 1
    return count


def _is_in(reader: Reader, entry: Entry, from_seq: int) -> bool:
    wanted = entry.kind, entry.study_key_id, entry.content_id
    return any((h.kind, h.study_key_id, h.content_id) == wanted for _, h in reader.records(from_seq))


def _encode(entry: Entry, from_seq: int) -> bytes:
    assert isinstance(entry.body, bytes)
    return _LAYOUT.pack(entry.kind, entry.time_ms, entry.study_key_id, entry.content_id, from_seq) + entry.body


def decode(value: bytes) -> tuple[Entry, int]:
    """The event in a row, and the record of log 0 from which to look for it. Raises FormatError."""
    if len(value) <= _LAYOUT.size:
        raise FormatError("an event in the keyring is truncated", hint="restore the keyring from its backup")
    kind, time_ms, key_id, content_id, from_seq = _LAYOUT.unpack_from(value)
    return Entry(kind, key_id, 0, content_id, value[_LAYOUT.size :], time_ms), from_seq
