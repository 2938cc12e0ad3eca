"""Open an archive: folder, lock, keys, log and index in the right order, and brought to agree by the one that writes.

Rule: nothing is handed out half open; whatever fails closes what was opened before it. Key, record, index: in that
order things become durable, and in that order what a stop left between them is finished: first what was begun with the
keys, then the change-over of rekeys, so that the index leads to records that open, then what the index lacks.
"""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import structlog

from coffer.archive.body.allocator import keep_blocks
from coffer.archive.body.spool import clear_stale
from coffer.archive.format.record import Kind
from coffer.archive.log import LogWriter
from coffer.archive.reader import LogReader
from coffer.archive.repair.deferred_events import discard_deferred, read_deferred
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.writer_lock import WriterLock
from coffer.archive.tree.checkpoint import remembered_checkpoint
from coffer.index.index import Index
from coffer.keys.clock import clock_ms
from coffer.keys.crypto import derive
from coffer.keys.disk.durable import remove_folder
from coffer.keys.errors import CofferError, FormatError, LockedError, UnavailableError
from coffer.keys.keyring.keyring import Keyring
from coffer.server.config.settings import Config
from coffer.server.engine.archive import KeyAdminArchive, Parts, ReadableArchive, WritableArchive
from coffer.server.engine.bodies import Bodies
from coffer.server.engine.catch_up import IndexFeed
from coffer.server.engine.checkpoint_signer import Signatory, signers_of
from coffer.server.engine.providers import Waiting, open_keyring, open_keyring_when_there, provider_of, settings_of
from coffer.server.engine.reconcile import Settlement
from coffer.server.engine.rekey import Rekeyer
from coffer.server.engine.rollback import Missed, missed, report_trouble, shred_again
from coffer.server.engine.sealing import header_limits_of, rules_of
from coffer.server.observe import logs
from coffer.server.observe.metrics import Metrics

__all__ = ["open_for_keys", "open_for_rebuild", "open_for_service", "open_reading", "open_writer"]

_log = structlog.get_logger(__name__)


def open_reading(config: Config) -> ReadableArchive:
    """Open the archive to read it, beside whoever writes; `shortfall` says why the index lacks what is stored, if so.

    Raises NotFoundError, ConfigError, KeyUnavailableError, IntegrityError.
    """
    with _closed_on_failure() as opened:
        found = _compare_beside(opened, config, readonly=True)
        found.late.require_none_shredded()
        parts = _parts(opened, found, readonly=True)
        archive = ReadableArchive(parts, parts.feed.level(found.folder.lock))
        report_trouble(archive.key_trouble)
        return archive


def open_for_keys(config: Config) -> KeyAdminArchive:
    """Open the archive to change its keys: as its writer, or beside the one that runs, which then does the rest.

    Raises as `open_writer`, and HistoryError where the keyring is older than the log: no key is changed by it.
    """
    try:
        return open_writer(config)
    except LockedError:
        return _open_beside(config)


def open_writer(config: Config) -> WritableArchive:
    """Open the archive as its one writer; log, index and keyring agree on return.

    Raises NotFoundError, ConfigError, LockedError, KeyUnavailableError, IntegrityError and its kin where the log must
    not be written.
    """
    return _open_writer(config)


def open_for_rebuild(config: Config) -> WritableArchive:
    """As `open_writer`, with an empty index to be filled: whatever lies where it is kept is removed unread."""
    return _open_writer(config, fresh_index=True)


def open_for_service(config: Config, metrics: Metrics | None = None, waiting: Waiting | None = None) -> WritableArchive:
    """As `open_writer`, by a server: a log that must not be written (damaged, rolled back, forked) is opened all the
    same, to be read, and refuses every append with that cause.

    A key provider that cannot be reached is waited for as long as the configuration says; `waiting` gets the cause and
    the seconds left at each try. Without it nothing is waited for.
    """
    return _open_writer(config, metrics, waiting, may_refuse=True)


@contextmanager
def _closed_on_failure() -> Iterator[ExitStack]:
    opened = ExitStack()
    try:
        yield opened
    except BaseException:
        opened.close()
        raise


@dataclass(frozen=True, slots=True)
class _Compared:
    """Keyring and log, and what the one has missed of the other; what is wrong with it, a sentence each."""

    config: Config
    folder: ArchiveFolder
    keyring: Keyring
    reader: LogReader
    late: Missed
    key_trouble: list[str]


def _compare_beside(opened: ExitStack, config: Config, *, readonly: bool) -> _Compared:
    """Open the keyring beside whoever writes, and look what it has missed."""
    keep_blocks()
    folder = ArchiveFolder.open(config.archive)
    keyring = open_keyring(folder, provider_of(config.keys, folder.archive_id), readonly=readonly)
    return _compare(opened, config, folder, keyring, alone=False)


def _compare(opened: ExitStack, config: Config, folder: ArchiveFolder, keyring: Keyring, *, alone: bool) -> _Compared:
    """Look what an open keyring has missed; `alone` as in `missed`."""
    opened.callback(keyring.close)
    logs.use_id_key(keyring.archive_key(derive.LOG_ID))
    reader = LogReader(folder)
    opened.callback(reader.close)
    late = missed(folder, keyring, reader, alone=alone)
    return _Compared(config, folder, keyring, reader, late, late.told(keyring.epoch))


