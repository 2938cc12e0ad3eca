"""An open archive, in three types: one that is read, one whose keys may be changed, and the one that is written.

Rule: an operation that an archive was not opened for is not an attribute of its type, so that mypy finds the misuse
and not the run time. A writer can change keys, and what can change keys can read: a function takes the first type that
suffices. `server.engine.opening` makes them; they know nothing of messages.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from coffer.archive.body.sealed_body import BodyReader
from coffer.archive.events import codec
from coffer.archive.events.clocks import LogEpochBegun
from coffer.archive.events.event import Event
from coffer.archive.events.fields import TreeHead
from coffer.archive.events.marks import MarkRenewed
from coffer.archive.events.officer import Officer
from coffer.archive.events.recorded import NO_KEY, Occurrence, Recorded
from coffer.archive.events.users import UsersLoaded
from coffer.archive.format.entry import Position
from coffer.archive.format.record import Kind, RecordHeader
from coffer.archive.log import LogWriter
from coffer.archive.reader import LogReader
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.free_space import FreeSpace
from coffer.archive.tree.checkpoint import Checkpoint
from coffer.archive.tree.marked_log import holds_marked_records
from coffer.index.index import Index
from coffer.index.rebuild import CatchUp
from coffer.index.tables.rows import Version
from coffer.keys.clock import clock_ms
from coffer.keys.crypto import derive
from coffer.keys.errors import IntegrityError, UnavailableError
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.values.waiting_event import WaitingEvent
from coffer.server.access.decision import policy_of
from coffer.server.anchor.mark_file import MarkFile
from coffer.server.config.settings import Config
from coffer.server.copies import register as copies
from coffer.server.engine.bodies import Bodies
from coffer.server.engine.catch_up import IndexFeed
from coffer.server.engine.checkpoint_signer import ArchiveSigner
from coffer.server.engine.reconcile import Reconciler
from coffer.server.engine.rollback import Missed, report_trouble, trouble_of
from coffer.server.engine.sealing import Intake
from coffer.server.engine.stats import ArchiveStats, stats_of
from coffer.server.mailbox import outbox, users_record, writer_process
from coffer.server.observe.logs import get_logger

if TYPE_CHECKING:  # for types alone: workers and most commands count nothing and do without prometheus_client
    from coffer.server.observe.metrics import Metrics

_BUSY_SECONDS: Final = 2.0  # how long a question waits for the check of the index, which is short for most archives
_BUSY_POLL_SECONDS: Final = 0.01

__all__ = ["SKIPPED", "ArchiveParts", "KeyAdminArchive", "ReadableArchive", "WritableArchive"]

_log = get_logger()
SKIPPED: Final = (
    "stored objects are not found, because they cannot be read or decrypted now: coffer verify --level decrypt"
    " lists them"
)


@dataclass(frozen=True, slots=True)
class ArchiveParts:
    """What every open archive is made of. `opened` closes all of it, in the reverse order of opening.

    `late` is what the keyring has missed of the log, `key_trouble` lists how it contradicts it, a sentence each.
    """

    config: Config
    folder: ArchiveFolder
    keyring: Keyring
    reader: LogReader
    bodies: Bodies
    index: Index
    feed: IndexFeed
    key_trouble: list[str]
    mark: MarkFile
    late: Missed
    opened: ExitStack


class ReadableArchive:
    """An archive that is read, beside a possible writer. Use as a context manager; safe to share between threads."""

    def __init__(self, parts: ArchiveParts, shortfall: UnavailableError | None) -> None:
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
        self.mark = parts.mark
        self.shortfall = shortfall
        self.late = parts.late
        self._feed = parts.feed
        self._opened = parts.opened

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close everything; an archive that was written first flushes the index and signs a checkpoint."""
        self._opened.close()

    def missing_users(self) -> UsersLoaded | None:
        """As `server.mailbox.users_record.missing_users`, of this archive."""
        return users_record.missing_users(self.keyring, self.reader, self.policy.directory)

    def require_users(self) -> None:
        """Raise ConfigError where the list of users was taken away; whoever opens an archive for somebody asks this."""
        if (last := self.missing_users()) is not None:
            raise users_record.users_gone(last, self.config.access.users)

    def require_level(self) -> None:
        """Bring the index up to date with the log. Raises UnavailableError if it still lacks records.

        A caller that decides by the index, and has waited for input since opening it, must not miss what arrived
        meanwhile.
        """
        self.shortfall = self._feed.level(self.folder.lock)
        if self.shortfall is not None:
            raise self.shortfall

    @property
    def last_record_ms(self) -> int | None:
        """The time of the log's last record, in ms since 1970 UTC: the writer's now, otherwise that at opening. None if
        none is known."""
        return self.late.last_ms

    def concerns(self) -> list[str]:
        """What an administrator should look at although the archive works."""
        found = [f"the keyring does not belong to this log: {what}: coffer keys audit" for what in self.key_trouble]
        found += [*self.mark.concerns(), *self.contradictions(), *copies.concerns(self.keyring)]
        if self.shortfall is not None:
            found.append(str(self.shortfall))
        skipped = self.index.skipped_objects
        return [*found, f"{skipped} {SKIPPED}"] if skipped else found

    def checking(self) -> Iterator[None]:
        """Yield None periodically while a question cannot be answered yet: never, here. The index of a command checks
        what it reads."""
        return iter(())

    def contradictions(self) -> list[str]:
        """What to look into, for each index that contradicted the log and was kept. Raises CofferError."""
        return self._feed.contradictions()

    def stats(self) -> ArchiveStats:
        """Current totals."""
        return self._stats(None)

    def _stats(self, log: LogWriter | None) -> ArchiveStats:
        return stats_of(self.folder, self.keyring, self.index, self.reader, log=log, key_trouble=len(self.key_trouble))

    def events(self, kinds: frozenset[Kind], from_seq: int = 0) -> Iterator[Recorded]:
        """Every event in records of these kinds, from record `from_seq` on, oldest first. Raises IntegrityError for an
        altered one."""
        key = self.keyring.archive_key(derive.EVENT)
        for position, header in self.reader.records(from_seq):
            if header.kind in kinds:
                yield Recorded.open(key, self.folder.archive_id, header, self.reader.read_body(position))

    def open_body(self, study_key_id: bytes, version: Version) -> AbstractContextManager[BodyReader]:
        """A stored object's body. Raises IntegrityError, KeyUnavailableError, ShreddedError, NotFoundError."""
        return self.bodies.open(study_key_id, version.content_id, version.position)

    def open_record(self, position: Position, header: RecordHeader) -> AbstractContextManager[BodyReader]:
        """The body of an object's record. Raises as `open_body`."""
        return self._feed.open_record(position, header)


