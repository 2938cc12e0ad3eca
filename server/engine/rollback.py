"""Detect a keyring that is older than the log: a backup that was restored, knowingly or not.

Rule: the log is authoritative on what was shredded and which epochs were destroyed: keys that an older keyring brings
back are never used. Only records after the keyring's remembered checkpoint are read: a minute's worth, unless it was
restored. If it remembers fewer records than were signed, it is older, whatever it lacks; so is one that lacks keys,
epochs, holds or requests that the log has since, signed or not. Nothing is stored and no key is changed with it: new
objects would get keys in a second keyring, and two keyrings cannot be merged.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from coffer.archive.events.epochs import EpochDestroyed, EpochRotated
from coffer.archive.events.event import Event, UnknownEvent
from coffer.archive.events.holds import HoldAdded, HoldRemoved
from coffer.archive.events.recorded import Occurrence, Recorded
from coffer.archive.events.shares import CopyGone, CopyRegistered
from coffer.archive.events.shreds import (
    ShredApproved,
    ShredCancelled,
    ShredRequested,
    StudyShredded,
    StudyShreddedAgain,
)
from coffer.archive.format.record import Kind, RecordHeader
from coffer.archive.reader import LogReader
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.checkpoint import Checkpoint, read_checkpoint, remembered_checkpoint
from coffer.keys.clock import clock_ms
from coffer.keys.crypto import derive
from coffer.keys.errors import HistoryError, IntegrityError, UnavailableError, UnreadableError
from coffer.keys.keyring import rekey
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.keyring.shred import is_shredded, schedule
from coffer.keys.mailbox import events, officer_records
from coffer.keys.values.epoch import GONE
from coffer.keys.values.officer_record import RecordKind
from coffer.keys.values.waiting_event import WaitingEvent
from coffer.server.engine.openers import OpenerHistory
from coffer.server.mailbox import outbox
from coffer.server.observe.logs import get_logger

__all__ = ["LostHold", "Missed", "keys_since", "missed", "note_in", "report_trouble", "shred_again", "trouble_of"]

_log = get_logger()
_NEWEST: Final = "restore the newest copy of the keyring, or see coffer recover show"
_UNDER_A_KEY: Final = frozenset({Kind.STUDY_KEY_CREATED, Kind.OBJECT})  # a rekey's new key has objects only
_COMPARED: Final = frozenset({Kind.SHRED_SCHEDULED, Kind.EPOCH_DESTROYED, Kind.KEYRING_ROTATED, Kind.STATE})


@dataclass(frozen=True, slots=True)
class LostHold:
    """What the log records of a hold: its id, "study", "patient" or "instance", until when, by whom, why, and since
    when (ms since 1970 UTC)."""

    hold_id: str
    kind: str
    until: str
    officer: str
    account: str
    reason: str
    added_ms: int

    @classmethod
    def of(cls, event: HoldAdded, added_ms: int) -> "LostHold":
        """The hold that an event records, and its time."""
        by = event.by
        return cls(event.hold, event.on, event.until or "", by.name, by.account, event.reason, added_ms)


@dataclass(slots=True)
class Missed:
    """What the keyring has missed since it was copied: shreds by key id, how many studies have no key now, and what it
    holds of keys, holds and requests that is outdated."""

    shredded: dict[bytes, StudyShredded] = field(default_factory=dict)
    keyless: int = 0
    epoch: int = 0  # the newest one that keys were moved to since
    remembered: Checkpoint | None = None
    forgotten: str = ""  # why there is none
    signed: int = 0  # records
    last_ms: int | None = None  # the time of the last record that could be read, since 1970 UTC
    replaced: set[bytes] = field(default_factory=set)  # keys, by a rekey
    openers: OpenerHistory = field(default_factory=OpenerHistory)  # of epochs
    notes: dict[tuple[RecordKind, str], bool] = field(default_factory=dict)  # hold or request, id: is it in force?
    holds: dict[str, LostHold] = field(default_factory=dict)  # by id: those added since and not removed
    revived: int = 0
    lost: int = 0
    ended: int = 0

    @property
    def is_behind(self) -> bool:
        """Whether it remembers fewer records than were signed: the newest keyring learns of a checkpoint first."""
        return self.remembered is None or self.remembered.size < self.signed

    def contradictions(self, epoch: int) -> list[str]:
        """What cannot be repaired here, of a keyring whose newest epoch is `epoch`, a sentence each."""
        return [f"it is {what}" for what in self._older(epoch)]

    def lacking(self, epoch: int) -> list[str]:
        """What the log has of keys, holds and requests and the keyring, whose newest epoch is `epoch`, has not; a part
        of a sentence each."""
        counted = (
            (self.keyless, "{} studies have no key"),
            (self.revived, "{} keys that a rekey replaced are alive in it"),
            (self.lost, "{} holds, requests to shred or registered copies are missing from it"),
            (self.ended, "{} holds, requests to shred or registered copies that were ended are in it"),
            (self.epoch if epoch < self.epoch else 0, "the keys were moved to epoch {} since"),
        )
        return [f"older than the log: {what.format(number)}" for number, what in counted if number]

    def _older(self, epoch: int) -> list[str]:
        found = self.lacking(epoch)
        if self.remembered is None:
            return [*found, f"not the one that wrote this log: {self.forgotten}"]
        behind = f"older than the log: it remembers {self.remembered.size} records, and {self.signed} are signed"
        return found or ([behind] if self.is_behind else [])

    def lost_holds(self, keyring: Keyring) -> tuple["LostHold", ...]:
        """The holds that the log records and the keyring lacks, oldest first; the log does not name their objects."""
        return tuple(
            hold
            for hold_id, hold in self.holds.items()
            if not officer_records.is_there(keyring, RecordKind.HOLD, hold_id)
        )

    def objection(self, epoch: int) -> HistoryError | None:
        """Why nothing may be written with a keyring whose newest epoch is `epoch`, or None."""
        found = self._older(epoch)
        return HistoryError(f"the keyring is {found[0]}", hint=_NEWEST) if found else None

    def require_none_shredded(self) -> None:
        """Raise HistoryError if the keyring holds keys that were shredded."""
        if self.shredded:
            raise HistoryError(
                f"the keyring is older than the log: it holds {len(self.shredded)} keys that were shredded since",
                hint="restore the newest keyring; or start the server once, which shreds them again",
            )


def missed(
    folder: ArchiveFolder, keyring: Keyring, reader: LogReader, *, alone: bool = False, size: int | None = None
) -> Missed:
    """What the keyring has missed: what the log has after the last checkpoint that it remembers, in all its records or
    the first `size`.

    `alone` says that the caller holds the writer's lock, so that no process moves events into the log: then holds and
    requests are compared too. Raises HistoryError if an epoch that it uses was destroyed since, IntegrityError for an
    altered event.
    """
    found = Missed()
    with suppress(IntegrityError, UnreadableError):  # reported by the writer and by verify
        found.signed = read_checkpoint(folder).size  # before the keyring, which learns of a checkpoint first
    try:
        found.remembered = remembered_checkpoint(keyring.remembered_checkpoint(), folder)
    except IntegrityError as error:
        found.forgotten = str(error)
    made: set[bytes] = set()
    try:
        covered = found.remembered.size if found.remembered else 0
        for position, header in reader.records(max(covered - 1, 0)):  # from the one before, for its time
            if size is not None and header.seq >= size:
                break
            found.last_ms = header.time_ms
            if header.seq >= covered:
                _read(found, made, keyring, folder, header, partial(reader.read_body, position))
    except HistoryError:
        raise
    except (IntegrityError, UnreadableError):
        pass  # reported by the writer and by verify; what precedes the damage counts
    found.keyless = sum(not keyring.is_used(key_id) for key_id in made)
    if alone:
        _compare_all(found, made, keyring, folder)
    elif found.is_behind:
        _compare(found, keyring)
    return found


def keys_since(folder: ArchiveFolder, size: int) -> set[bytes]:
    """The ids of the study keys that records from `size` on are sealed under; what follows damage is not read."""
    reader, found = LogReader(folder), set[bytes]()
    try:
        found.update(header.study_key_id for _, header in reader.records(size) if header.kind in _UNDER_A_KEY)
    except (IntegrityError, UnavailableError):
        pass  # reported by the writer and by verify
    finally:
        reader.close()
    return found


def _compare_all(found: Missed, made: set[bytes], keyring: Keyring, folder: ArchiveFolder) -> None:
    """As `_compare`, with the events that are still in the outbox; repeated if another process added one."""
    seen: list[WaitingEvent] = []
    while True:
        for event in events.waiting(keyring):
            if event not in seen:
                _read(found, made, keyring, folder, outbox.header_of(event), partial(bytes, event.body))
                seen.append(event)
        _compare(found, keyring)
        if events.waiting(keyring) == seen:
            return


def _compare(found: Missed, keyring: Keyring) -> None:
    """Count what is outdated in an older keyring."""
    found.revived = sum(
        keyring.is_used(key_id) and not is_shredded(keyring, key_id) and rekey.of_key(keyring, key_id) is None
        for key_id in found.replaced
    )
    there = {note: officer_records.is_there(keyring, *note) for note in found.notes}
    found.lost = sum(counts and not there[note] for note, counts in found.notes.items())
    found.ended = sum(there[note] and not counts for note, counts in found.notes.items())


def trouble_of(keyring: Keyring, keyless: int) -> list[str]:
    """How an open keyring contradicts log and index; `keyless` studies of the index have no key. About 3 us a row."""
    found = [f"{keyless} studies of the index have no key"] if keyless else []
    try:
        keyring.require_whole()
    except IntegrityError as error:
        found.append(str(error))
    return found


def report_trouble(found: Iterable[str]) -> None:
    """Log how a keyring contradicts its log, each with the remedy."""
    for what in found:
        _log.error(
            "the keyring does not belong to this log",
            name="keyring.mismatched",
            cause=what,
            remedy="coffer keys audit",
        )


def _read(  # noqa: PLR0917
    found: Missed,
    made: set[bytes],
    keyring: Keyring,
    folder: ArchiveFolder,
    header: RecordHeader,
    body: Callable[[], bytes],
) -> None:
    """Add one record."""
    if header.kind in _UNDER_A_KEY:
        made.add(header.study_key_id)
    elif header.kind == Kind.STUDY_REKEYED:
        found.replaced.add(header.study_key_id)
    elif header.kind in _COMPARED:
        told = Recorded.open(keyring.archive_key(derive.EVENT), folder.archive_id, header, body())
        found.openers.add(told.event)
        _note(found, told)
        match told.event:
            case EpochDestroyed(epoch=epoch):
                _require_destroyed(keyring, epoch)
            case EpochRotated(epoch=epoch):
                found.epoch = max(found.epoch, epoch)
            case StudyShredded() as event:
                made.discard(told.key_id)
                if _is_alive(keyring, told.key_id):
                    found.shredded[told.key_id] = event
            case UnknownEvent(kind=Kind.SHRED_SCHEDULED):
                made.discard(told.key_id)
                _require_gone(keyring, told.key_id)


def note_in(event: Event | UnknownEvent) -> tuple[tuple[RecordKind, str], bool] | None:
    """Return the hold, request or copy that an event is about, by kind and id, and whether it is in force since; None
    for any other event."""
    found = None
    match event:
        case HoldAdded(hold=hold) | HoldRemoved(hold=hold):
            found = (RecordKind.HOLD, hold), isinstance(event, HoldAdded)
        case CopyRegistered(copy=copy) | CopyGone(copy=copy):
            found = (RecordKind.COPY, copy), isinstance(event, CopyRegistered)
        case ShredRequested(request=request) | ShredApproved(request=request):
            found = (RecordKind.REQUEST, request), True
        case ShredCancelled(request=request) | StudyShredded(request=str(request)):
            found = (RecordKind.REQUEST, request), False
    return found


def _note(found: Missed, told: Recorded) -> None:
    """Add what an event says of a hold or a request."""
    if (note := note_in(told.event)) is not None:
        found.notes[note[0]] = note[1]
    if isinstance(told.event, HoldAdded | HoldRemoved):
        found.holds.pop(told.event.hold, None)  # the last one added is last
    if isinstance(told.event, HoldAdded):
        found.holds[told.event.hold] = LostHold.of(told.event, told.time_ms)


def _is_alive(keyring: Keyring, key_id: bytes) -> bool:
    return keyring.is_used(key_id) and not is_shredded(keyring, key_id)


def _require_gone(keyring: Keyring, key_id: bytes) -> None:
    if _is_alive(keyring, key_id):
        raise HistoryError(
            "the keyring is older than the log: it holds a key that a newer version of Coffer has shredded since",
            hint="restore the newest keyring, and use the newest version",
        )


def _require_destroyed(keyring: Keyring, epoch: int) -> None:
    if any(each.epoch == epoch and each.state not in GONE for each in keyring.epochs()):
        raise HistoryError(
            f"the keyring is older than the log: it uses epoch {epoch}, which was destroyed since",
            hint="restore the newest keyring and the newest key file",
        )


def shred_again(late: Missed, keyring: Keyring) -> None:
    """Repeat on an older keyring what the log says was done to it, durable on return; `late` then holds no shred.

    The keyring also learns again what opens its epochs and which openers have ended: otherwise an erasure would be
    reported complete while an opener unknown to it still opens what was erased.
    """
    late.openers.restore(keyring)
    for key_id, event in late.shredded.items():
        again = Occurrence(StudyShreddedAgain(study=event.study), clock_ms(), key_id)
        told = outbox.enclosed(keyring, again)
        schedule(
            keyring,
            {key_id: keyring.study_even_if_shredded(key_id).hidden(bytes.fromhex(event.study))},
            now_ms=event.scheduled_ms,
            until_ms=event.until_ms,
            event=lambda *_, told=told: told,
            last_epoch=event.epoch,
        )
        _log.warning("an older keyring was restored: shredded again", name="study.shredded_again", key=key_id.hex()[:8])
    late.shredded.clear()
