"""What the log tells of erasures: who asked and approved, which record says so, what lay under each key, what ever
opened an epoch and which of it has ended. It is read in one pass over the record headers; events are opened, objects
are only counted.
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

__all__ = ["Deeds", "Noted"]

_TOLD: Final = frozenset(
    {Kind.STATE, Kind.SHRED_SCHEDULED, Kind.STUDY_REKEYED, Kind.EPOCH_DESTROYED, Kind.KEYRING_ROTATED}
)
_EVERY: Final = 4096  # records between two reports of progress
_STEPS: Final = {"shred requested": "asked", "shred approved": "approved"}


@dataclass(frozen=True, slots=True)
class Noted:
    """An event, the number of its record, and the record's 160 header bytes."""

    seq: int
    header: bytes
    event: Event

    def text(self, name: str) -> str:
        """One of its facts as text; "" where it has none."""
        return str(self.event.facts.get(name, ""))


@dataclass(slots=True)
class Deeds:
    """Shreds and rekeys by key id, receipts by epoch and keeper's id, words about burned shares by group, the steps of
    each request, objects' records by key id; and every keeper and group of shares that was ever told of."""

    gone: dict[bytes, Noted] = field(default_factory=dict)
    receipts: dict[tuple[int, bytes], Noted] = field(default_factory=dict)
    burned: dict[bytes, list[Noted]] = field(default_factory=dict)
    steps: dict[str, list[tuple[str, Noted]]] = field(default_factory=dict)
    objects: dict[bytes, list[int]] = field(default_factory=dict)
    keepers: dict[tuple[int, bytes], Keeper] = field(default_factory=dict)
    groups: dict[bytes, Group] = field(default_factory=dict)

    @classmethod
    def read(
        cls,
        archive: ReadableArchive,
        keys: Container[bytes],
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> "Deeds":
        """Read the log; objects are noted under `keys` only. Raises IntegrityError for an event that was altered.

        `progress` gets the number of records that were read and of all, as far as it is known, now and then.
        """
        found, key, total = cls(), archive.keyring.archive_key(derive.EVENT), archive.index.applied_seq + 1
        for position, header in archive.reader.records():
            if position.seq % _EVERY == 0:
                progress(position.seq, max(total, position.seq))
            if header.kind == Kind.OBJECT:
                if header.study_key_id in keys:
                    found.objects.setdefault(header.study_key_id, []).append(header.seq)
            elif header.kind in _TOLD:
                event = Event.open(key, archive.folder.archive_id, header, archive.reader.read_body(position))
                found._take(Noted(header.seq, header.serialize(), event))
        return found

    def _take(self, noted: Noted) -> None:
        kind, facts = noted.event.kind, noted.event.facts
        told = Openers.of(facts)
        self.keepers |= {(each.epoch, each.id): each for each in told.keepers}
        self.groups |= {each.group: each for each in told.groups}
        self.groups.pop(told.given_up, None)
        if kind in {Kind.SHRED_SCHEDULED, Kind.STUDY_REKEYED}:
            if kind == Kind.SHRED_SCHEDULED or noted.event.key_id not in self.gone:
                self.gone[noted.event.key_id] = noted  # a key that was shredded while it was replaced: shredded
        elif kind == Kind.EPOCH_DESTROYED:
            self.receipts[int(str(facts["epoch"])), bytes.fromhex(noted.text("keeper"))] = noted
        elif noted.text("what") == SHARES_BURNED:
            self.burned.setdefault(bytes.fromhex(noted.text("group")), []).append(noted)
        elif (what := _STEPS.get(noted.text("what"))) is not None:
            self.steps.setdefault(noted.text("request"), []).append((what, noted))
