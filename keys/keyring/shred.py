"""Shredding: remove a study's key from the keyring and leave a tombstone.

Rule: after `schedule` no process hands out the key any more; `drop` removes its wrapped form once the index no longer
holds what it sealed. Nothing here restores it: an erasure that can be undone is none. A tombstone stays, so "shredded"
and "missing" remain distinct. Epochs and backups decide when the erasure is effective: see FORMAT.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from coffer.keys.crypto.hedge import Random
from coffer.keys.crypto.study_key import StudyKey
from coffer.keys.errors import ShreddedError, UnavailableError
from coffer.keys.keyring import rekey, rows
from coffer.keys.keyring.claims import claim_rows
from coffer.keys.keyring.rekey import Rekey
from coffer.keys.keyring.rows import NO_CLAIM, EpochRow, KeyState
from coffer.keys.keyring.tombstone import Reason, Tombstone
from coffer.keys.memory.heap import sweep
from coffer.keys.store.writes import SOMETHING_ELSE
from coffer.keys.values.epoch import GONE
from coffer.keys.values.officer_record import RecordAsRead
from coffer.keys.values.waiting_event import WaitingEvent

if TYPE_CHECKING:
    from coffer.keys.keyring.keyring import Keyring

__all__ = [
    "compacted",
    "current",
    "drop",
    "forget",
    "is_dropped",
    "is_shredded",
    "schedule",
    "supersede",
    "tombstones",
    "tombstones_of",
    "uncompacted",
    "waiting",
]


def schedule(
    keyring: Keyring,
    names: Mapping[bytes, bytes],
    *,
    now_ms: int,
    until_ms: int,
    event: Callable[[StudyKey, Tombstone], WaitingEvent] | None = None,
    done: Sequence[RecordAsRead] = (),
    allowed: Callable[[], None] = lambda: None,
    last_epoch: int = 0,
) -> list[bytes]:
    """Shred keys and return the ids of those not shredded before. `names` maps key ids to the studies' index tokens.

    A key that was replaced, or is being replaced, stands for the key that replaces it.

    One transaction, durable on return: the rows' states, the tombstones, the feed's entries, what `event` makes for
    each key (the erasure's event for the log), and the removal of the records `done` (the request that this fulfils, as
    it was read). If nothing is left to shred, only `done` is removed. `allowed` raises where something forbids the
    erasure, and is called again after the feed moved: code that adds a prohibition puts an entry into it. Pass as
    `last_epoch` the latest epoch that copies of the key are known to be under, if later than the row's. Raises
    KeyUnavailableError for a key that the keyring does not hold, UnavailableError where a record of `done` has changed.
    """
    keyring.require_whole()
    while True:
        changes = keyring.row(rows.CHANGES_KEY)
        allowed()
        if any(keyring.row(each.row_key) != each.sealed for each in done):
            raise UnavailableError(
                "somebody else dealt with this request just now", hint="see what became of it: coffer shred list"
            )
        put: list[tuple[bytes, bytes]] = []
        expected: list[tuple[bytes, bytes | None]] = [(rows.CHANGES_KEY, changes), *(each.row for each in done)]
        selected, ended = _selection(keyring, names)
        expected += [(each.row_key, each.encode()) for each in ended]
        removed = [*(each.row_key for each in done), *(each.row_key for each in ended)]
        fresh = [key_id for key_id in selected if not is_shredded(keyring, key_id)]
        for key_id in fresh:
            row_key = rows.STUDY_PREFIX + key_id
            value = keyring.row(row_key)
            row, dek = keyring.opened(key_id, value)
            tombstone = Tombstone(max(row.epoch, last_epoch), now_ms, until_ms, selected[key_id])
            claims = claim_rows(keyring.row, key_id, row)
            removed += [place for place, _ in claims]
            marked = replace(row, state=KeyState.SHRED_SCHEDULED, claim=NO_CLAIM)
            put += [
                (row_key, keyring.sealed(marked, key_id, dek)),
                (rows.TOMBSTONE_PREFIX + key_id, tombstone.encode()),
            ]
            put += [event(StudyKey(key_id, dek), tombstone).row] if event is not None else []
            expected += [(row_key, value), (rows.TOMBSTONE_PREFIX + key_id, None), *claims]
        if not fresh:
            if removed:
                keyring.amend([], removed)
            return []
        if keyring.amend(put, removed, expected, gone=fresh):
            return fresh


def _selection(keyring: Keyring, names: Mapping[bytes, bytes]) -> tuple[dict[bytes, bytes], list[Rekey]]:
    """Return the keys to shred with their index tokens, and the rekeys that this ends, both keys of which go."""
    selected = {current(keyring, key_id): name for key_id, name in names.items()}
    ended = []
    for each in rekey.under_way(keyring):
        if each.old in selected or each.new in selected:  # the same study under its old and its new key
            ended.append(each)
            selected |= {each.old: each.name, each.new: each.name}
    return selected, ended


def supersede(keyring: Keyring, done: Rekey, *, now_ms: int, until_ms: int) -> None:
    """Destroy the old key of a rekey, durable on return: its row is removed, a tombstone with the reason is added.

    Call it when everything that the old key sealed, index rows included, is durable under the new key. Raises
    ShreddedError if the study was shredded meanwhile.
    """
    row_key, tombstone_key = rows.STUDY_PREFIX + done.old, rows.TOMBSTONE_PREFIX + done.old
    while True:
        value, before = keyring.row(row_key), keyring.row(done.row_key)
        if before != done.encode() or is_shredded(keyring, done.old):
            raise ShreddedError(f"key {done.old.hex()[:8]} is no longer being replaced")
        row, _ = keyring.opened(done.old, value)
        feed = keyring.row(rows.CHANGES_KEY)
        dropped = int.from_bytes(feed or b"", "big")
        tombstone = Tombstone(row.epoch, now_ms, until_ms, done.name, Reason.REKEYED, done.new, dropped=dropped)
        expected = [(row_key, value), (done.row_key, before), (tombstone_key, None), (rows.CHANGES_KEY, feed)]
        put, removed = [(tombstone_key, tombstone.encode())], [row_key, done.row_key]
        if keyring.amend(put, removed, expected, gone=[done.old]):
            return


def current(keyring: Keyring, key_id: bytes) -> bytes:
    """Return the key that has replaced this one by now; the same id if none has, or if it is unknown."""
    while (value := keyring.row(rows.TOMBSTONE_PREFIX + key_id)) is not None:
        tombstone = Tombstone.decode(value)
        if tombstone.reason is not Reason.REKEYED:
            break
        key_id = tombstone.successor
    return key_id


def is_shredded(keyring: Keyring, key_id: bytes) -> bool:
    """Whether any process has shredded or replaced this key by now; about 4 us."""
    return keyring.row(rows.TOMBSTONE_PREFIX + key_id) is not None


def tombstones(keyring: Keyring) -> dict[bytes, Tombstone]:
    """Return every tombstone, by key id."""
    return {key[1:]: Tombstone.decode(value) for key, value in keyring.rows(rows.TOMBSTONE_PREFIX)}


def tombstones_of(keyring: Keyring, key_ids: Iterable[bytes]) -> dict[bytes, Tombstone]:
    """Return the tombstones of those of these keys that have one."""
    found = ((key_id, keyring.row(rows.TOMBSTONE_PREFIX + key_id)) for key_id in key_ids)
    return {key_id: Tombstone.decode(value) for key_id, value in found if value is not None}


def waiting(keyring: Keyring, among: Iterable[bytes] | None = None) -> dict[bytes, Tombstone]:
    """Return the shredded keys, of all or of those `among`, whose wrapped form still exists: the index may still hold
    what they sealed."""
    found = tombstones(keyring) if among is None else tombstones_of(keyring, among)
    return {
        key_id: tombstone for key_id, tombstone in found.items() if keyring.row(rows.STUDY_PREFIX + key_id) is not None
    }


def is_dropped(keyring: Keyring, key_id: bytes) -> bool:
    """Whether the keyring holds no wrapped form of this key (any more); about 4 us."""
    return keyring.row(rows.STUDY_PREFIX + key_id) is None


def drop(keyring: Keyring, key_ids: Sequence[bytes]) -> None:
    """Remove the wrapped form of shredded keys from the keyring, and what is left of them in the heap; durable on
    return, harmless when repeated. The tombstones say from which entry of the feed on no copy of the keyring has it."""
    while True:
        feed = keyring.row(rows.CHANGES_KEY)
        expected: list[tuple[bytes, bytes | None]] = [(rows.CHANGES_KEY, feed)]
        put: list[tuple[bytes, bytes]] = []
        there = {
            each: stone for each, stone in tombstones_of(keyring, key_ids).items() if not is_dropped(keyring, each)
        }
        for key_id, tombstone in there.items():
            row_key = rows.TOMBSTONE_PREFIX + key_id
            put.append((row_key, replace(tombstone, dropped=int.from_bytes(feed or b"", "big")).encode()))
            expected.append((row_key, tombstone.encode()))
        if not there:
            return
        gone = [rows.STUDY_PREFIX + key_id for key_id in there]
        if keyring.amend(put, gone, expected, gone=[SOMETHING_ELSE]):
            sweep()
            return


def forget(keyring: Keyring, key_ids: Iterable[bytes], random: Random) -> int:
    """Replace the names in these keys' tombstones by random ones, the same for all that had the same; durable on
    return. Returns how many there were, 0 if another process changed one of them meanwhile.

    A name is a keyed hash of a Study Instance UID: whoever opens the keyring later could compare one that he guesses.
    """
    keyring.require_whole()
    fresh: dict[bytes, bytes] = {}
    put: list[tuple[bytes, bytes]] = []
    expected: list[tuple[bytes, bytes | None]] = []
    for key_id, tombstone in tombstones_of(keyring, key_ids).items():
        if not tombstone.is_forgotten:
            name, row_key = fresh.setdefault(tombstone.name, random(16)), rows.TOMBSTONE_PREFIX + key_id
            put.append((row_key, replace(tombstone, name=name, is_forgotten=True).encode()))
            expected.append((row_key, tombstone.encode()))
    return len(put) if put and keyring.amend(put, expected=expected) else 0


def require_genuine(keyring: Keyring, key_ids: Iterable[bytes]) -> None:
    """Return if these keys were shredded by somebody with the keys, before anything of theirs is dropped. Raises
    IntegrityError where the tombstones, or any rows, were planted."""
    keyring.require_genuine(rows.TOMBSTONE_PREFIX + key_id for key_id in key_ids)


def uncompacted(keyring: Keyring) -> int:
    """Return the newest ended epoch since whose end the index was not compacted; 0 if there is none.

    Until then unused pages of its file may still hold tokens and sealed rows of what was shredded in that epoch.
    """
    every = (EpochRow.decode(value) for _, value in keyring.rows(rows.EPOCH_PREFIX))
    newest = max((row.epoch for row in every if row.state in GONE), default=0)
    return newest if newest > int.from_bytes(keyring.row(rows.COMPACTED_KEY) or b"", "big") else 0


def compacted(keyring: Keyring, epoch: int) -> None:
    """Record that the index was compacted since this epoch ended; durable on return."""
    keyring.amend([(rows.COMPACTED_KEY, epoch.to_bytes(4, "big"))])
