"""An open archive, in three types: one that is read, one whose keys may be changed, and the one that is written.

Rule: what cannot be done with an archive as it was opened is not an attribute of its type, so that nothing finds out at
run time. Whoever can write can change keys, and whoever can change keys can read: a function takes the first type that
suffices. They are made by `server.engine.opening`, and know nothing of messages.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

import structlog

from coffer.archive.body.sealed_body import BodyReader
from coffer.archive.event import NO_KEY, Event
from coffer.archive.format.entry import Position
from coffer.archive.format.record import Kind, RecordHeader
from coffer.archive.log import LogWriter
from coffer.archive.reader import LogReader
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.free_space import FreeSpace
from coffer.archive.tree.checkpoint import Checkpoint
from coffer.index.index import Index
from coffer.index.rebuild import CatchUp
from coffer.index.tables.rows import Version
from coffer.keys.clock import clock_ms
from coffer.keys.crypto import aead, derive
from coffer.keys.errors import UnavailableError
from coffer.keys.keyring.keyring import Keyring
from coffer.server.access.decision import policy_of
from coffer.server.config.settings import Config
from coffer.server.engine.bodies import Bodies
from coffer.server.engine.catch_up import IndexFeed
from coffer.server.engine.checkpoint_signer import Signatory
from coffer.server.engine.reconcile import Settlement
from coffer.server.engine.rollback import report_trouble, trouble_of
from coffer.server.engine.sealing import Intake
from coffer.server.engine.stats import ArchiveStats, stats_of
from coffer.server.mailbox import outbox, writer_process
from coffer.server.observe.metrics import Metrics

__all__ = ["SKIPPED", "KeyAdminArchive", "Parts", "ReadableArchive", "WritableArchive"]

_log = structlog.get_logger(__name__)
SKIPPED: Final = (
    "objects are stored and are not found, because they cannot be read or opened now: coffer verify --level decrypt"
    " names them"
)


@dataclass(frozen=True, slots=True)
class Parts:
    """What every open archive is made of. `opened` closes all of it, in the reverse of the order it was opened in.

    `key_trouble` says what is wrong with the keyring beside the log, a sentence each.
    """

    config: Config
    folder: ArchiveFolder
    keyring: Keyring
    reader: LogReader
    bodies: Bodies
    index: Index
    feed: IndexFeed
    key_trouble: list[str]
    opened: ExitStack


class ReadableArchive:
    """An archive that is read, beside whoever writes. Use as a context manager; safe to share between threads."""

    def __init__(self, parts: Parts, shortfall: UnavailableError | None) -> None:
        """`shortfall` says why the index lacks what is stored, if it does."""
        self.config = parts.config
        self.policy = policy_of(parts.config)
        self.folder = parts.folder
        self.keyring = parts.keyring
        self.reader = parts.reader
        self.bodies = parts.bodies
        self.index = parts.index
        self.limits = parts.feed.limits
        self.key_trouble = parts.key_trouble
        self.shortfall = shortfall
        self._feed = parts.feed
        self._opened = parts.opened

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of everything; where it was written, flush the index and sign a checkpoint before."""
        self._opened.close()

    def require_level(self) -> None:
        """Have every record that the log has by now in the index. Raises UnavailableError where it lacks some.

        Who decides by the index, and waited for somebody since it was opened, must not overlook what came meanwhile.
        """
        self.shortfall = self._feed.level(self.folder.lock)
        if self.shortfall is not None:
            raise self.shortfall

    def concerns(self) -> list[str]:
        """What a human should look at although the archive does its work."""
        found = [f"the keyring does not belong to this log: {what}: coffer keys audit" for what in self.key_trouble]
        if self.shortfall is not None:
            found.append(str(self.shortfall))
        skipped = self.index.skipped_objects
        return [*found, f"{skipped} {SKIPPED}"] if skipped else found

    def stats(self) -> ArchiveStats:
        """Totals as they are now."""
        return self._stats(None)

    def _stats(self, log: LogWriter | None) -> ArchiveStats:
        return stats_of(self.folder, self.keyring, self.index, self.reader, log=log, key_trouble=len(self.key_trouble))

    def events(self, kinds: frozenset[Kind]) -> Iterator[tuple[int, Event]]:
        """Every event of these kinds with its record number, oldest first. Raises IntegrityError for an altered one."""
        key = self.keyring.archive_key(derive.EVENT)
        for position, header in self.reader.records():
            if header.kind in kinds:
                yield header.seq, Event.open(key, self.folder.archive_id, header, self.reader.read_body(position))

    def open_body(self, study_key_id: bytes, version: Version) -> AbstractContextManager[BodyReader]:
        """A stored object's body. Raises IntegrityError, KeyUnavailableError, ShreddedError, NotFoundError."""
        return self.bodies.open(study_key_id, version.content_id, version.position)

    def open_record(self, position: Position, header: RecordHeader) -> AbstractContextManager[BodyReader]:
        """The body of an object's record. Raises as `open_body`."""
        return self._feed.open_record(position, header)


