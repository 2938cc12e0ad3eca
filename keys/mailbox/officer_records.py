"""Small sealed records of officers in the keyring: decisions that still apply, such as holds and requests.

Rule: every process sees a record at once, also beside a running server. The decision is recorded in the log as well, by
an event written to the keyring in the same transaction. A record may name a patient, an event never does: records are
removed, the log stays.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import msgspec

from coffer.keys.crypto import aead, derive
from coffer.keys.errors import FormatError, NotFoundError
from coffer.keys.store.writes import SOMETHING_ELSE
from coffer.keys.values.officer_record import RecordAsRead, RecordKind
from coffer.keys.values.waiting_event import WaitingEvent

if TYPE_CHECKING:
    from coffer.keys.keyring.keyring import Keyring

__all__ = ["OfficerRecordAdmin", "OfficerRecords", "ids", "is_there"]

_CONTEXT: Final = b"coffer/note/v1\0"
_PAD: Final = 256
_ID_BYTES: Final = 4
N = TypeVar("N", bound=msgspec.Struct)


def is_there(keyring: Keyring, kind: RecordKind, record_id: str) -> bool:
    """Whether the keyring holds a record; its contents are not looked at. Raises ValueError for a malformed id."""
    return keyring.row(kind.row_key(record_id)) is not None


def ids(keyring: Keyring, kind: RecordKind) -> list[str]:
    """Return the ids of all records of a kind, ascending; their contents are not looked at."""
    return [key[1:].hex() for key, _ in keyring.rows(kind.value)]


class OfficerRecords(Generic[N]):
    """The records of one kind, each a `form`. A record's id is 8 hexadecimal digits."""

    def __init__(self, keyring: Keyring, kind: RecordKind, form: type[N]) -> None:
        self._keyring = keyring
        self._kind = kind
        self._form = form
        self._key = keyring.archive_key(derive.NOTE)

    def all(self) -> Iterator[tuple[str, N]]:
        """Yield every record with its id. Raises IntegrityError for one that was altered, FormatError."""
        for row_key, sealed in self._keyring.rows(self._kind.value):
            read = RecordAsRead(self._kind, row_key[1:].hex(), sealed)
            yield read.record_id, self._open(read)

    def get(self, record_id: str) -> tuple[N, RecordAsRead]:
        """Return a record, and itself as it was read. Raises NotFoundError, IntegrityError, FormatError."""
        try:
            sealed = self._keyring.row(self._kind.row_key(record_id))
        except ValueError:
            raise NotFoundError(f"{record_id} is not an id", hint="the list command shows the ids") from None
        if sealed is None:
            raise NotFoundError(f"there is no {record_id} (any more)", hint="the list command shows what exists")
        read = RecordAsRead(self._kind, record_id, sealed)
        return self._open(read), read

    def _context(self, row_key: bytes) -> bytes:
        return _CONTEXT + self._keyring.archive_id + row_key

    def _open(self, read: RecordAsRead) -> N:
        plain = aead.open_sealed(self._key, self._context(read.row_key), read.sealed)
        try:
            return msgspec.json.decode(plain, type=self._form)
        except msgspec.DecodeError as error:
            raise FormatError("an officer record in the keyring is not one that this version writes") from error


class OfficerRecordAdmin(OfficerRecords[N]):
    """The same records, of a keyring that may be changed."""

    def __init__(
        self, keyring: Keyring, kind: RecordKind, form: type[N], random: Callable[[int], bytes] = os.urandom
    ) -> None:
        super().__init__(keyring, kind, form)
        self._random = random

    def add(self, record: N, event: Callable[[str], WaitingEvent]) -> str:
        """Write a new record and its event, which is made for the id; durable on return. Returns the id."""
        while True:
            record_id = self._random(_ID_BYTES).hex()
            if self._put(self._kind.row_key(record_id), None, record, event(record_id)):
                return record_id

    def replace(self, before: RecordAsRead, record: N, event: WaitingEvent) -> bool:
        """Write another record in place of one and its event, durable on return; False if that has changed since."""
        return self._put(before.row_key, before.sealed, record, event)

    def remove(self, before: RecordAsRead, event: WaitingEvent) -> bool:
        """Remove a record and write its event; durable on return, False if it has changed since it was read."""
        return self._keyring.amend([event.row], [before.row_key], [before.row])

    def _put(self, row_key: bytes, before: bytes | None, record: N, event: WaitingEvent) -> bool:
        """Write a row if it is as `before`. The keyring's feed gets an entry: a process about to change keys checks
        again whether that is allowed."""
        plain = msgspec.json.encode(record)
        plain += b" " * (-len(plain) % _PAD)
        sealed = aead.seal(self._key, self._context(row_key), plain, self._random)
        put, expected = [(row_key, sealed), event.row], [(row_key, before)]
        return self._keyring.amend(put, expected=expected, gone=[SOMETHING_ELSE])
