"""Which studies get a new key, whether that is allowed, and the order to the writer.

Rule: what is not allowed is refused before anything changes. The order is a row of the keyring: the writer, in this
process or in the running server, carries it out (`server.engine.rekey`) and resumes it after a stop.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from coffer.archive.events.recorded import Occurrence
from coffer.archive.events.rekeys import RekeyOrdered
from coffer.archive.store.writer_lock import writer
from coffer.keys.clock import clock_ms
from coffer.keys.errors import IntegrityError, ShreddedError, SupersededError, UnavailableError
from coffer.keys.keyring import rekey, shred
from coffer.keys.keyring.rekey import NOT_STUCK, Rekey
from coffer.keys.keyring.tombstone import Reason
from coffer.keys.values.waiting_event import WaitingEvent
from coffer.server.access.action import Action
from coffer.server.access.operator import require_reason
from coffer.server.access.principal import Principal
from coffer.server.clock.trust import granting_ms
from coffer.server.engine.archive import KeyAdminArchive, ReadableArchive, WritableArchive
from coffer.server.engine.rekey import Rekeyer
from coffer.server.retention.holds import Holds, matching_holds, today
from coffer.server.retention.selection import beside, by_study, whole_studies

__all__ = ["RekeySelection", "all_before", "carry_out", "one_study", "order"]

_POLL_SECONDS: Final = 0.2
_STALLED_SECONDS: Final = 120.0  # the longest time without progress of the writer


@dataclass(frozen=True, slots=True)
class RekeySelection:
    """Keys to replace, each with its study's token in the index; the numbers of studies, objects and held studies."""

    names: dict[bytes, bytes]
    studies: int
    objects: int
    held: int = 0


def one_study(archive: ReadableArchive, study_uid: str) -> RekeySelection:
    """Select the study with this UID. Raises NotFoundError, ShreddedError, InputError, AccessDeniedError (on hold)."""
    name = archive.index.study_token(study_uid.strip())
    tombstones = shred.tombstones(archive.keyring).values()
    if not archive.index.key_ids_of(study_uid.strip()) and any(
        tombstone.name == name and tombstone.reason is Reason.SHREDDED for tombstone in tombstones
    ):
        raise ShreddedError("this study was shredded: there is nothing to seal again", hint="coffer shred list")
    found = by_study(archive, study_uid, everybody=True)
    Holds(archive).require_none(whole_studies(archive.index, found))
    names = {key_id: each.name for each in found for key_id in each.key_ids}
    return RekeySelection(names, 1, sum(each.versions for each in found))


def all_before(archive: ReadableArchive, epoch: int) -> RekeySelection:
    """Select every study whose key was made before an epoch began, except those on hold. Raises NotFoundError."""
    archive.keyring.require_whole()  # the holds decide
    begin = archive.keyring.epoch_facts(epoch).created_ms
    names: dict[bytes, bytes] = {}
    studies, objects, held = 0, 0, 0
    holds, day = Holds(archive).all(), today(granting_ms(archive.keyring))
    for part in archive.index.all_parts():
        due = [key_id for key_id in part.key_ids if _made_ms(archive, key_id) < begin]
        if not due:
            continue
        if holds and matching_holds(holds, beside(archive.index, part.id), day):
            held += 1
            continue
        names.update(dict.fromkeys(due, part.name))
        studies, objects = studies + 1, objects + part.versions
    return RekeySelection(names, studies, objects, held)


def order(archive: KeyAdminArchive, selection: RekeySelection, reason: str, officer: Principal) -> list[Rekey]:
    """Order the replacement of the selected keys, with an event for each; durable on return. Returns the rekeys.

    A rekey under way is resumed, whichever of its two keys was selected. Raises the same errors as
    `keys.keyring.rekey.begin`, and InputError for an empty reason.
    """
    archive.policy.require(officer, Action.REKEY)
    require_reason("a rekey", reason)
    keyring = archive.keyring
    under_way = {each.new: each.old for each in rekey.under_way(keyring)}

    def event(made: Rekey) -> WaitingEvent:
        ordered = RekeyOrdered(new_key=made.new.hex(), reason=reason.strip(), by=officer.officer)
        return archive.enclosed(Occurrence(ordered, clock_ms(), made.old))

    begun: dict[bytes, Rekey] = {}
    for key_id, name in selection.names.items():
        old = under_way.get(key_id, key_id)
        try:
            begun[old] = rekey.begin(keyring, old, name, archive.index.applied_seq + 1, clock_ms(), os.urandom, event)
        except SupersededError:
            continue  # it has just ended
    return list(begun.values())


def carry_out(archive: KeyAdminArchive, begun: list[Rekey], progress: Callable[[int, int], None]) -> None:
    """Carry out the rekeys, or wait for the running writer to do it; the old keys are destroyed on return.

    Raises IntegrityError for a study that does not open, UnavailableError if the writer makes no progress,
    WriterGoneError if it has ended: the caller can then open the archive again and carry them out itself.
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
        if time.monotonic() - moved > _STALLED_SECONDS:
            raise _stalled(archive, len(waiting))
        time.sleep(_POLL_SECONDS)
    if stuck:
        raise IntegrityError(
            f"{len(stuck)} studies keep their keys: record {min(stuck)} does not open",
            hint="coffer verify --level decrypt, repair it from a copy (coffer repair --from COPY), then rekey again",
        )


def _stalled(archive: ReadableArchive, studies: int) -> UnavailableError:
    who = writer(archive.folder.lock) or "the writer"
    return UnavailableError(
        f"{who} has made no progress with {studies} studies for {_STALLED_SECONDS:.0f} s",
        hint="a server continues by itself: see its log. For any other command: run this one again when that has ended",
    )


def _made_ms(archive: ReadableArchive, key_id: bytes) -> int:
    made_ms = rekey.made_ms(archive.keyring, key_id)
    return clock_ms() if made_ms is None else made_ms
