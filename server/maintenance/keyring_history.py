"""What the whole log says of holds, requests, epochs and shares, held against a keyring, in both directions.

Rule: reads only, beside a possible writer. A hold of the log that the keyring lacks was taken away, one that the log
never had was planted, or comes from a copy of the archive. Opening compares the newest records only
(`server.engine.rollback`). What was lost with records, and accepted (`coffer recover accept-loss`), is not held against
the keyring.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Final

from coffer.archive.events.epochs import EpochRotated
from coffer.archive.events.event import Event, UnknownEvent
from coffer.archive.events.recorded import Recorded
from coffer.archive.events.repairs import LossAccepted
from coffer.archive.format.entry import Position
from coffer.archive.format.record import Kind, RecordHeader
from coffer.archive.reader import LogReader
from coffer.archive.store.folder import ArchiveFolder
from coffer.keys.crypto import derive
from coffer.keys.keyring.keepers import Keeper
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.mailbox import events, officer_records
from coffer.keys.values.officer_record import RecordKind
from coffer.server.engine.openers import OpenerHistory
from coffer.server.engine.rollback import note_in
from coffer.server.mailbox import outbox

__all__ = ["EVENTS", "LoggedEvents", "contradictions"]

EVENTS: Final = frozenset({Kind.SHRED_SCHEDULED, Kind.EPOCH_DESTROYED, Kind.KEYRING_ROTATED, Kind.STATE, Kind.REPAIR})
_TRIES: Final = 10
_NAMES: Final = {RecordKind.HOLD: "hold", RecordKind.REQUEST: "request to shred", RecordKind.COPY: "copy"}


@dataclass(slots=True)
class LoggedEvents:
    """The records below `end` that may say something of a keyring; whoever reads the log anyway fills it."""

    end: int = 0
    found: list[tuple[Position, RecordHeader]] = field(default_factory=list)

    def add(self, position: Position, header: RecordHeader) -> None:
        """Add the record `end`."""
        self.end = position.seq + 1
        if header.kind in EVENTS:
            self.found.append((position, header))

    def read_on(self, reader: LogReader) -> None:
        """Add the records from `end` on. Raises IntegrityError where the log is damaged."""
        for position, header in reader.records(self.end):
            self.add(position, header)


def contradictions(folder: ArchiveFolder, keyring: Keyring, logged: LoggedEvents) -> list[str]:
    """Return how an open keyring and the log contradict each other, a sentence each. Reads the log from where `logged`
    ends, and again where a change came in between. Raises IntegrityError for a damaged log or an altered event."""
    reader = LogReader(folder)
    try:
        for _ in range(_TRIES):
            before = keyring.state()
            logged.read_on(reader)
            found = list(_History.of(folder, keyring, reader, logged).contradictions(keyring))
            if not found or keyring.state() == before:
                break
        return found
    finally:
        reader.close()


@dataclass(slots=True)
class _History:
    """Which holds and requests are in force by the log, which epochs were made, and what opens them; and whether some
    of it was lost with records."""

    notes: dict[tuple[RecordKind, str], bool] = field(default_factory=dict)
    openers: OpenerHistory = field(default_factory=OpenerHistory)
    epochs: set[int] = field(default_factory=set)
    is_cut: bool = False

    @classmethod
    def of(cls, folder: ArchiveFolder, keyring: Keyring, reader: LogReader, logged: LoggedEvents) -> "_History":
        """Read the events, and those that still wait in the keyring."""
        key, made = keyring.archive_key(derive.EVENT), cls()
        in_log = ((header, partial(reader.read_body, position)) for position, header in logged.found)
        waiting = ((outbox.header_of(each), partial(bytes, each.body)) for each in events.waiting(keyring))
        for header, body in chain(in_log, waiting):
            made.add(Recorded.open(key, folder.archive_id, header, body()).event)
        return made

    def add(self, event: Event | UnknownEvent) -> None:
        if isinstance(event, LossAccepted):
            self.notes, self.openers, self.epochs, self.is_cut = {}, OpenerHistory(), set(), True
            return
        self.openers.add(event)
        if isinstance(event, EpochRotated):
            self.epochs.add(event.epoch)
        if (note := note_in(event)) is not None:
            self.notes[note[0]] = note[1]

    def contradictions(self, keyring: Keyring) -> Iterator[str]:
        """Yield what differs, a sentence each."""
        for kind, name in _NAMES.items():
            logged = {note: "" for (of, note), counts in self.notes.items() if of is kind and counts}
            yield from self._compared(name, logged, dict.fromkeys(officer_records.ids(keyring, kind), ""))
        under_way = {keyring.epoch} if keyring.partly_rotated() else set()  # its event comes with its last step
        known = {1} | under_way  # made with the keyring, or not recorded yet
        there = [each.epoch for each in keyring.epochs()]
        yield from self._compared(
            "epoch", dict.fromkeys(map(str, self.epochs | known), ""), dict.fromkeys(map(str, there), "")
        )
        keepers = [each for each in keyring.keepers() if each.epoch not in known or each.is_ended]
        logged_keepers = [each for each in self.openers.keepers.values() if each.epoch not in known or each.is_ended]
        yield from self._compared("the secret", _states(logged_keepers), _states(keepers))
        groups = {each.group.hex(): each.encode().hex() for each in keyring.share_groups()}
        logged_groups = {each.group.hex(): each.encode().hex() for each in self.openers.groups.values()}
        yield from self._compared("group of shares", logged_groups, groups)
        burned = {key.hex(): bin(each.numbers) for key, each in keyring.burned().items()}
        logged_burned = {key.hex(): bin(each.numbers) for key, each in self.openers.burned.items()}
        yield from self._compared("what was burned of group", logged_burned, burned)

    def _compared(self, what: str, logged: Mapping[str, str], there: Mapping[str, str]) -> Iterator[str]:
        """Compare what is in force by the log with what the keyring has, by name and state."""
        for name in sorted(logged.keys() - there.keys()):
            yield f"{what} {name} is in the log, and the keyring lacks it"
        if self.is_cut:
            return
        for name in sorted(there.keys() - logged.keys()):
            yield f"{what} {name} is in the keyring, and not in force by the log"
        for name in sorted(name for name in logged.keys() & there.keys() if logged[name] != there[name]):
            yield f"{what} {name} is another in the keyring than by the log"


def _states(keepers: Iterable[Keeper]) -> dict[str, str]:
    return {f"{each.id.hex()} of epoch {each.epoch}": str(each.is_ended) for each in keepers}
