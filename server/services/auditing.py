"""Read the audit trail: who did what with which objects, and what was done to the archive itself, in one list.

Rule: reading the trail is an act like any other: it is decided on, and recorded before the first entry is returned.
What waits in the keyring is listed, too, so that nothing that happened is missing because no writer ran since.
"""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Final

import msgspec

from coffer.archive.events.accesses import AccessRecorded, Act
from coffer.archive.events.event import Event, UnknownEvent
from coffer.archive.events.recorded import Recorded, parent_label
from coffer.archive.format.record import CLEAR_KINDS, Kind
from coffer.archive.store.folder import ArchiveFolder
from coffer.keys.mailbox import events
from coffer.server.access.action import Action
from coffer.server.access.principal import Principal
from coffer.server.audit.acts import act
from coffer.server.audit.auditor import MailboxAuditor
from coffer.server.config.settings import Config
from coffer.server.engine.archive import ReadableArchive
from coffer.server.engine.providers import open_keyring, provider_of
from coffer.server.mailbox.outbox import header_of

__all__ = ["Entry", "Wanted", "entries", "leave"]

_KINDS: Final = frozenset(Kind) - {Kind.OBJECT, Kind.STUDY_KEY_CREATED, *(Kind(k) for k in Kind if k in CLEAR_KINDS)}


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the trail: the number of its record (None: it waits in the keyring), its time (ms since 1970 UTC),
    and the act, or the event of the archive itself."""

    seq: int | None
    at_ms: int
    what: Act | Event | UnknownEvent

    @property
    def action(self) -> str:
        """The word for what was done."""
        if isinstance(self.what, Act):
            return self.what.action
        return self.what.code

    @property
    def who(self) -> str:
        """Who did it, as far as the entry says: user, account, AE title or name."""
        if isinstance(self.what, Act):
            found = self.what.who
            return found.user or found.account or found.ae_title or found.name
        officer = getattr(self.what, "by", None)
        return "" if officer is None else str(officer)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which entries: None stands for all. Times are milliseconds since 1970 UTC, the second one is not included."""

    patient: str | None = None
    study: str | None = None
    user: str | None = None
    ae_title: str | None = None
    action: str | None = None
    outcome: int | None = None
    from_ms: int | None = None
    until_ms: int | None = None

    def has(self, entry: Entry) -> bool:
        """Whether an entry is wanted."""
        is_then = (self.from_ms is None or entry.at_ms >= self.from_ms) and (
            self.until_ms is None or entry.at_ms < self.until_ms
        )
        if not is_then or self.action not in {None, entry.action}:
            return False
        return self._has_act(entry.what) if isinstance(entry.what, Act) else self._has_event(entry)

    def _has_act(self, what: Act) -> bool:
        who = what.who
        titles = {who.ae_title, what.target if what.resource == "destination" else who.ae_title}
        return (
            (self.patient is None or any(each.patient == self.patient for each in what.subjects))
            and (self.study is None or any(each.study == self.study for each in what.subjects))
            and (self.user is None or self.user in {who.user, who.account, who.name})
            and (self.ae_title is None or self.ae_title in titles)
            and self.outcome in {None, what.outcome}
        )

    def _has_event(self, entry: Entry) -> bool:
        """Events name no patient and no AE title, and are of what succeeded."""
        officer = getattr(entry.what, "by", None)
        names = set() if officer is None else {officer.name, officer.account}
        is_theirs = self.user is None or self.user in names
        return is_theirs and self.patient is self.study is self.ae_title is None and self.outcome in {None, 0}


def entries(archive: ReadableArchive, caller: Principal, wanted: Wanted) -> Iterator[Entry]:
    """The wanted entries, oldest first, once it is recorded that they are read. Raises AccessDeniedError, AuditError;
    IntegrityError for an entry that was altered."""
    archive.policy.require(caller, Action.READ_AUDIT)
    archive.audit.require([act(caller, Action.READ_AUDIT, stage="begun")])
    return (each for each in _all(archive) if wanted.has(each))


def _all(archive: ReadableArchive) -> Iterator[Entry]:
    left = {}  # read before the log: what is delivered meanwhile is in both
    for each in events.waiting(archive.keyring):
        key = archive.keyring.archive_key(parent_label(each.kind))
        recorded = Recorded.open(key, archive.folder.archive_id, header_of(each), each.body)
        left[_name(recorded)] = recorded
    for recorded in archive.events(_KINDS):
        if left:
            left.pop(_name(recorded), None)
        yield from _of(recorded, recorded.seq)
    for recorded in left.values():
        yield from _of(recorded, None)


def _name(recorded: Recorded) -> tuple[int, bytes]:
    return recorded.time_ms, msgspec.json.encode(recorded.event)


def _of(recorded: Recorded, seq: int | None) -> Iterator[Entry]:
    if isinstance(recorded.event, AccessRecorded):
        yield from (Entry(seq, each.at_ms, each) for each in recorded.event.acts)
    else:
        yield Entry(seq, recorded.time_ms, recorded.event)


def leave(config: Config, what: Act) -> None:
    """Leave a record in the keyring of an archive that is not open; durable on return. Raises AuditError, and as
    `open_keyring`."""
    folder = ArchiveFolder.open(config.archive)
    with closing(open_keyring(folder, provider_of(config.keys, folder.archive_id))) as keyring:
        MailboxAuditor(keyring).require([what])
