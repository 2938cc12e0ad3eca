"""Small sealed notes in the keyring: what officers have said and what still counts, such as holds and requests.

Rule: a note is there at once, for every process, beside a running server; what was said is recorded in the log as well,
as an event that goes into the keyring with it. A note may name a patient, an event never does: notes go, the log stays.
"""

import os
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

import msgspec

from coffer.archive.event import Event
from coffer.keys.crypto import aead, derive
from coffer.keys.errors import FormatError, NotFoundError
from coffer.keys.keyring import rows
from coffer.keys.keyring.keyring import Keyring
from coffer.server.engine.archive import KeyAdminArchive

__all__ = ["NoteAdmin", "SealedNotes"]

_CONTEXT: Final = b"coffer/note/v1\0"
_PAD: Final = 256
_ID_BYTES: Final = 4
N = TypeVar("N", bound=msgspec.Struct)


class SealedNotes:
    """The notes of one kind: all under one prefix of the keyring. A note's id is 8 hexadecimal digits."""

    def __init__(self, keyring: Keyring, prefix: bytes) -> None:
        self._keyring = keyring
        self._prefix = prefix
        self._key = keyring.archive_key(derive.NOTE)

    def place(self, note_id: str) -> bytes:
        """The key of a note's row. Raises NotFoundError for what is no id."""
        try:
            return self._prefix + bytes.fromhex(note_id)
        except ValueError:
            raise NotFoundError(f"{note_id} is no such id", hint="the list command shows them") from None

    def all(self, kind: type[N]) -> Iterator[tuple[str, N]]:
        """Every note and its id. Raises IntegrityError for one that was altered."""
        for place, sealed in self._keyring.rows(self._prefix):
            yield place[1:].hex(), self._open(place, sealed, kind)

    def get(self, note_id: str, kind: type[N]) -> tuple[N, bytes]:
        """A note and its row's bytes. Raises NotFoundError."""
        place = self.place(note_id)
        sealed = self._keyring.row(place)
        if sealed is None:
            raise NotFoundError(f"there is no {note_id} (any more)", hint="the list command shows what there is")
        return self._open(place, sealed, kind), sealed

    def _context(self, place: bytes) -> bytes:
        return _CONTEXT + self._keyring.archive_id + place

    def _open(self, place: bytes, sealed: bytes, kind: type[N]) -> N:
        plain = aead.open_sealed(self._key, self._context(place), sealed)
        try:
            return msgspec.json.decode(plain, type=kind)
        except msgspec.DecodeError as error:
            raise FormatError("a note in the keyring is not one that this version writes") from error


class NoteAdmin(SealedNotes):
    """The same notes, of an archive whose keyring may be changed."""

    def __init__(self, archive: KeyAdminArchive, prefix: bytes) -> None:
        super().__init__(archive.keyring, prefix)
        self._archive = archive

    def add(self, note: msgspec.Struct, event: Callable[[str], Event]) -> str:
        """Write a new note and the event that tells of it, made for its id; durable on return. Returns the id."""
        while True:
            note_id = os.urandom(_ID_BYTES).hex()
            if self.put(note_id, note, event(note_id)):
                return note_id

    def put(self, note_id: str, note: msgspec.Struct, event: Event, before: bytes | None = None) -> bool:
        """Write a note and the event that tells of it, durable on return; False where it is not as it was `before`.

        The change counter goes up with it: whoever is about to change keys asks again whether that is allowed.
        """
        place = self.place(note_id)
        plain = msgspec.json.encode(note)
        plain += b" " * (-len(plain) % _PAD)
        sealed = aead.seal(self._key, self._context(place), plain, os.urandom(aead.SALT))
        told = self._archive.enclosed(event)
        while self._keyring.row(place) == before:
            changes = self._keyring.row(rows.CHANGES_KEY)
            expected = [(place, before), (rows.CHANGES_KEY, changes)]
            if self._keyring.amend([(place, sealed), told, rows.incremented(changes)], expected=expected):
                return True
        return False

    def remove(self, note_id: str, event: Event, before: bytes) -> bool:
        """Take a note away, with the event that tells of it, as `put`."""
        place = self.place(note_id)
        return self._keyring.amend([self._archive.enclosed(event)], [place], [(place, before)])
