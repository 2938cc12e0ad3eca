"""Detect a keyring that is older than the log: a backup that was restored, knowingly or not.

Rule: the log is authoritative on what was shredded and which epochs were destroyed: keys that an older keyring brings
back are never used. Only records after the keyring's remembered checkpoint are read: a minute's worth, unless it was
restored. If it remembers fewer records than were signed, it is older, whatever it lacks; so is one that lacks keys,
epochs, holds or requests that the log has since, signed or not. Nothing is stored and no key is changed with it: new
objects would get keys in a second keyring, and two keyrings cannot be merged.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from coffer.archive.event import Event
from coffer.archive.format.record import Kind, RecordHeader
from coffer.archive.reader import LogReader
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.checkpoint import read_checkpoint, remembered_checkpoint
from coffer.keys.clock import clock_ms
from coffer.keys.crypto import aead, derive
from coffer.keys.errors import HistoryError, IntegrityError, UnavailableError, UnreadableError
from coffer.keys.keyring import rekey, rows
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.keyring.rows import GONE
from coffer.keys.keyring.shred import is_shredded, schedule
from coffer.server.engine.openers import OpenerHistory
from coffer.server.mailbox import outbox
from coffer.server.observe.logs import get_logger

__all__ = ["LostHold", "Missed", "keys_since", "missed", "report_trouble", "shred_again", "trouble_of"]

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
    def of(cls, hold_id: str, event: Event) -> "LostHold":
        """The hold that an event records."""
        kind, until, officer, account, reason = (
            str(event.facts.get(name, "")) for name in ("on", "until", "officer", "account", "reason")
        )
        return cls(hold_id, kind, until, officer, account, reason, event.time_ms)


@dataclass(slots=True)
class Missed:
    """What the keyring has missed since it was copied: shreds by key id, how many studies have no key now, and what it
    holds of keys, holds and requests that is outdated."""

    shredded: dict[bytes, Event] = field(default_factory=dict)
    keyless: int = 0
    epoch: int = 0  # the newest one that keys were moved to since
    remembered: int = 0  # records remembered, and records signed
    signed: int = 0
    replaced: set[bytes] = field(default_factory=set)  # keys, by a rekey
    openers: OpenerHistory = field(default_factory=OpenerHistory)  # of epochs
    notes: dict[bytes, bool] = field(default_factory=dict)  # hold or request by row key: is it in force?
    holds: dict[str, Event] = field(default_factory=dict)  # by id: those added since and not removed
    revived: int = 0
    lost: int = 0
    ended: int = 0

    @property
    def is_behind(self) -> bool:
        """Whether it remembers fewer records than were signed: the newest keyring learns of a checkpoint first."""
        return self.remembered < self.signed

    def contradictions(self, epoch: int) -> list[str]:
        """What cannot be repaired here, of a keyring whose newest epoch is `epoch`, a sentence each."""
        return [f"it is {what}" for what in self._older(epoch)]

    def _older(self, epoch: int) -> list[str]:
        counted = (
            (self.keyless, "{} studies have no key"),
            (self.revived, "{} keys that a rekey replaced are alive in it"),
            (self.lost, "{} holds or requests to shred are missing from it"),
            (self.ended, "{} holds or requests to shred that were ended are in it"),
            (self.epoch if epoch < self.epoch else 0, "the keys were moved to epoch {} since"),
        )
        found = [f"older than the log: {what.format(number)}" for number, what in counted if number]
        behind = f"older than the log: it remembers {self.remembered} records, and {self.signed} are signed"
        return found or ([behind] if self.is_behind else [])

    def lost_holds(self, keyring: Keyring) -> tuple["LostHold", ...]:
        """The holds that the log records and the keyring lacks, oldest first; the log does not name their objects."""
        lost = [hold for hold in self.holds if keyring.row(rows.HOLD_PREFIX + bytes.fromhex(hold)) is None]
        return tuple(LostHold.of(hold, self.holds[hold]) for hold in lost)

    def objection(self, epoch: int) -> HistoryError | None:
        """Why nothing may be written with a keyring whose newest epoch is `epoch`, or None."""
        found = self._older(epoch)
        return HistoryError(f"the keyring is {found[0]}", hint=_NEWEST) if found else None

    def require_newest(self, epoch: int) -> None:
        """Raise HistoryError if the keyring is older than the log: then no key may be changed."""
        error = self.objection(epoch)
        if error is not None:
            raise error

    def require_none_shredded(self) -> None:
        """Raise HistoryError if the keyring holds keys that were shredded."""
        if self.shredded:
            raise HistoryError(
                f"the keyring is older than the log: it holds {len(self.shredded)} keys that were shredded since",
                hint="restore the newest keyring; or start the server once, which shreds them again",
            )


def missed(folder: ArchiveFolder, keyring: Keyring, reader: LogReader, *, alone: bool = False) -> Missed:
    """What the keyring has missed: what the log has after the last checkpoint that it remembers.

    `alone` says that the caller holds the writer's lock, so that no process moves events into the log: then holds and
    requests are compared too. Raises HistoryError if an epoch that it uses was destroyed since, IntegrityError for an
    altered event.
    """
    found = Missed()
    try:
        signed = read_checkpoint(folder)  # before the keyring, which learns of a checkpoint first
        seen = remembered_checkpoint(keyring.remembered_checkpoint(), folder).size
    except IntegrityError:
        return found  # reported by the writer and by verify
    found.remembered, found.signed = seen, signed.size if signed is not None else 0
    made: set[bytes] = set()
    try:
        for position, header in reader.records(seen):
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
    places: list[bytes] = []
    while True:
        for place, entry in outbox.waiting(keyring):
            if place not in places:
                header = RecordHeader(
                    entry.kind, 0, entry.time_ms, entry.study_key_id, entry.flags, 0, entry.content_id, b"", b"", 0
                )
                _read(found, made, keyring, folder, header, partial(bytes, entry.body))
                places.append(place)
        _compare(found, keyring)
        if [place for place, _ in outbox.waiting(keyring)] == places:
            return


def _compare(found: Missed, keyring: Keyring) -> None:
    """Count what is outdated in an older keyring."""
    found.revived = sum(
        keyring.is_used(key_id) and not is_shredded(keyring, key_id) and rekey.of_key(keyring, key_id) is None
        for key_id in found.replaced
    )
    there = {place: keyring.row(place) is not None for place in found.notes}
    found.lost = sum(counts and not there[place] for place, counts in found.notes.items())
    found.ended = sum(there[place] and not counts for place, counts in found.notes.items())


def trouble_of(keyring: Keyring, keyless: int) -> list[str]:
    """How an open keyring contradicts log and index; `keyless` studies of the index have no key. About 1 us a row."""
    found = [f"{keyless} studies of the index have no key"] if keyless else []
    if (complaint := keyring.complaint()) is not None:
        found.append(complaint)
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
        event = Event.open(keyring.archive_key(derive.EVENT), folder.archive_id, header, body())
        found.openers.add(event.facts)
        if header.kind == Kind.EPOCH_DESTROYED:
            _require_destroyed(keyring, event)
        elif header.kind == Kind.KEYRING_ROTATED:
            found.epoch = max(found.epoch, int(str(event.facts["epoch"])))
        elif header.kind == Kind.STATE:
            _note(found, event)
        else:
            made.discard(event.key_id)
            _ask(found, event, counts=False)
            if keyring.is_used(event.key_id) and not is_shredded(keyring, event.key_id):
                found.shredded[event.key_id] = event


def _note(found: Missed, event: Event) -> None:
    """Add an officer's act on a hold or a request."""
    what = event.facts.get("what")
    if what in {"hold added", "hold removed"}:
        hold = str(event.facts["hold"])
        found.notes[rows.HOLD_PREFIX + bytes.fromhex(hold)] = what == "hold added"
        found.holds.pop(hold, None)
        if what == "hold added":
            found.holds[hold] = event
    elif what in {"shred requested", "shred approved", "shred request cancelled"}:
        _ask(found, event, counts=what != "shred request cancelled")


def _ask(found: Missed, event: Event, *, counts: bool) -> None:
    request = str(event.facts.get("request", ""))
    if request:
        found.notes[rows.REQUEST_PREFIX + bytes.fromhex(request)] = counts


def _require_destroyed(keyring: Keyring, event: Event) -> None:
    epoch = event.facts.get("epoch")
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
    if openers := late.openers.missing(keyring):
        keyring.amend(openers)
    for key_id, event in late.shredded.items():
        name, until = bytes.fromhex(str(event.facts["study"])), int(str(event.facts["until_ms"]))
        again = {"what": "shredded again: an older keyring was put back", "study": name.hex()}
        entry = Event(Kind.STATE, clock_ms(), again, key_id).seal(
            keyring.archive_key(derive.EVENT), keyring.archive_id, os.urandom(aead.SALT)
        )
        row = outbox.enclose(entry, os.urandom(8))
        schedule(
            keyring,
            {key_id: name},
            now_ms=event.time_ms,
            until_ms=until,
            event=lambda *_, row=row: row,
            last_epoch=int(str(event.facts["epoch"])),
        )
        _log.warning("an older keyring was restored: shredded again", name="study.shredded_again", key=key_id.hex()[:8])
    late.shredded.clear()
