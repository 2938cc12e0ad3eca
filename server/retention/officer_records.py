"""Small sealed records of officers in the keyring: decisions that still apply, such as holds and requests.

Rule: every process sees a record at once, also beside a running server. The decision is recorded in the log as well, by
an event written to the keyring in the same transaction. A record may name a patient, an event never does: records are
removed, the log stays.
"""

import os
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

import msgspec

from coffer.archive.event import Event
from coffer.keys.crypto import aead, derive
from coffer.keys.errors import FormatError, NotFoundError
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.store.writes import SOMETHING_ELSE
from coffer.server.engine.archive import KeyAdminArchive

__all__ = ["OfficerRecordAdmin", "OfficerRecords"]

_CONTEXT: Final = b"coffer/note/v1\0"
_PAD: Final = 256
_ID_BYTES: Final = 4
N = TypeVar("N", bound=msgspec.Struct)


class OfficerRecords:
    """The records of one kind: all rows under one prefix of the keyring. A record's id is 8 hexadecimal digits."""

    def __init__(self, keyring: Keyring, prefix: bytes) -> None:
        self._keyring = keyring
        self._prefix = prefix
        self._key = keyring.archive_key(derive.NOTE)

    def row_key(self, record_id: str) -> bytes:
        """Return the key of a record's row. Raises NotFoundError for a malformed id."""
        try:
            return self._prefix + bytes.fromhex(record_id)
        except ValueError:
            raise NotFoundError(f"{record_id} is not an id", hint="the list command shows the ids") from None

    def all(self, kind: type[N]) -> Iterator[tuple[str, N]]:
        """Yield every record with its id. Raises IntegrityError for one that was altered."""
        for row_key, sealed in self._keyring.rows(self._prefix):
            yield row_key[1:].hex(), self._open(row_key, sealed, kind)

    def get(self, record_id: str, kind: type[N]) -> tuple[N, bytes]:
        """Return a record and the bytes of its row. Raises NotFoundError."""
        row_key = self.row_key(record_id)
        sealed = self._keyring.row(row_key)
        if sealed is None:
            raise NotFoundError(f"there is no {record_id} (any more)", hint="the list command shows what exists")
        return self._open(row_key, sealed, kind), sealed

    def _context(self, row_key: bytes) -> bytes:
        return _CONTEXT + self._keyring.archive_id + row_key

    def _open(self, row_key: bytes, sealed: bytes, kind: type[N]) -> N:
        plain = aead.open_sealed(self._key, self._context(row_key), sealed)
        try:
            return msgspec.json.decode(plain, type=kind)
        except msgspec.DecodeError as error:
            raise FormatError("an officer record in the keyring is not one that this version writes") from error


class OfficerRecordAdmin(OfficerRecords):
    """The same records, of an archive whose keyring may be changed."""

    def __init__(self, archive: KeyAdminArchive, prefix: bytes) -> None:
        super().__init__(archive.keyring, prefix)
        self._archive = archive

    def add(self, record: msgspec.Struct, event: Callable[[str], Event]) -> str:
        """Write a new record and its event, which is made for the id; durable on return. Returns the id."""
        while True:
            record_id = os.urandom(_ID_BYTES).hex()
            if self.put(record_id, record, event(record_id)):
                return record_id

    def put(self, record_id: str, record: msgspec.Struct, event: Event, before: bytes | None = None) -> bool:
        """Write a record and its event, durable on return; False if the row is no longer as it was `before`.

        The keyring's feed gets an entry: a process about to change keys checks again whether that is allowed.
        """
        row_key = self.row_key(record_id)
        plain = msgspec.json.encode(record)
        plain += b" " * (-len(plain) % _PAD)
        sealed = aead.seal(self._key, self._context(row_key), plain, os.urandom(aead.SALT))
        event_row = self._archive.enclosed(event)
        while self._keyring.row(row_key) == before:
            expected = [(row_key, before)]
            if self._keyring.amend([(row_key, sealed), event_row], expected=expected, gone=[SOMETHING_ELSE]):
                return True
        return False

    def remove(self, record_id: str, event: Event, before: bytes) -> bool:
        """Remove a record and write its event; durable on return, False as for `put`."""
        row_key = self.row_key(record_id)
        return self._keyring.amend([self._archive.enclosed(event)], [row_key], [(row_key, before)])
