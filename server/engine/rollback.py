"""Notice a keyring that is older than the log: a backup that was put back, knowingly or not.

Rule: the log says what was shredded and which epochs were destroyed, and it is believed: what an older keyring brings
back is not given to anybody. Only what the keyring has not seen signed is read: a minute, unless it was put back. One
that remembers less than was signed is older, whatever it lacks; so is one that lacks what the log has of keys, epochs,
holds and requests since, signed or not. Nothing is stored and no key is changed with it: new objects would get keys in
a second keyring, and nothing puts two keyrings together.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import structlog

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
from coffer.server.engine.openers import Told
from coffer.server.mailbox import outbox

__all__ = ["LostHold", "Missed", "keys_since", "missed", "report_trouble", "shred_again", "trouble_of"]

_log = structlog.get_logger(__name__)
_NEWEST: Final = "put the newest copy of the keyring back, or see coffer recover show"
_UNDER_A_KEY: Final = frozenset({Kind.STUDY_KEY_CREATED, Kind.OBJECT})  # a rekey's new key has objects only
_TOLD: Final = frozenset({Kind.SHRED_SCHEDULED, Kind.EPOCH_DESTROYED, Kind.KEYRING_ROTATED, Kind.STATE})


@dataclass(frozen=True, slots=True)
class LostHold:
    """What the log tells of a hold: its id, "study", "patient" or "instance", until when, by whom, why, and since when
    (ms since 1970 UTC)."""

    hold_id: str
    kind: str
    until: str
    officer: str
    account: str
    reason: str
    added_ms: int

    @classmethod
    def of(cls, hold_id: str, event: Event) -> "LostHold":
        """The hold that an event tells of."""
        kind, until, officer, account, reason = (
            str(event.facts.get(name, "")) for name in ("on", "until", "officer", "account", "reason")
        )
        return cls(hold_id, kind, until, officer, account, reason, event.time_ms)


@dataclass(slots=True)
class Missed:
    """What happened after the keyring was copied: shreds by their key's id, how many studies have no key now, and what
    it says of keys, holds and requests that is not so any more."""

    shredded: dict[bytes, Event] = field(default_factory=dict)
    keyless: int = 0
    epoch: int = 0  # the newest that keys were moved to since
    remembered: int = 0  # records, and how many are signed
    signed: int = 0
    replaced: set[bytes] = field(default_factory=set)  # keys, by a rekey
    openers: Told = field(default_factory=Told)  # of epochs
    notes: dict[bytes, bool] = field(default_factory=dict)  # by the place of a hold or request: whether it still counts
    holds: dict[str, Event] = field(default_factory=dict)  # by id: those that were added since, and not removed
    revived: int = 0
    lost: int = 0
    ended: int = 0

    @property
    def is_behind(self) -> bool:
        """Whether it remembers less than was signed: a keyring that was not put back is told before anybody else."""
        return self.remembered < self.signed

    def told(self, epoch: int) -> list[str]:
        """What cannot be mended here, of a keyring whose newest epoch is `epoch`, a sentence each."""
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
        """The holds that the log tells of and the keyring lacks, oldest first; the log does not say on what."""
        lost = [hold for hold in self.holds if keyring.row(rows.HOLD_PREFIX + bytes.fromhex(hold)) is None]
        return tuple(LostHold.of(hold, self.holds[hold]) for hold in lost)

    def objection(self, epoch: int) -> HistoryError | None:
        """Why nothing may be written with a keyring whose newest epoch is `epoch`, or None."""
        found = self._older(epoch)
        return HistoryError(f"the keyring is {found[0]}", hint=_NEWEST) if found else None

    def require_newest(self, epoch: int) -> None:
        """Raise HistoryError where the keyring is older than the log: no key is changed by what it says."""
        error = self.objection(epoch)
        if error is not None:
            raise error

    def require_none_shredded(self) -> None:
        """Raise HistoryError where the keyring holds keys that were shredded."""
        if self.shredded:
            raise HistoryError(
                f"the keyring is older than the log: it holds {len(self.shredded)} keys that were shredded since",
                hint="put the newest keyring back; or start the server once, which shreds them again",
            )


def missed(folder: ArchiveFolder, keyring: Keyring, reader: LogReader, *, alone: bool = False) -> Missed:
    """What the keyring has missed: what stands in the log behind the last checkpoint that it knows.

    `alone` says that the caller holds the writer's lock, so that nobody moves events into the log: then holds and
    requests are compared too. Raises HistoryError where an epoch that it uses was destroyed since, IntegrityError for
    an altered event.
    """
    found = Missed()
    try:
        signed = read_checkpoint(folder)  # before the keyring, which is told of a checkpoint first
        seen = remembered_checkpoint(keyring.remembered_checkpoint(), folder).size
    except IntegrityError:
        return found  # whoever writes or verifies tells about it
    found.remembered, found.signed = seen, signed.size if signed is not None else 0
    made: set[bytes] = set()
    try:
        for position, header in reader.records(seen):
            _read(found, made, keyring, folder, header, partial(reader.read_body, position))
    except HistoryError:
        raise
    except (IntegrityError, UnreadableError):
        pass  # told by whoever writes or verifies; what stands before it counts
    found.keyless = sum(not keyring.is_used(key_id) for key_id in made)
    if alone:
        _compare_all(found, made, keyring, folder)
    elif found.is_behind:
        _compare(found, keyring)
    return found


def keys_since(folder: ArchiveFolder, size: int) -> set[bytes]:
    """The ids of the study keys that records from `size` on are sealed under; what stands behind damage is not read."""
    reader, found = LogReader(folder), set[bytes]()
    try:
        found.update(header.study_key_id for _, header in reader.records(size) if header.kind in _UNDER_A_KEY)
    except (IntegrityError, UnavailableError):
        pass  # told by whoever writes or verifies
    finally:
        reader.close()
    return found


def _compare_all(found: Missed, made: set[bytes], keyring: Keyring, folder: ArchiveFolder) -> None:
    """As `_compare`, with the events that are on their way into the log; again where another process added one."""
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
    """What an older keyring says that is not so any more."""
    found.revived = sum(
        keyring.is_used(key_id) and not is_shredded(keyring, key_id) and rekey.of_key(keyring, key_id) is None
        for key_id in found.replaced
    )
    there = {place: keyring.row(place) is not None for place in found.notes}
    found.lost = sum(counts and not there[place] for place, counts in found.notes.items())
    found.ended = sum(there[place] and not counts for place, counts in found.notes.items())


def trouble_of(keyring: Keyring, keyless: int) -> list[str]:
    """What is wrong with an open keyring that has no key for so many studies of the index; about 1 us a row."""
    found = [f"{keyless} studies of the index have no key"] if keyless else []
    if (complaint := keyring.complaint()) is not None:
        found.append(complaint)
    return found


def report_trouble(found: Iterable[str]) -> None:
    """Log what is wrong with a keyring beside its log, each with the way out."""
    for what in found:
        _log.error("the keyring does not belong to this log", cause=what, way_out="coffer keys audit")


def _read(  # noqa: PLR0917
    found: Missed,
    made: set[bytes],
    keyring: Keyring,
    folder: ArchiveFolder,
    header: RecordHeader,
    body: Callable[[], bytes],
) -> None:
    """Take one record in."""
    if header.kind in _UNDER_A_KEY:
        made.add(header.study_key_id)
    elif header.kind == Kind.STUDY_REKEYED:
        found.replaced.add(header.study_key_id)
    elif header.kind in _TOLD:
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
    """Take in what an officer said."""
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
            hint="put the newest keyring back, and the newest key file",
        )


def shred_again(late: Missed, keyring: Keyring) -> None:
    """Do to an older keyring what the log says was done to it, durable on return; `late` then holds no shred.

    It learns again what opens its epochs, and which of it has ended: else an erasure would be called complete while
    something that it never heard of opens what was erased.
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
        _log.warning("an older keyring was put back: shredded again", key=key_id.hex()[:8])
    late.shredded.clear()
