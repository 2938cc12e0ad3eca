"""Notice a keyring that is older than the log: a backup that was put back, knowingly or not.

Rule: the log says what was shredded and which epochs were destroyed, and it is believed: what an older keyring brings
back is not given to anybody. Only what the keyring has not seen signed is read: a minute, unless it was put back.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import structlog

from archive.checkpoint import witnessed
from archive.event import Event
from archive.folder import ArchiveFolder
from archive.reader import LogReader
from archive.record import Kind, RecordHeader
from keys import aead, derive
from keys.errors import HistoryError, IntegrityError
from keys.keyring import Keyring, clock_ms
from keys.rows import GONE
from keys.shred import is_shredded, schedule
from server import outbox

__all__ = ["Missed", "missed", "shred_again", "trouble_of"]

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Missed:
    """What happened after the keyring was copied: shreds by their key's id, and how many studies have no key now."""

    shredded: dict[bytes, Event] = field(default_factory=dict)
    keyless: int = 0
    epoch: int = 0  # the newest that keys were moved to since

    def told(self, epoch: int) -> list[str]:
        """What cannot be mended here, of a keyring whose newest epoch is `epoch`, a sentence each."""
        found = [f"it is older than the log: {self.keyless} studies have no key"] if self.keyless else []
        if epoch < self.epoch:
            found.append(f"it is older than the log: the keys were moved to epoch {self.epoch} since")
        return found

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
        seen = witnessed(keyring.witness(), folder).size
    except IntegrityError:
        return found  # whoever writes or verifies tells about it
    made: set[bytes] = set()
    try:
        for position, header in reader.records(seen):
            _read(found, made, keyring, folder, header, partial(reader.read_body, position))
    except HistoryError:
        raise
    except IntegrityError:
        pass  # damage is told by whoever writes or verifies; what stands before it counts
    found.keyless = sum(not keyring.is_used(key_id) for key_id in made)
    return found


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
    elif header.kind in (Kind.SHRED_SCHEDULED, Kind.EPOCH_DESTROYED, Kind.KEYRING_ROTATED):
        event = Event.open(keyring.archive_key(derive.EVENT), folder.archive_id, header, body())
        if header.kind == Kind.EPOCH_DESTROYED:
            _require_destroyed(keyring, event)
            return
        if header.kind == Kind.KEYRING_ROTATED:
            found.epoch = max(found.epoch, int(str(event.facts["epoch"])))
            return
        made.discard(event.key_id)
        if keyring.is_used(event.key_id) and not is_shredded(keyring, event.key_id):
            found.shredded[event.key_id] = event


def _require_destroyed(keyring: Keyring, event: Event) -> None:
    epoch = event.facts.get("epoch")
    if any(each.epoch == epoch and each.state not in GONE for each in keyring.epochs()):
        raise HistoryError(
            f"the keyring is older than the log: it uses epoch {epoch}, which was destroyed since",
            hint="put the newest keyring back, and the newest key file",
        )


def shred_again(late: Missed, keyring: Keyring) -> None:
    """Do to an older keyring what the log says was done to it, durable on return; `late` then holds no shred."""
    for key_id, event in late.shredded.items():
        name, until = bytes.fromhex(str(event.facts["study"])), int(str(event.facts["until_ms"]))
        again = {"what": "shredded again: an older keyring was put back", "study": name.hex()}
        entry = Event(Kind.STATE, clock_ms(), again, key_id).seal(
            keyring.archive_key(derive.EVENT), keyring.archive_id, os.urandom(aead.SALT)
        )
        row = outbox.enclose(entry, os.urandom(8))
        schedule(keyring, {key_id: name}, now_ms=event.time_ms, until_ms=until, event=lambda *_, row=row: row)
        _log.warning("an older keyring was put back: shredded again", key=key_id.hex()[:8])
    late.shredded.clear()
