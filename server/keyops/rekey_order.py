"""Which studies get a new key, whether they may, and the word to the writer that they shall.

Rule: what is not allowed is refused before anything changes. The order lies in the keyring: whoever writes the archive,
this process or the server that runs, carries it out (`server.engine.rekey`), and goes on with it after a stop.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from coffer.archive.event import Event
from coffer.archive.format.record import Kind
from coffer.keys.clock import clock_ms
from coffer.keys.disk.lock import holder
from coffer.keys.errors import IntegrityError, ShreddedError, SupersededError, UnavailableError
from coffer.keys.keyring import rekey, rows, shred
from coffer.keys.keyring.rekey import NOT_STUCK, Rekey
from coffer.keys.keyring.rows import KeyRow
from coffer.keys.keyring.tombstone import Reason
from coffer.server.access.action import Action
from coffer.server.access.operator import require_reason
from coffer.server.access.principal import Principal
from coffer.server.engine.archive import KeyAdminArchive, ReadableArchive, WritableArchive
from coffer.server.engine.rekey import Rekeyer
from coffer.server.retention.holds import Holds, keeping, today
from coffer.server.retention.selection import beside, by_study, whole_studies

__all__ = ["Chosen", "all_before", "carry_out", "one_study", "order"]

_POLL_SECONDS: Final = 0.2
_STILL_SECONDS: Final = 120.0  # the writer has said nothing for so long


@dataclass(frozen=True, slots=True)
class Chosen:
    """Keys to replace, each with the name of its study in the index; how many studies, objects, and studies on hold."""

    names: dict[bytes, bytes]
    studies: int
    objects: int
    held: int = 0


def one_study(archive: ReadableArchive, study_uid: str) -> Chosen:
    """The study with this UID. Raises NotFoundError, ShreddedError, InputError, AccessDeniedError (held)."""
    name = archive.index.study_token(study_uid.strip())
    stones = shred.tombstones(archive.keyring).values()
    if not archive.index.key_ids_of(study_uid.strip()) and any(
        stone.name == name and stone.reason is Reason.SHREDDED for stone in stones
    ):
        raise ShreddedError("this study was shredded: there is nothing to seal again", hint="coffer shred list")
    found = by_study(archive, study_uid, everybody=True)
    Holds(archive).require_none(whole_studies(archive.index, found))
    names = {key_id: each.name for each in found for key_id in each.key_ids}
    return Chosen(names, 1, sum(each.versions for each in found))


def all_before(archive: ReadableArchive, epoch: int) -> Chosen:
    """Every study whose key was made before an epoch began, but those on hold. Raises NotFoundError for the epoch."""
    begin = archive.keyring.epoch_row(epoch).created_ms
    names: dict[bytes, bytes] = {}
    studies, objects, held = 0, 0, 0
    holds, day = Holds(archive).all(), today(clock_ms())
    for part in archive.index.all_parts():
        due = [key_id for key_id in part.key_ids if _made_ms(archive, key_id) < begin]
        if not due:
            continue
        if holds and keeping(holds, beside(archive.index, part.id), day):
            held += 1
            continue
        names.update(dict.fromkeys(due, part.name))
        studies, objects = studies + 1, objects + part.versions
    return Chosen(names, studies, objects, held)


def order(archive: KeyAdminArchive, chosen: Chosen, reason: str, officer: Principal) -> list[Rekey]:
    """Say which keys are to be replaced, with an event for each; durable on return. Returns the rekeys.

    A study with a rekey under way is gone on with, whichever of its two keys was named. Raises as
    `keys.keyring.rekey.begin`, and InputError for a reason that says nothing.
    """
    archive.policy.require(officer, Action.REKEY)
    require_reason("a rekey", reason)
    keyring = archive.keyring
    under_way = {each.new: each.old for each in rekey.under_way(keyring)}

    def event(made: Rekey) -> tuple[bytes, bytes]:
        facts = {
            "what": "study rekey started",
            "study": made.name.hex(),
            "new_key": made.new.hex(),
            "reason": reason.strip(),
            "officer": officer.name,
            "account": officer.account,
        }
        return archive.enclosed(Event(Kind.STATE, clock_ms(), facts, made.old))

    begun: dict[bytes, Rekey] = {}
    for key_id, name in chosen.names.items():
        old = under_way.get(key_id, key_id)
        try:
            begun[old] = rekey.begin(keyring, old, name, archive.index.applied_seq + 1, clock_ms(), os.urandom, event)
        except SupersededError:
            continue  # ended just now
    return list(begun.values())


def carry_out(archive: KeyAdminArchive, begun: list[Rekey], progress: Callable[[int, int], None]) -> None:
    """Do it, or wait for the writer that runs to do it; old keys are destroyed on return.

    Raises IntegrityError for a study that does not open, UnavailableError where the writer does not go on,
    WriterGoneError where it has ended: who opens the archive again then does it itself.
    """
    if isinstance(archive, WritableArchive):
        archive.reconcile()
        Rekeyer(archive).run(progress)
        archive.reconcile()
        return
    moved, last = time.monotonic(), None
    while True:
        now = [rekey.of_key(archive.keyring, each.old) for each in begun]
        stuck = [each.stuck for each in now if each is not None and each.stuck != NOT_STUCK]
        waiting = [each for each in now if each is not None and each.stuck == NOT_STUCK]
        if not waiting:
            break
        if now != last:
            moved, last = time.monotonic(), now
        progress(sum(each.done for each in waiting), sum(each.total for each in waiting))
        archive.require_writer(f"{len(waiting)} studies wait for their new keys")
        if time.monotonic() - moved > _STILL_SECONDS:
            raise _still(archive, len(waiting))
        time.sleep(_POLL_SECONDS)
    if stuck:
        raise IntegrityError(
            f"{len(stuck)} studies keep their keys: record {min(stuck)} does not open",
            hint="coffer verify --level decrypt, repair it from a copy (coffer repair), then rekey again",
        )


def _still(archive: ReadableArchive, studies: int) -> UnavailableError:
    who = holder(archive.folder.lock) or "whoever writes"
    return UnavailableError(
        f"{who} has not gone on with {studies} studies for {_STILL_SECONDS:.0f} s",
        hint="a server goes on by itself: see its log. Any other command: say it again when that one has ended",
    )


def _made_ms(archive: ReadableArchive, key_id: bytes) -> int:
    value = archive.keyring.row(rows.STUDY_PREFIX + key_id)
    return KeyRow.decode(value).created_ms if value is not None else clock_ms()
