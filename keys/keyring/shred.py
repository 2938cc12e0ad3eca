"""Shredding: a study's key on its way out of the keyring, and what stays in its place.

Rule: from `schedule` on the key is given to nobody, in any process; `drop` takes its wrapped form away when the index
is rid of what it sealed. Nothing here brings it back: erasure that can be undone is none. What stays is a tombstone, so
that "shredded" and "missing" are two answers. Epochs and backups decide when the erasure is complete: see FORMAT.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from coffer.keys.errors import ShreddedError, UnavailableError
from coffer.keys.keyring import rekey, rows
from coffer.keys.keyring.rekey import Rekey
from coffer.keys.keyring.rows import KeyState
from coffer.keys.keyring.tombstone import Reason, Tombstone

if TYPE_CHECKING:
    from coffer.keys.keyring.keyring import Keyring

__all__ = ["current", "drop", "is_shredded", "schedule", "supersede", "tombstones", "waiting"]


def schedule(
    keyring: Keyring,
    names: Mapping[bytes, bytes],
    *,
    now_ms: int,
    until_ms: int,
    event: Callable[[bytes, Tombstone], tuple[bytes, bytes]] | None = None,
    done: Sequence[tuple[bytes, bytes]] = (),
    allowed: Callable[[], None] = lambda: None,
    last_epoch: int = 0,
) -> list[bytes]:
    """Shred the keys whose ids `names` maps to what they are found by; return the ids that were not shredded before.

    A key that was replaced since, or is being replaced, stands for the one that replaces it.

    One transaction, durable on return: the rows' state, the tombstones, the change that every process sees, the row
    that `event` makes for each key (the deed on its way into the log), and the removal of the rows `done` (the request
    for it, as it was read). Where nothing is left to shred, nothing else is written. `allowed` raises where something
    forbids it, and is asked again when the change counter moved: whoever forbids raises it. `last_epoch` is a later
    epoch than a row's that copies of the key are known to be under. Raises KeyUnavailableError for a key that the
    keyring does not hold, UnavailableError where a row of `done` is not there any more.
    """
    while True:
        changes = keyring.row(rows.CHANGES_KEY)
        allowed()
        if any(keyring.row(row_key) != value for row_key, value in done):
            raise UnavailableError("somebody else dealt with this request just now", hint="look what became of it")
        put: list[tuple[bytes, bytes]] = []
        expected: list[tuple[bytes, bytes | None]] = [(rows.CHANGES_KEY, changes), *done]
        removed = [row_key for row_key, _ in done]
        selected = {current(keyring, key_id): name for key_id, name in names.items()}
        for each in rekey.under_way(keyring):
            if each.old in selected or each.new in selected:  # the same study under its last and its next key
                expected.append((each.row_key, each.encode()))
                removed.append(each.row_key)
                selected |= {each.old: each.name, each.new: each.name}
        fresh = [key_id for key_id in selected if not is_shredded(keyring, key_id)]
        for key_id in fresh:
            row_key = rows.STUDY_PREFIX + key_id
            value = keyring.row(row_key)
            row, dek = keyring.opened(key_id, value)
            tombstone = Tombstone(max(row.epoch, last_epoch), now_ms, until_ms, selected[key_id])
            put += [
                (row_key, keyring.sealed(replace(row, state=KeyState.SHRED_SCHEDULED), key_id, dek)),
                (rows.TOMBSTONE_PREFIX + key_id, tombstone.encode()),
            ]
            put += [event(key_id, tombstone)] if event is not None else []
            expected += [(row_key, value), (rows.TOMBSTONE_PREFIX + key_id, None)]
        if not fresh:
            if removed:
                keyring.amend([], removed)
            return []
        put.append(rows.incremented(changes))
        if keyring.amend(put, removed, expected):
            return fresh


def supersede(keyring: Keyring, done: Rekey, *, now_ms: int, until_ms: int) -> None:
    """Destroy the old key of a rekey, durable on return: row and wrapped form go, a tombstone with its reason stays.

    Call it when everything that the old key sealed is durable under the new one, index included. Raises ShreddedError
    where the study was shredded meanwhile.
    """
    row_key, tombstone_key = rows.STUDY_PREFIX + done.old, rows.TOMBSTONE_PREFIX + done.old
    while True:
        changes, value, before = (keyring.row(key) for key in (rows.CHANGES_KEY, row_key, done.row_key))
        if before != done.encode() or is_shredded(keyring, done.old):
            raise ShreddedError(f"key {done.old.hex()[:8]} is not being replaced any more")
        row, _ = keyring.opened(done.old, value)
        tombstone = Tombstone(row.epoch, now_ms, until_ms, done.name, Reason.REKEYED, done.new)
        put = [(tombstone_key, tombstone.encode()), rows.incremented(changes)]
        expected = [(rows.CHANGES_KEY, changes), (row_key, value), (done.row_key, before), (tombstone_key, None)]
        if keyring.amend(put, [row_key, done.row_key], expected):
            return


def current(keyring: Keyring, key_id: bytes) -> bytes:
    """The key that stands in this one's place by now, itself where it was not replaced; harmless for unknown ids."""
    while (value := keyring.row(rows.TOMBSTONE_PREFIX + key_id)) is not None:
        tombstone = Tombstone.decode(value)
        if tombstone.reason is not Reason.REKEYED:
            break
        key_id = tombstone.successor
    return key_id


def is_shredded(keyring: Keyring, key_id: bytes) -> bool:
    """Whether this key was shredded, by any process, until now; about 4 us."""
    return keyring.row(rows.TOMBSTONE_PREFIX + key_id) is not None


def tombstones(keyring: Keyring) -> dict[bytes, Tombstone]:
    """Every tombstone by its key's id."""
    return {key[1:]: Tombstone.decode(value) for key, value in keyring.rows(rows.TOMBSTONE_PREFIX)}


def waiting(keyring: Keyring) -> dict[bytes, Tombstone]:
    """The shredded keys whose wrapped form is still there: what they sealed in the index may not be gone yet."""
    found = tombstones(keyring)
    return {
        key_id: tombstone for key_id, tombstone in found.items() if keyring.row(rows.STUDY_PREFIX + key_id) is not None
    }


def drop(keyring: Keyring, key_ids: Sequence[bytes]) -> None:
    """Take the wrapped form of shredded keys out of the keyring; durable on return, harmless when repeated."""
    gone = [rows.STUDY_PREFIX + key_id for key_id in key_ids if is_shredded(keyring, key_id)]
    if gone:
        keyring.amend([], gone)