class KeyAdminArchive(ReadableArchive):
    """An archive whose keyring may be changed. The writer process does the rest: log, index, old keys."""

    def enclosed(self, event: Occurrence) -> WaitingEvent:
        """An event sealed, to be recorded together with a change of the keyring (see `outbox`)."""
        return outbox.enclosed(self.keyring, event)

    def wait_until(self, is_done: Callable[[], bool], seconds: float) -> bool:
        """Wait at most this long for the writer process to carry out a change of the keys; returns whether it is done.
        Raises CofferError."""
        return writer_process.wait_until(self.folder, is_done, seconds)

    def require_writer(self, waits: str) -> None:
        """Raise WriterGoneError if no writer runs that could do what `waits` names."""
        writer_process.require(self.folder, waits)


class WritableArchive(KeyAdminArchive):
    """The archive as opened by its one writer: log, index and keyring agree. A log that must not be written (damaged,
    rolled back, forked) may be opened for reading too: it refuses every append with that cause (`log.refusal`)."""

    def __init__(
        self, parts: ArchiveParts, log: LogWriter, signer: ArchiveSigner, reconciler: Reconciler, metrics: "Metrics"
    ) -> None:
        super().__init__(parts, None)
        self.log = log
        self.metrics = metrics
        self.room = FreeSpace(self.folder.spool, self.config.storage.reserve_bytes)
        self.intake = Intake(self.config.limits, self.folder.archive_id, self.room)
        self._signer = signer
        self._reconciler = reconciler
        self._checked_keys = False
        self._is_checked = threading.Event()
        self._is_checked.set()

    def expect_check(self) -> None:
        """Answer no question before `checked`: somebody checks the whole index, and compares it with the log."""
        self._is_checked.clear()

    def check_index(self, go_on: Callable[[], bool]) -> str | None:
        """Check the whole index, and compare it with the log; returns what is wrong, or None (also where `go_on` says
        False). Questions are answered from then on, or refused: see `Index.complaint`. Raises CofferError."""
        what: str | None = None
        try:
            for _ in self.index.loading():
                if not go_on():
                    break
            else:
                what = self.index.complaint(self.reader, go_on)
        except IntegrityError:
            self._is_checked.set()  # questions now fail with this error
            raise
        if go_on():
            self._is_checked.set()
        return what

    @property
    def is_checked(self) -> bool:
        """Whether questions are answered."""
        return self._is_checked.is_set()

    def checking(self) -> Iterator[None]:
        """Yield None periodically while the index is being checked, for a moment; then raise UnavailableError."""
        until = time.monotonic() + _BUSY_SECONDS
        while not self._is_checked.wait(_BUSY_POLL_SECONDS):
            if time.monotonic() > until:
                raise UnavailableError(
                    "busy: the index is being checked after the start", hint="ask again later: /readyz says when"
                )
            yield None

    def catch_up(self) -> None:
        """Bring the index up to date with the log at opening, before anything is committed. Raises CofferError.

        For a log that must not be written, the index covers what can be read of it, and nothing of another log; it
        follows again once the log is repaired. `shortfall` then says what the index lacks.
        """
        if self.log.refusal is not None:
            self.shortfall = self._feed.catch_up_refused()
            return
        self._feed.catch_up()
        self._reconciler.retry(self._feed.retry)

    def require_level(self) -> None:
        """As for any archive. The writer's index has all that it commits; it lacks only what it lacked at opening."""
        if self.shortfall is not None:
            raise self.shortfall

    @property
    def last_record_ms(self) -> int | None:
        """As for any archive. A log that refuses to be written knows no end of its own."""
        return self.late.last_ms if self.log.refusal is not None else self.log.last_ms

    def stats(self) -> ArchiveStats:
        """As for any archive; the writer need not count the log's records."""
        return self._stats(self.log if self.log.refusal is None else None)

    def check_keys(self) -> None:
        """Once the index is loaded, compare it with the keyring and log contradictions; see `key_trouble`."""
        if self._checked_keys or not self.index.is_loaded or self.log.refusal is not None:
            return
        self._checked_keys = True
        found = trouble_of(self.keyring, self.index.stats().unreadable_studies)
        report_trouble(found)
        self.key_trouble += found

    def reconcile(self) -> None:
        """Finish key changes that this or another process began; durable on return. Raises as `Reconciler.reconcile`.

        Periodically retries objects that could not be read; committed objects reach the index on disk.
        """
        self._reconciler.reconcile()
        self._reconciler.retry(self._feed.retry)
        self.index.follow()

    def wait_until(self, is_done: Callable[[], bool], seconds: float) -> bool:  # noqa: ARG002  this is the writer
        """Carry out a change of the keys that was begun; returns whether it is done. Raises CofferError.

        On a full volume it remains to be done by the next opening that finds room.
        """
        try:
            self.reconcile()
        except UnavailableError as error:
            if self.log.accepts_events():
                raise
            _log.error(
                "a change of keys is not finished",
                name="keys.settle_failed",
                cause=str(error),
                remedy=error.hint(),
            )
        return is_done()

    def require_writer(self, waits: str) -> None:
        """Return: this is the writer."""

    def deliver(self) -> int:
        """Move the events waiting in the keyring into the log, durable on return; returns how many there were."""
        return self._reconciler.deliver()

    def sign_checkpoint(self) -> Checkpoint | None:
        """Sign the log as it is; durable on return. None if nothing was added. Raises as `ArchiveSigner.sign`."""
        return self._signer.sign()

    def renew_mark(self, reason: str, officer: Officer) -> None:
        """Make the mark outside the folder anew, of the archive as it is now, with an event of who decided that and
        why; both durable on return, the event first. Where the log is not the one that the mark names, it goes on in a
        new epoch. Raises CofferError."""
        self.sign_checkpoint()
        before, signed = self.mark.find(), self.log.signed
        if before is not None and not holds_marked_records(self.folder, before):
            begun = LogEpochBegun(epoch=self.log.epoch + 1, holder=socket.gethostname(), why="loss")
            self.index.cover(self.log.begin_epoch(codec.encode(begun)).id, self.log.tip)
        assert signed is not None  # a log that is open for writing has one
        left = TreeHead(records=signed.size, root=signed.root.hex())
        was = None if before is None else TreeHead(records=before.size, root=before.root.hex())
        self.record_event(MarkRenewed(old_mark=was, mark=left, reason=reason.strip(), by=officer))
        self.sign_checkpoint()
        self._signer.renew_mark()

    def record_event(self, event: Event, key_id: bytes = NO_KEY) -> Position:
        """Append a sealed event, of now, about a study key; durable on return. Raises UnavailableError, FormatError."""
        told, key = Occurrence(event, clock_ms(), key_id), self.keyring.archive_key(derive.EVENT)
        return self.log.append([told.seal(key, self.folder.archive_id, os.urandom)])[0].position

    def rebuild_index(self, progress: Callable[[int, int], None]) -> CatchUp:
        """Empty the index and fill it from the log; `progress` gets records done and total. Durable on return."""
        return self._feed.rebuild(self.log.next_seq, progress)