class KeyAdminArchive(ReadableArchive):
    """An archive whose keyring may be changed. The process that writes carries out the rest: log, index, old keys."""

    def enclosed(self, event: Event) -> tuple[bytes, bytes]:
        """The keyring's row for an event that is to be recorded together with a change of the keyring (`outbox`)."""
        return outbox.enclosed(event, self.keyring.archive_key(derive.EVENT), self.folder.archive_id)

    def wait_until(self, is_done: Callable[[], bool], seconds: float) -> bool:
        """Have what was begun with the keys carried out by the process that writes, waiting so long at most; whether
        it is done. Raises CofferError."""
        return writer_process.wait_until(self.folder, is_done, seconds)

    def require_writer(self, waits: str) -> None:
        """Raise WriterGoneError where nobody writes who could do what `waits` names."""
        writer_process.require(self.folder, waits)


class WritableArchive(KeyAdminArchive):
    """The archive as its one writer has it: log, index and keyring agree. A log that must not be written (damaged,
    rolled back, forked) may be open too, to be read: it refuses every append with that cause (`log.refusal`)."""

    def __init__(
        self, parts: Parts, log: LogWriter, signatory: Signatory, settlement: Settlement, metrics: Metrics
    ) -> None:
        super().__init__(parts, None)
        self.log = log
        self.metrics = metrics
        self.room = FreeSpace(self.folder.spool, self.config.storage.reserve_bytes)
        self.intake = Intake(self.config.limits, self.folder.archive_id, self.room)
        self._signatory = signatory
        self._settlement = settlement
        self._looked = False

    def catch_up(self) -> None:
        """Bring the index level with the log when it is opened, before anything is committed. Raises CofferError.

        Of a log that must not be written it shows what there is to read, and nothing of another one: the index is the
        log's, which is put right elsewhere, and follows that again. `shortfall` says what it lacks then.
        """
        if self.log.refusal is not None:
            self.shortfall = self._feed.catch_up_refused()
            return
        self._feed.catch_up()
        self._settlement.retry(self._feed.retry)

    def require_level(self) -> None:
        """As of any archive. The writer's index has what it commits: it lacks what it lacked when it was opened."""
        if self.shortfall is not None:
            raise self.shortfall

    def stats(self) -> ArchiveStats:
        return self._stats(self.log if self.log.refusal is None else None)

    def look_at_keys(self) -> None:
        """Tell, once the index is loaded, what is wrong with keyring and index together; see `key_trouble`."""
        if self._looked or not self.index.is_loaded or self.log.refusal is not None:
            return
        self._looked = True
        found = trouble_of(self.keyring, self.index.stats().unreadable_studies)
        report_trouble(found)
        self.key_trouble += found

    def settle(self) -> None:
        """Finish what this or another process began with the keys: durable on return. Raises as `Settlement.settle`.

        Now and then what could not be read is tried again; what is committed reaches the index on disk.
        """
        self._settlement.settle()
        self._settlement.retry(self._feed.retry)
        self.index.follow()

    def wait_until(self, is_done: Callable[[], bool], seconds: float) -> bool:  # noqa: ARG002  nobody to wait for
        """Carry out what was begun with the keys; whether it is done. Raises CofferError.

        On a full volume it is not done, and waits for who opens the archive when there is room.
        """
        try:
            self.settle()
        except UnavailableError as error:
            if self.log.accepts_events():
                raise
            _log.error("a change of keys is not finished", cause=str(error), way_out=error.hint())
        return is_done()

    def require_writer(self, waits: str) -> None:
        """Return: this is who writes."""

    def deliver(self) -> int:
        """Move the events that wait in the keyring into the log, durable on return; how many there were."""
        return self._settlement.deliver()

    def sign_checkpoint(self) -> Checkpoint | None:
        """Sign the log as it is; durable on return. None where nothing was added. Raises as `Signatory.sign`."""
        return self._signatory.sign()

    def record_event(self, kind: Kind, facts: Mapping[str, object], key_id: bytes = NO_KEY) -> Position:
        """Append what an administrator did as a sealed event; durable on return. Raises UnavailableError."""
        event, key = Event(kind, clock_ms(), facts, key_id), self.keyring.archive_key(derive.EVENT)
        return self.log.append([event.seal(key, self.folder.archive_id, os.urandom(aead.SALT))])[0]

    def rebuild_index(self, progress: Callable[[int, int], None]) -> CatchUp:
        """Empty the index and fill it from the log; `progress` gets records done and in all. Durable on return."""
        return self._feed.rebuild(self.log.next_seq, progress)
