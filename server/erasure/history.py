"""What the log says about erasures: who requested and approved them, in which records, which objects each key sealed,
what ever opened an epoch, what of that was destroyed, and which copies there were.

Rule: one pass over the record headers; events are opened, objects are not.
"""

from collections.abc import Callable, Container
from dataclasses import dataclass, field
from typing import Final, Generic, Literal, TypeVar

import msgspec

from coffer.archive.events.epochs import EpochDestroyed
from coffer.archive.events.event import Event
from coffer.archive.events.recorded import Recorded
from coffer.archive.events.rekeys import StudyRekeyed
from coffer.archive.events.shares import CopyGone, CopyRegistered, SharesBurned
from coffer.archive.events.shreds import ShredApproved, ShredRequested, StudyShredded
from coffer.archive.format.record import Kind, RecordHeader
from coffer.keys.crypto import derive
from coffer.keys.crypto.shamir import Group
from coffer.keys.keyring.keepers import Keeper
from coffer.server.copies.register import Copy
from coffer.server.engine.archive import ReadableArchive
from coffer.server.engine.openers import Openers

__all__ = ["ErasureHistory", "RecordedEvent", "StepWord"]

_KINDS: Final = frozenset(
    {Kind.STATE, Kind.SHRED_SCHEDULED, Kind.STUDY_REKEYED, Kind.EPOCH_DESTROYED, Kind.KEYRING_ROTATED}
)
_EVERY: Final = 4096  # records between two reports of progress
E = TypeVar("E", bound=Event)
E_co = TypeVar("E_co", bound=Event, covariant=True)
StepWord = Literal["asked", "approved"]  # as a certificate words a step


@dataclass(frozen=True, slots=True)
class RecordedEvent(Generic[E_co]):
    """An event, its time (ms since 1970 UTC), the number of its record, and the 160 header bytes of the record."""

    seq: int
    time_ms: int
    header: bytes
    event: E_co


@dataclass(slots=True)
class ErasureHistory:
    """Shreds and rekeys by key id, receipts by epoch and keeper id, burn events of shares by group, the steps of each
    request, record numbers of objects by key id; and every keeper and group of shares that was ever recorded."""

    shreds: dict[bytes, RecordedEvent[StudyShredded]] = field(default_factory=dict)
    rekeys: dict[bytes, RecordedEvent[StudyRekeyed]] = field(default_factory=dict)
    receipts: dict[tuple[int, bytes], RecordedEvent[EpochDestroyed]] = field(default_factory=dict)
    burned: dict[bytes, list[RecordedEvent[SharesBurned]]] = field(default_factory=dict)
    steps: dict[str, list[tuple[StepWord, RecordedEvent[ShredRequested | ShredApproved]]]] = field(default_factory=dict)
    objects: dict[bytes, list[int]] = field(default_factory=dict)
    keepers: dict[tuple[int, bytes], Keeper] = field(default_factory=dict)
    groups: dict[bytes, Group] = field(default_factory=dict)
    copies: dict[str, Copy] = field(default_factory=dict)  # those reported destroyed end then

    def end_of(self, key_id: bytes) -> RecordedEvent[Event] | None:
        """Return what ended a key, or None; a key shredded during its rekey counts as shredded."""
        return self.shreds.get(key_id) or self.rekeys.get(key_id)

    @classmethod
    def read(
        cls,
        archive: ReadableArchive,
        keys: Container[bytes],
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> "ErasureHistory":
        """Read the log; objects are kept for `keys` only. Raises IntegrityError for an event that was altered.

        `progress` regularly gets the number of records read and of all, as far as known.
        """
        found, key, total = cls(), archive.keyring.archive_key(derive.EVENT), archive.index.applied_seq + 1
        for position, header in archive.reader.records():
            if position.seq % _EVERY == 0:
                progress(position.seq, max(total, position.seq))
            if header.kind == Kind.OBJECT:
                if header.study_key_id in keys:
                    found.objects.setdefault(header.study_key_id, []).append(header.seq)
            elif header.kind in _KINDS:
                body = archive.reader.read_body(position)
                found._add(header, Recorded.open(key, archive.folder.archive_id, header, body))
        return found

    def _add(self, header: RecordHeader, recorded: Recorded) -> None:
        openers, at = Openers.of(recorded.event), recorded.time_ms
        self.keepers |= {(each.epoch, each.id): each for each in openers.keepers}
        self.groups |= {each.group: each for each in openers.groups}
        self.groups.pop(openers.given_up, None)
        match recorded.event:
            case StudyShredded() as event:
                self.shreds[recorded.key_id] = _recorded(header, at, event)
            case StudyRekeyed() as event:
                self.rekeys.setdefault(recorded.key_id, _recorded(header, at, event))
            case EpochDestroyed() as event:
                self.receipts[event.epoch, bytes.fromhex(event.keeper)] = _recorded(header, at, event)
            case SharesBurned() as event:
                self.burned.setdefault(bytes.fromhex(event.group), []).append(_recorded(header, at, event))
            case CopyRegistered() as event:
                until = event.ends_ms or 0
                self.copies[event.copy] = Copy(event.of, event.place, until, event.newest, event.feed, event.by, at)
            case CopyGone(copy=copy) if copy in self.copies:
                self.copies[copy] = msgspec.structs.replace(self.copies[copy], until_ms=at)
            case ShredRequested() as event:
                self.steps.setdefault(event.request, []).append(("asked", _recorded(header, at, event)))
            case ShredApproved() as event:
                self.steps.setdefault(event.request, []).append(("approved", _recorded(header, at, event)))


def _recorded(header: RecordHeader, time_ms: int, event: E) -> RecordedEvent[E]:
    return RecordedEvent(header.seq, time_ms, header.serialize(), event)
