"""Events: what was done to the archive itself (a rotation, a shred, a repair), as sealed records in the log.

Rule: pure. An event is a record of its own kind whose body is a small JSON object, sealed under the archive's event key
and bound to archive, key id, content id and kind like any body. Facts are what administrators deal with: ids, reasons,
times. Only the code that writes an event knows what it means.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from coffer.archive.body.sealed_body import BodyContext
from coffer.archive.format.entry import Entry
from coffer.archive.format.record import Kind, RecordHeader
from coffer.keys.crypto import aead, derive
from coffer.keys.crypto.derive import hmac_sha256
from coffer.keys.errors import FormatError, IntegrityError
from coffer.keys.memory.secret import Secret

__all__ = ["MAX_EVENT_BYTES", "NO_KEY", "Event"]

MAX_EVENT_BYTES: Final = 1 << 20
NO_KEY: Final = bytes(16)


@dataclass(frozen=True, slots=True)
class Event:
    """One event: its kind, its time (ms since 1970 UTC), the study key it is about (16 zero bytes: none), its facts."""

    kind: Kind
    time_ms: int
    facts: Mapping[str, object]
    key_id: bytes = NO_KEY

    def seal(self, key: Secret, archive_id: bytes, salt: bytes) -> Entry:
        """The record to append. Takes the archive's event key and 24 fresh random bytes. Raises FormatError."""
        plain = json.dumps(dict(self.facts), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        if len(plain) > MAX_EVENT_BYTES:
            raise FormatError("an event is too long for its record", hint="shorten the reason")
        content_id = hmac_sha256(derive.derive(key, derive.CID), plain)
        context = BodyContext(archive_id, self.key_id, content_id, self.kind)
        body = aead.seal(key, context.bind(len(plain)), plain, salt)
        return Entry(self.kind, self.key_id, 0, content_id, body, self.time_ms)

    @classmethod
    def open(cls, key: Secret, archive_id: bytes, header: RecordHeader, body: bytes) -> Event:
        """Read an event back from its record. Raises IntegrityError: altered, or of another archive, kind or key."""
        length = aead.plain_length(len(body))
        if length > MAX_EVENT_BYTES:
            raise FormatError("an event is too long")
        context = BodyContext(archive_id, header.study_key_id, header.content_id, header.kind)
        plain = aead.open_sealed(key, context.bind(length), body)
        try:
            facts = json.loads(plain)
            kind = Kind(header.kind)
        except ValueError as error:
            raise IntegrityError("the contents of an event are not those of an event") from error
        if not isinstance(facts, dict):
            raise IntegrityError("the contents of an event are not those of an event")
        return cls(kind, header.time_ms, facts, header.study_key_id)
