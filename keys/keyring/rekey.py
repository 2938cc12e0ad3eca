"""Rekeys under way: which study key replaces which, and how far each rekey has come.

Rule: one transaction adds the new key and the rekey's row, and every later step requires that row to be unchanged: if a
shred removed it, the rekey ends there. While the row says SEALING, the log's records under the old key count and those
under the new key do not; once it says SWITCHED it is the reverse. The last step, which destroys the old key, is
`keys.keyring.shred.supersede`. It knows no records: the floors above reseal them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from coffer.keys.crypto import derive
from coffer.keys.crypto.hedge import new_key
from coffer.keys.errors import CofferError, FormatError, ShreddedError, UnavailableError
from coffer.keys.keyring import rows
from coffer.keys.keyring.claims import Claim, claim_rows
from coffer.keys.keyring.rows import NO_CLAIM, KeyRow, KeyState, Purpose
from coffer.keys.store.writes import SOMETHING_ELSE
from coffer.keys.values.waiting_event import WaitingEvent

if TYPE_CHECKING:
    from coffer.keys.keyring.keyring import Keyring

__all__ = [
    "NOT_STUCK",
    "Phase",
    "Rekey",
    "begin",
    "inactive_keys",
    "made_ms",
    "of_key",
    "switch",
    "under_way",
    "update",
]

_LAYOUT: Final = struct.Struct(">HH16s16sQIIQ")  # version phase new_key_id name from_seq done total stuck
_VERSION: Final = 1
NOT_STUCK: Final = (1 << 64) - 1


class Phase(IntEnum):
    """Which of the two keys' records count."""

    SEALING = 1
    SWITCHED = 2


@dataclass(frozen=True, slots=True)
class Rekey:
    """One rekey: ids of the old and the new key, the 16 bytes by which the index finds the study, the first record
    number that may be under the new key, how many objects are resealed and how many there are, and the number of the
    record that stopped it (NOT_STUCK: none). Both numbers are of log 0."""

    old: bytes
    new: bytes
    name: bytes
    from_seq: int
    phase: Phase = Phase.SEALING
    done: int = 0
    total: int = 0
    stuck: int = NOT_STUCK

    @property
    def row_key(self) -> bytes:
        """The key of its keyring row."""
        return rows.REKEY_PREFIX + self.old

    def encode(self) -> bytes:
        """Return the 60 bytes."""
        return _LAYOUT.pack(_VERSION, self.phase, self.new, self.name, self.from_seq, self.done, self.total, self.stuck)

    @classmethod
    def decode(cls, old: bytes, data: bytes) -> Rekey:
        """Return the rekey of the key `old`. Raises FormatError for whatever FORMAT.md says a reader must reject."""
        if len(data) != _LAYOUT.size:
            raise FormatError("a rekey row of the keyring has the wrong length")
        version, phase, new, name, from_seq, done, total, stuck = _LAYOUT.unpack(data)
        if version != _VERSION or phase not in {*Phase}:
            raise FormatError("a rekey row of the keyring has values that this version never writes")
        return cls(old, new, name, from_seq, Phase(phase), done, total, stuck)


def of_key(keyring: Keyring, old: bytes) -> Rekey | None:
    """Return the rekey that replaces this key, None where none is under way; other processes' commits included."""
    value = keyring.row(rows.REKEY_PREFIX + old)
    return None if value is None else Rekey.decode(old, value)


def under_way(keyring: Keyring) -> list[Rekey]:
    """Return every rekey that is under way."""
    return [Rekey.decode(row_key[1:], value) for row_key, value in keyring.rows(rows.REKEY_PREFIX)]


def made_ms(keyring: Keyring, key_id: bytes) -> int | None:
    """Return when a study's key was made (ms since 1970 UTC), None where the keyring has no such key."""
    value = keyring.row(rows.STUDY_PREFIX + key_id)
    return None if value is None else KeyRow.decode(value).created_ms


def inactive_keys(keyring: Keyring) -> frozenset[bytes]:
    """Return the keys whose records do not count now, because those under the other key of the pair do."""
    return frozenset(each.new if each.phase is Phase.SEALING else each.old for each in under_way(keyring))


