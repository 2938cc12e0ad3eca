"""What the log says about erasures: who requested and approved them, in which records, which objects each key sealed,
what ever opened an epoch, and what of that was destroyed.

Rule: one pass over the record headers; events are opened, objects are not.
"""

from collections.abc import Callable, Container
from dataclasses import dataclass, field
from typing import Final

from coffer.archive.event import Event
from coffer.archive.format.record import Kind
from coffer.keys.crypto import derive
from coffer.keys.crypto.shamir import Group
from coffer.keys.keyring.keepers import Keeper
from coffer.server.engine.archive import ReadableArchive
from coffer.server.engine.openers import SHARES_BURNED, Openers

__all__ = ["ErasureHistory", "RecordedEvent"]

_KINDS: Final = frozenset(
    {Kind.STATE, Kind.SHRED_SCHEDULED, Kind.STUDY_REKEYED, Kind.EPOCH_DESTROYED, Kind.KEYRING_ROTATED}
)
_EVERY: Final = 4096  # records between two reports of progress
_STEPS: Final = {"shred requested": "asked", "shred approved": "approved"}


@dataclass(frozen=True, slots=True)
class RecordedEvent:
    """An event, the number of its record, and the 160 header bytes of the record."""

    seq: int
    header: bytes
    event: Event

    def text(self, name: str) -> str:
        """Return one of its facts as text; "" if it has none of this name."""
        return str(self.event.facts.get(name, ""))


@dataclass(slots=True)
class ErasureHistory:
    """Shreds and rekeys by key id, receipts by epoch and keeper id, burn events of shares by group, the steps of each
    request, record numbers of objects by key id; and every keeper and group of shares that was ever recorded."""

    gone: dict[bytes, RecordedEvent] = field(default_factory=dict)
    receipts: dict[tuple[int, bytes], RecordedEvent] = field(default_factory=dict)
    burned: dict[bytes, list[RecordedEvent]] = field(default_factory=dict)
    steps: dict[str, list[tuple[str, RecordedEvent]]] = field(default_factory=dict)
    objects: dict[bytes, list[int]] = field(default_factory=dict)
    keepers: dict[tuple[int, bytes], Keeper] = field(default_factory=dict)
    groups: dict[bytes, Group] = field(default_factory=dict)

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
                event = Event.open(key, archive.folder.archive_id, header, archive.reader.read_body(position))
                found._add(RecordedEvent(header.seq, header.serialize(), event))
        return found

    def _add(self, recorded: RecordedEvent) -> None:
        kind, facts = recorded.event.kind, recorded.event.facts
        openers = Openers.of(facts)
        self.keepers |= {(each.epoch, each.id): each for each in openers.keepers}
        self.groups |= {each.group: each for each in openers.groups}
        self.groups.pop(openers.given_up, None)
        if kind in {Kind.SHRED_SCHEDULED, Kind.STUDY_REKEYED}:
            if kind == Kind.SHRED_SCHEDULED or recorded.event.key_id not in self.gone:
                self.gone[recorded.event.key_id] = recorded  # a key shredded during its rekey counts as shredded
        elif kind == Kind.EPOCH_DESTROYED:
            self.receipts[int(str(facts["epoch"])), bytes.fromhex(recorded.text("keeper"))] = recorded
        elif recorded.text("what") == SHARES_BURNED:
            self.burned.setdefault(bytes.fromhex(recorded.text("group")), []).append(recorded)
        elif (what := _STEPS.get(recorded.text("what"))) is not None:
            self.steps.setdefault(recorded.text("request"), []).append((what, recorded))
