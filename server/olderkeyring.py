"""Notice a keyring that is older than the log: a backup that was put back, knowingly or not.

Rule: the log says what was shredded and which epochs were destroyed, and it is believed: what an older keyring brings
back is not given to anybody. Only what the keyring has not seen signed is read: a minute, unless it was put back. One
that remembers less than was signed is older, whatever it lacks: nothing is stored and no key is changed with it.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import structlog

from archive.checkpoint import read_checkpoint, witnessed
from archive.event import Event
from archive.folder import ArchiveFolder
from archive.reader import LogReader
from archive.record import Kind, RecordHeader
from keys import aead, derive, rekey, rows
from keys.clock import clock_ms
from keys.errors import HistoryError, IntegrityError
from keys.keyring import Keyring
from keys.rows import GONE
from keys.shred import is_shredded, schedule
from server import outbox
from server.openers import Told

__all__ = ["Missed", "missed", "shred_again", "trouble_of"]

_log = structlog.get_logger(__name__)
_TOLD: Final = frozenset({Kind.SHRED_SCHEDULED, Kind.EPOCH_DESTROYED, Kind.KEYRING_ROTATED, Kind.STATE})


@dataclass(slots=True)
class Missed:
    """What happened after the keyring was copied: shreds by their key's id, how many studies have no key now, and,
    where it remembers less than was signed, what it says of keys, holds and requests that is not so any more."""

    shredded: dict[bytes, Event] = field(default_factory=dict)
    keyless: int = 0
    epoch: int = 0  # the newest that keys were moved to since
    remembered: int = 0  # records, and how many are signed
    signed: int = 0
    replaced: set[bytes] = field(default_factory=set)  # keys, by a rekey
    openers: Told = field(default_factory=Told)  # of epochs
    notes: dict[bytes, bool] = field(default_factory=dict)  # by the place of a hold or request: whether it still counts
    revived: int = 0
    lost: int = 0
    ended: int = 0

    @property
    def is_older(self) -> bool:
        """Whether it remembers less than was signed: a keyring that was not put back is told before anybody else."""
        return self.remembered < self.signed

    def told(self, epoch: int) -> list[str]:
        """What cannot be mended here, of a keyring whose newest epoch is `epoch`, a sentence each."""
        counted = (
            (self.keyless, "{} studies have no key"),
            (self.revived, "{} keys that a rekey replaced are alive in it"),
            (self.lost, "{} holds or requests to shred are missing from it"),
            (self.ended, "{} holds or requests to shred that were ended are in it"),
            (self.epoch if epoch < self.epoch else 0, "the keys were moved to epoch {} since"),
        )
        found = [f"it is older than the log: {what.format(number)}" for number, what in counted if number]
        return found or ([self._older()] if self.is_older else [])

    def _older(self) -> str:
        return f"it is older than the log: it remembers {self.remembered} records, and {self.signed} are signed"

    def require_newest(self) -> None:
        """Raise HistoryError where the keyring is older than the log: no key is changed by what it says."""
        if self.is_older:
            raise HistoryError(
                self._older().replace("it is", "the keyring is", 1),
                hint="put the newest copy of the keyring back, or see coffer recover show",
            )

    def require_none_shredded(self) -> None:
        """Raise HistoryError where the keyring holds keys that were shredded."""
        if self.shredded:
            raise HistoryError(
                f"the keyring is older than the log: it holds {len(self.shredded)} keys that were shredded since",
                hint="put the newest keyring back; or start the server once, which shreds them again",
            )


def missed(folder: ArchiveFolder, keyring: Keyring, reader: LogReader) -> Missed:
    """What the keyring has missed: what stands in the log behind the last checkpoint that it knows.

    Raises HistoryError where an epoch that it uses was destroyed since, IntegrityError for an altered event.
    """
    found = Missed()
    try:
        signed = read_checkpoint(folder)  # before the keyring, which is told of a checkpoint first
        seen = witnessed(keyring.witness(), folder).size
    except IntegrityError:
        return found  # whoever writes or verifies tells about it
    found.remembered, found.signed = seen, signed.size if signed is not None else 0
    made: set[bytes] = set()
    try:
        for position, header in reader.records(seen):
            _read(found, made, keyring, folder, header, partial(reader.read_body, position))
    except HistoryError:
        raise
    except IntegrityError:
        pass  # damage is told by whoever writes or verifies; what stands before it counts
    found.keyless = sum(not keyring.is_used(key_id) for key_id in made)
    if found.is_older:  # else whoever writes may be about to tell, or to have told, the log
        _compare(found, keyring)
    return found


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


def _read(  # noqa: PLR0917
    found: Missed,
    made: set[bytes],
    keyring: Keyring,
    folder: ArchiveFolder,
    header: RecordHeader,
    body: Callable[[], bytes],
) -> None:
    """Take one record in."""
    if header.kind == Kind.STUDY_KEY_CREATED:
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
        found.notes[rows.HOLD_PREFIX + bytes.fromhex(str(event.facts["hold"]))] = what == "hold added"
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