def begin(  # noqa: PLR0917  # what a rekey is made of
    keyring: Keyring,
    old: bytes,
    name: bytes,
    from_seq: int,
    now_ms: int,
    random: Callable[[int], bytes],
    event: Callable[[Rekey], WaitingEvent],
) -> Rekey:
    """Make the new key and the row that says it replaces `old`; durable on return. A rekey under way is resumed.

    What `event` makes is written in the same transaction. Raises ShreddedError, KeyUnavailableError,
    IntegrityError for the old key.
    """
    while True:
        keyring.study(old)
        header, before = keyring.row(rows.HEADER_KEY), keyring.row(rows.REKEY_PREFIX + old)
        value = keyring.row(rows.STUDY_PREFIX + old)
        expected = [
            (rows.HEADER_KEY, header),
            (rows.REKEY_PREFIX + old, before),
            (rows.STUDY_PREFIX + old, value),
            (rows.TOMBSTONE_PREFIX + old, None),
        ]
        if before is not None:
            again = replace(Rekey.decode(old, before), stuck=NOT_STUCK)
            if keyring.amend([(again.row_key, again.encode())], expected=expected, gone=[SOMETHING_ELSE]):
                return again
            continue
        made, epoch = Rekey(old, random(16), name, from_seq), keyring.epoch
        row = KeyRow(Purpose.STUDY, KeyState.ACTIVE, epoch, keyring.epoch_row(epoch).kek_id, now_ms)
        dek = new_key(keyring.archive_key(derive.HEDGE), random, old, made.new)
        put = [
            (made.row_key, made.encode()),
            (rows.STUDY_PREFIX + made.new, keyring.sealed(row, made.new, dek)),
            event(made).row,
        ]
        if keyring.row(rows.HEADER_KEY) == header and keyring.amend(put, expected=expected, gone=[SOMETHING_ELSE]):
            return made


def update(keyring: Keyring, before: Rekey, after: Rekey, events: Sequence[WaitingEvent] = ()) -> Rekey:
    """Replace a rekey's row, and write events with it; durable on return. Returns `after`.

    Raises ShreddedError if the study was shredded meanwhile, UnavailableError if the row changed otherwise.
    """
    put = [(after.row_key, after.encode()), *(each.row for each in events)]
    if keyring.amend(put, expected=[(before.row_key, before.encode())]):
        return after
    raise _changed(keyring, before)


def switch(keyring: Keyring, before: Rekey, after: Rekey, events: Sequence[WaitingEvent] = ()) -> Rekey:
    """As `update`, for the step after which the records under the new key count: the old key's claim moves to the new
    one, whose making the log has recorded. What arrives from now on belongs under the new key."""
    while keyring.row(before.row_key) == before.encode():
        found = [(key_id, keyring.row(rows.STUDY_PREFIX + key_id)) for key_id in (before.old, before.new)]
        (old, old_key), (new, new_key) = (keyring.opened(*each) for each in found)
        claims = claim_rows(keyring.row, before.old, old)
        moved = [
            (rows.STUDY_PREFIX + before.old, keyring.sealed(replace(old, claim=NO_CLAIM), before.old, old_key)),
            (rows.STUDY_PREFIX + before.new, keyring.sealed(replace(new, claim=old.claim), before.new, new_key)),
            *((place, Claim(before.new).encode()) for place, _ in claims),
        ]
        expected: list[tuple[bytes, bytes | None]] = [(before.row_key, before.encode()), *claims]
        expected += [(rows.STUDY_PREFIX + key_id, value) for key_id, value in found]
        left = [each.row for each in events]
        if keyring.amend([(after.row_key, after.encode()), *moved, *left], expected=expected, gone=[before.old]):
            return after
    raise _changed(keyring, before)


def _changed(keyring: Keyring, before: Rekey) -> CofferError:
    """The error that says why a rekey's row is not as it was. Raises ShreddedError where its key was shredded."""
    keyring.study(before.old)
    if of_key(keyring, before.old) is None:
        return ShreddedError(f"key {before.old.hex()[:8]} is no longer being replaced")
    return UnavailableError("another process changed this rekey just now", hint="the server resumes it by itself")
