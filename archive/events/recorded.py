"""Events as sealed records in the log.

Rule: pure. Time and JSON of an event, padded, are sealed below the archive's event key and bound to archive, key id,
content id and kind of record like any body. The record's header has the study key that it is about, and the time of
the append, which comes after the event's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from coffer.archive.body.sealed_body import BodyContext
from coffer.archive.events import codec
from coffer.archive.events.event import Event, UnknownEvent
from coffer.archive.format.entry import Entry
from coffer.archive.format.record import RecordHeader
from coffer.keys.crypto import aead, derive
from coffer.keys.crypto.derive import hmac_sha256
from coffer.keys.crypto.hedge import Random
from coffer.keys.errors import FormatError
from coffer.keys.memory.secret import Secret

__all__ = ["NO_KEY", "Occurrence", "Recorded"]

NO_KEY: Final = bytes(16)
_TIME: Final = 8  # bytes
_PAD: Final = 256


@dataclass(frozen=True, slots=True)
class Occurrence:
    """An event to record: what, when (ms since 1970 UTC), and the id of the study key it is about."""

    event: Event
    time_ms: int
    key_id: bytes = NO_KEY

    def seal(self, key: Secret, archive_id: bytes, random: Random) -> Entry:
        """The record to append. Takes the archive's event key. Raises as `codec.encode`."""
        plain = self.time_ms.to_bytes(_TIME, "big") + codec.encode(self.event)
        plain += b" " * (-len(plain) % _PAD)
        content_id = hmac_sha256(derive.derive(key, derive.EVENT_CID), plain)
        context = BodyContext(archive_id, self.key_id, content_id, self.event.kind)
        body = aead.seal(derive.derive(key, derive.EVENT_BLOB), context.bind(len(plain)), plain, random)
        return Entry(self.event.kind, self.key_id, 0, content_id, body, self.time_ms)


@dataclass(frozen=True, slots=True)
class Recorded:
    """An event as the log has it: the number of its record, when it happened (ms since 1970 UTC), the id of the study
    key it is about (16 zero bytes: none), and what it says."""

    seq: int
    time_ms: int
    key_id: bytes
    event: Event | UnknownEvent

    @classmethod
    def open(cls, key: Secret, archive_id: bytes, header: RecordHeader, body: bytes) -> Recorded:
        """Read an event back from its record, under the archive's event key.

        Raises IntegrityError for one that was altered or is of another archive, kind or key, and as `codec.decode`.
        """
        length = aead.plain_length(len(body))
        if length > codec.MAX_EVENT_BYTES + _TIME + _PAD:
            raise FormatError("an event is too long")
        context = BodyContext(archive_id, header.study_key_id, header.content_id, header.kind)
        plain = aead.open_sealed(derive.derive(key, derive.EVENT_BLOB), context.bind(length), body)
        told = plain[_TIME:].rstrip(b" ")
        if len(plain) != _TIME + len(told) + -(_TIME + len(told)) % _PAD:
            raise FormatError("an event is not padded as it should be")
        event = codec.decode(told, header.kind)
        return cls(header.seq, int.from_bytes(plain[:_TIME], "big"), header.study_key_id, event)
