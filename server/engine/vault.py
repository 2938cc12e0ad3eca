"""Everything below the services, opened in the right order: folder, lock, keys, log, index, limits.

Rule: it knows nothing of messages. With `write` it holds the one writer's lock, and log and index agree before it is
ready; without, it reads beside whoever writes. Key, record, index: in that order things become durable.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Self

import structlog

from coffer.archive.body.allocator import keep_blocks
from coffer.archive.body.sealed_body import BodyReader
from coffer.archive.body.spool import clear_stale
from coffer.archive.event import NO_KEY, Event
from coffer.archive.format.entry import Entry, Position
from coffer.archive.format.record import Kind, RecordHeader
from coffer.archive.log import LogWriter
from coffer.archive.reader import LogReader
from coffer.archive.repair.deferred_events import forget, read_pending
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.free_space import Room
from coffer.archive.store.writer_lock import WriterLock
from coffer.archive.tree.checkpoint import Checkpoint, witnessed
from coffer.index import rebuild
from coffer.index.index import Index
from coffer.index.instance.identity import Rules
from coffer.index.tables.rows import Version
from coffer.keys.clock import clock_ms
from coffer.keys.crypto import derive
from coffer.keys.disk.durable import remove_folder
from coffer.keys.disk.lock import holder
from coffer.keys.errors import (
    CofferError,
    FormatError,
    HistoryError,
    IntegrityError,
    ShreddedError,
    UnavailableError,
)
from coffer.keys.keyring import rekey
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.providers.routing import Patience, Patient
from coffer.server.access.decision import policy_of
from coffer.server.config.settings import Config
from coffer.server.engine.bodies import Bodies
from coffer.server.engine.catch_up import level
from coffer.server.engine.checkpoint_signer import Signatory, signers_of
from coffer.server.engine.providers import open_keyring, provider_of, settings_of
from coffer.server.engine.reconcile import Settlement
from coffer.server.engine.rekey import Rekeyer
from coffer.server.engine.rollback import missed, shred_again, trouble_of
from coffer.server.engine.sealing import Intake
from coffer.server.engine.stats import ArchiveStats, stats_of
from coffer.server.mailbox import outbox
from coffer.server.observe import logs
from coffer.server.observe.metrics import Metrics

_log = structlog.get_logger(__name__)
_SALT_BYTES = 24
Waiting = Callable[[UnavailableError, float], None]
SKIPPED = (
    "objects are stored and are not found, because they cannot be read or opened now: coffer verify --level decrypt"
    " names them"
)


class Vault:
    """An open archive. Use as a context manager; safe to share between threads."""

    def __init__(
        self,
        config: Config,
        *,
        write: bool,
        metrics: Metrics | None = None,
        may_refuse: bool = False,
        waiting: Waiting | None = None,
        change_keys: bool = False,
        fresh_index: bool = False,
    ) -> None:
        """Open the archive. Raises NotFoundError, ConfigError, LockedError, KeyUnavailableError, IntegrityError.

        With `may_refuse`, a log that must not be written (damaged, rolled back, forked) is opened all the same: it is
        read, and refuses every append with that cause. With `waiting`, a key provider that cannot be reached is waited
        for as long as the configuration says, and `waiting` gets the cause and the seconds left at each try. With
        `change_keys` and without `write`, the keyring can be changed beside the process that writes, which then does
        the rest (`settle`). With `write` and `fresh_index`, whatever lies where the index is kept is removed unread.
        Without `write`, `shortfall` says why the index lacks what is stored, if it does.
        """
        keep_blocks()
        self.config = config
        self.metrics = metrics or Metrics()
        self.policy = policy_of(config)
        self.folder = ArchiveFolder.open(config.archive)
        self.room = Room(self.folder.spool, config.storage.reserve_bytes)
        self.intake = Intake(config.limits, self.folder.archive_id, self.room)
        self.limits = self.intake.header_limits
        self._writer: LogWriter | None = None
        self._looked = False
        self.shortfall: UnavailableError | None = None
        with ExitStack() as opened:
            if write:
                command = " ".join(["coffer", *sys.argv[1:2]])
                opened.enter_context(WriterLock(self.folder.lock, command, clock_ms(), settings_of(config.keys)))
                self.folder.complete(but=self.folder.index.name if fresh_index else "")
                clear_stale(self.folder.spool)
            self.keyring = self._open_keyring(waiting, readonly=not (write or change_keys))
            opened.callback(self.keyring.close)
            logs.use_id_key(self.keyring.archive_key(derive.LOG_ID))
            self.reader = LogReader(self.folder)
            opened.callback(self.reader.close)
            late = missed(self.folder, self.keyring, self.reader, alone=write)
            self.key_trouble = late.told(self.keyring.epoch)
            if write:
                shred_again(late, self.keyring)
            late.require_none_shredded()
            if change_keys and not write:
                late.require_newest(self.keyring.epoch)
            self.bodies = Bodies(self.folder.archive_id, self.reader, self.keyring.study)
            if write:
                self._writer = self._open_writer(late.objection(self.keyring.epoch), may_refuse=may_refuse)
                opened.callback(self._close_writer, self._writer)
            self._open_index(opened, write=write, fresh=fresh_index)
            self._tell(self.key_trouble)
            self.look_at_keys()
            self._opened = opened.pop_all()

    def _open_index(self, opened: ExitStack, *, write: bool, fresh: bool) -> None:
        """Open the index and bring it level with the log."""
        if write and fresh:
            remove_folder(self.folder.index)
        self.index = Index.open(self.folder.index, self.keyring, rules_of(self.config), readonly=not write)
        opened.callback(self.index.close)
        if not write:
            self.shortfall = self._level()
            return
        self._settlement = Settlement(self.keyring, self.log, self.reader, self.index, self._signatory)
        if self.log.refusal is not None:
            self._catch_up_refused()
            return
        self._settle_at_opening()
        self._change_over()
        self._report(rebuild.catch_up(self.index, self.reader, self._open_counted, self.limits))
        self._settlement.retry(self._retry)

    def _settle_at_opening(self) -> None:
        """Finish what was begun; on a volume without room even for that, it waits, and what is stored is read."""
        try:
            self._record_pending()
            self._settlement.settle()
        except UnavailableError as error:
            if self.log.takes_events():
                raise
            _log.error("a change of keys is not finished", cause=str(error), way_out=error.hint())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Sign a checkpoint if anything was written, flush the index and let go of everything."""
        self._opened.close()

    @property
    def log(self) -> LogWriter:
        """The writer. Only where the archive was opened with `write`."""
        assert self._writer is not None, "the archive is open for reading only"
        return self._writer

    @property
    def writes(self) -> bool:
        """Whether it was opened as the one writer."""
        return self._writer is not None

    def _open_keyring(self, waiting: Waiting | None, *, readonly: bool) -> Keyring:
        """Open the keyring with all configured providers; patience ends when it is open."""
        keys = self.config.keys
        provider = provider_of(keys, self.folder.archive_id)
        if waiting is None:
            return open_keyring(self.folder, provider, readonly=readonly)
        patience = Patience(time.monotonic() + keys.wait_seconds, waiting)
        try:
            return open_keyring(self.folder, Patient(provider, patience), readonly=readonly)
        finally:
            patience.end = 0.0

    def _open_writer(self, objection: HistoryError | None, *, may_refuse: bool) -> LogWriter:
        storage = self.config.storage
        writer = LogWriter(
            self.folder,
            now_ms=clock_ms,
            segment_bytes=storage.segment_bytes,
            reserve_bytes=storage.reserve_bytes,
            witness=witnessed(self.keyring.witness(), self.folder),
            signers=signers_of(self.keyring, self.folder.origin),
            objection=objection,
            may_refuse=may_refuse,
        )
        self._signatory = Signatory(self.folder, self.keyring, writer)
        if writer.refusal is not None:
            _log.error("nothing is stored", cause=str(writer.refusal), way_out=writer.refusal.hint())
        if writer.cut_bytes:
            _log.warning(
                "an unfinished write was cut off and kept in lost+found",
                bytes=writer.cut_bytes,
                records=writer.cut_records,
            )
        return writer

    def _record_pending(self) -> None:
        """Give what was repaired or recovered by hand its record."""
        try:
            deeds = read_pending(self.folder)
        except FormatError as error:  # it may be anybody's: a finding, and no reason to store nothing
            _log.error("what was done by hand is not recorded", cause=str(error), way_out=error.hint())
            return
        for deed in deeds:
            if deed.came_about(self.folder):
                self.record_event(Kind.REPAIR, deed.facts)
                _log.warning("recorded what was done by hand", **deed.facts)
        if deeds:
            self.sign_checkpoint()
            forget(self.folder)

    def look_at_keys(self) -> None:
        """Tell, once the index is loaded, what is wrong with keyring and index together; see `key_trouble`."""
        if self._looked or not self.index.is_loaded or not self.writes or self.log.refusal is not None:
            return
        self._looked = True
        found = trouble_of(self.keyring, self.index.stats().unreadable_studies)
        self._tell(found)
        self.key_trouble += found

    @staticmethod
    def _tell(found: list[str]) -> None:
        for what in found:
            _log.error("the keyring does not belong to this log", cause=what, way_out="coffer keys audit")

    def settle(self) -> None:
        """Finish what this or another process began with the keys: durable on return. Raises as `Settlement.settle`.

        Now and then what could not be read is tried again; what is committed reaches the index on disk.
        """
        self._settlement.settle()
        self._settlement.retry(self._retry)
        self.index.follow()

    def require_level(self) -> None:
        """Have every record that the log has by now in the index. Raises UnavailableError where it lacks some.

        Who decides by the index, and waited for somebody since it was opened, must not overlook what came meanwhile.
        """
        self.shortfall = None if self.writes else self._level()
        if self.shortfall is not None:
            raise self.shortfall

    def _level(self) -> UnavailableError | None:
        return level(self.index, self.reader, self._open_counted, self.limits, self._is_written)

    def _is_written(self) -> bool:
        return holder(self.folder.lock) is not None

    def _retry(self, most: int) -> rebuild.CatchUp:
        return rebuild.retry(self.index, self.reader, self._open_counted, self.limits, most=most)

    def _catch_up_refused(self) -> None:
        """Of a log that must not be written, show what there is to read, and nothing of another one: the index is the
        log's, which is put right elsewhere, and follows that again."""
        try:
            self._report(rebuild.catch_up(self.index, self.reader, self._open_counted, self.limits))
        except (IntegrityError, UnavailableError) as error:
            self.shortfall = UnavailableError(
                f"the index lacks what cannot be read of the log: {error}", hint=error.hint()
            )
            _log.error("the index lacks what cannot be read of the log", cause=str(error), way_out=error.hint())

    def concerns(self) -> list[str]:
        """What a human should look at although the archive does its work."""
        found = [f"the keyring does not belong to this log: {what}: coffer keys audit" for what in self.key_trouble]
        if self.shortfall is not None:
            found.append(str(self.shortfall))
        skipped = self.index.skipped_objects
        return [*found, f"{skipped} {SKIPPED}"] if skipped else found

    def deliver(self) -> int:
        """Move the events that wait in the keyring into the log, durable on return; how many there were."""
        return self._settlement.deliver()

    def _change_over(self) -> None:
        """Let the index lead to the records that count where a stop came between the two."""
        try:
            Rekeyer(self).change_over()
        except CofferError as error:  # whoever carries it out tells; the archive opens all the same
            _log.error("a rekey is not finished", cause=str(error), way_out=error.hint())

    def _close_writer(self, writer: LogWriter) -> None:
        try:
            if writer.refusal is None:
                self.sign_checkpoint()
        except CofferError as error:
            _log.error("no checkpoint was signed", cause=str(error), way_out=error.hint())
        writer.close()

    def sign_checkpoint(self) -> Checkpoint | None:
        """Sign the log as it is; durable on return. None where nothing was added. Raises as `Signatory.sign`."""
        return self._signatory.sign()

    def _report(self, done: rebuild.CatchUp) -> None:
        missing = sorted([*done.damaged, *done.keyless])
        if done.applied or missing or done.emptied:
            _log.info("index caught up with the log", applied=done.applied, emptied=done.emptied)
        if missing:
            _log.error("records that cannot be opened", count=len(missing), first=missing[0])

    def rebuild_index(self, progress: Callable[[int, int], None]) -> rebuild.CatchUp:
        """Empty the index and fill it from the log; `progress` gets records done and in all. Durable on return."""
        total = self.log.next_seq
        report = rebuild.rebuild(self.index, _Counted(self.reader, progress, total), self._open_counted, self.limits)
        progress(total, total)
        self._report(report)
        return report

    def record_event(self, kind: Kind, facts: Mapping[str, object], key_id: bytes = NO_KEY) -> Position:
        """Append what an administrator did as a sealed event; durable on return. Raises UnavailableError."""
        return self.log.append([self._entry(Event(kind, clock_ms(), facts, key_id))])[0]

    def enclosed(self, event: Event) -> tuple[bytes, bytes]:
        """The keyring's row for an event that is to be recorded together with a change of the keyring (`outbox`)."""
        return outbox.enclosed(event, self.keyring.archive_key(derive.EVENT), self.folder.archive_id)

    def _entry(self, event: Event) -> Entry:
        return event.seal(self.keyring.archive_key(derive.EVENT), self.folder.archive_id, os.urandom(_SALT_BYTES))

    def events(self, kinds: frozenset[Kind]) -> Iterator[tuple[int, Event]]:
        """Every event of these kinds with its record number, oldest first. Raises IntegrityError for an altered one."""
        key = self.keyring.archive_key(derive.EVENT)
        for position, header in self.reader.records():
            if header.kind in kinds:
                yield header.seq, Event.open(key, self.folder.archive_id, header, self.reader.read_body(position))

    @contextmanager
    def open_body(self, study_key_id: bytes, version: Version) -> Iterator[BodyReader]:
        """A stored object's body. Raises IntegrityError, KeyUnavailableError, ShreddedError, NotFoundError."""
        with self.bodies.open(study_key_id, version.content_id, version.position) as body:
            yield body

    @contextmanager
    def _open_counted(self, position: Position, header: RecordHeader) -> Iterator[BodyReader]:
        """As `open_record`, but raises ShreddedError for a record whose object counts in another one
        (`keys.keyring.rekey`)."""
        if header.study_key_id in rekey.passed_over(self.keyring):
            raise ShreddedError("this object stands in another record, under another key")
        with self.open_record(position, header) as body:
            yield body

    @contextmanager
    def open_record(self, position: Position, header: RecordHeader) -> Iterator[BodyReader]:
        """The body of an object's record. Raises as `open_body`."""
        with self.bodies.open(header.study_key_id, header.content_id, position) as body:
            yield body

    def stats(self) -> ArchiveStats:
        """Totals as they are now."""
        writer = self._writer if self.writes and self.log.refusal is None else None
        return stats_of(self.folder, self.keyring, self.index, self.reader, writer, len(self.key_trouble))


class _Counted:
    """The log's records, with a count of those that went by."""

    def __init__(self, reader: LogReader, progress: Callable[[int, int], None], total: int) -> None:
        self._reader = reader
        self._progress = progress
        self._total = total

    def records(self, from_seq: int) -> Iterator[tuple[Position, RecordHeader]]:
        for position, header in self._reader.records(from_seq):
            yield position, header
            self._progress(position.seq + 1, self._total)


def rules_of(config: Config) -> Rules:
    """How patients are told apart and which versions are served, by the configuration."""
    patients, versions = config.patients, config.versions
    return Rules(patients.default_issuer, patients.default_issuer_by_ae, versions.serve, versions.serve_by_ae)