def _parts(opened: ExitStack, found: _Compared, *, readonly: bool) -> Parts:
    """Open the index, last."""
    config, folder, keyring, reader = found.config, found.folder, found.keyring, found.reader
    bodies = Bodies(folder.archive_id, reader, keyring.study)
    index = Index.open(folder.index, keyring, rules_of(config), readonly=readonly)
    opened.callback(index.close)
    feed = IndexFeed(keyring, reader, bodies, index, header_limits_of(config.limits))
    return Parts(config, folder, keyring, reader, bodies, index, feed, found.key_trouble, opened)


def _open_beside(config: Config) -> KeyAdminArchive:
    with _closed_on_failure() as opened:
        found = _compare_beside(opened, config, readonly=False)
        found.late.require_none_shredded()
        found.late.require_newest(found.keyring.epoch)
        parts = _parts(opened, found, readonly=True)
        archive = KeyAdminArchive(parts, parts.feed.level(found.folder.lock))
        report_trouble(archive.key_trouble)
        return archive


def _open_writer(
    config: Config,
    metrics: Metrics | None = None,
    waiting: Waiting | None = None,
    *,
    may_refuse: bool = False,
    fresh_index: bool = False,
) -> WritableArchive:
    with _closed_on_failure() as opened:
        folder = _lock(opened, config, fresh_index=fresh_index)
        if waiting is None:
            keyring = open_keyring(folder, provider_of(config.keys, folder.archive_id))
        else:
            keyring = open_keyring_when_there(folder, config.keys, waiting)
        found = _compare(opened, config, folder, keyring, alone=True)
        shred_again(found.late, keyring)
        found.late.require_none_shredded()
        log = _open_log(found, may_refuse=may_refuse)
        signatory = Signatory(folder, keyring, log)
        opened.callback(_close_log, log, signatory)
        if fresh_index:
            remove_folder(folder.index)
        parts = _parts(opened, found, readonly=False)
        settlement = Settlement(keyring, log, found.reader, parts.index, signatory)
        archive = WritableArchive(parts, log, signatory, settlement, metrics or Metrics())
        if log.refusal is None:
            _settle(archive, settlement)
            _change_over(archive)
        archive.catch_up()
        report_trouble(archive.key_trouble)
        archive.look_at_keys()
        return archive


def _lock(opened: ExitStack, config: Config, *, fresh_index: bool) -> ArchiveFolder:
    """Become the one writer; folders that are missing are made, but not one that is made anew."""
    keep_blocks()
    folder = ArchiveFolder.open(config.archive)
    command = " ".join(["coffer", *sys.argv[1:2]])
    opened.enter_context(WriterLock(folder.lock, command, clock_ms(), settings_of(config.keys)))
    folder.complete(but=folder.index.name if fresh_index else "")
    clear_stale(folder.spool)
    return folder


def _open_log(found: _Compared, *, may_refuse: bool) -> LogWriter:
    config, folder, keyring = found.config, found.folder, found.keyring
    log = LogWriter(
        folder,
        now_ms=clock_ms,
        segment_bytes=config.storage.segment_bytes,
        reserve_bytes=config.storage.reserve_bytes,
        remembered=remembered_checkpoint(keyring.remembered_checkpoint(), folder),
        signers=signers_of(keyring, folder.origin),
        objection=found.late.objection(keyring.epoch),
        may_refuse=may_refuse,
    )
    if log.refusal is not None:
        _log.error("nothing is stored", cause=str(log.refusal), way_out=log.refusal.hint())
    if log.cut_bytes:
        _log.warning(
            "an unfinished write was cut off and kept in lost+found", bytes=log.cut_bytes, records=log.cut_records
        )
    return log


def _close_log(log: LogWriter, signatory: Signatory) -> None:
    try:
        if log.refusal is None:
            signatory.sign()
    except CofferError as error:
        _log.error("no checkpoint was signed", cause=str(error), way_out=error.hint())
    log.close()


def _settle(archive: WritableArchive, settlement: Settlement) -> None:
    """Finish what was begun; on a volume without room even for that, it waits, and what is stored is read."""
    try:
        _record_deferred(archive)
        settlement.settle()
    except UnavailableError as error:
        if archive.log.accepts_events():
            raise
        _log.error("a change of keys is not finished", cause=str(error), way_out=error.hint())


def _record_deferred(archive: WritableArchive) -> None:
    """Give what was repaired or recovered by hand its record."""
    try:
        deferred = read_deferred(archive.folder)
    except FormatError as error:  # it may be anybody's: a finding, and no reason to store nothing
        _log.error("what was done by hand is not recorded", cause=str(error), way_out=error.hint())
        return
    for event in deferred:
        if event.was_done(archive.folder):
            archive.record_event(Kind.REPAIR, event.facts)
            _log.warning("recorded what was done by hand", **event.facts)
    if deferred:
        archive.sign_checkpoint()
        discard_deferred(archive.folder)


def _change_over(archive: WritableArchive) -> None:
    """Let the index lead to the records that count where a stop came between the two."""
    try:
        Rekeyer(archive).change_over()
    except CofferError as error:  # whoever carries it out tells; the archive opens all the same
        _log.error("a rekey is not finished", cause=str(error), way_out=error.hint())
