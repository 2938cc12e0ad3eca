"""Open an archive: folder, lock, keys, log and index in the right order, reconciled by the writer.

Rule: no archive is returned half open; a failure closes what was opened before it. Key, record and index become durable
in that order, and unfinished work is completed in that order too: first changes of keys, then the change-over of
rekeys, so that the index leads to records that can be opened, then what the index lacks.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import msgspec

from coffer.archive.body.allocator import keep_blocks
from coffer.archive.body.spool import clear_stale
from coffer.archive.events.recorded import Occurrence
from coffer.archive.events.repairs import Repair, SegmentRepaired
from coffer.archive.format.record import Kind
from coffer.archive.log import LogWriter
from coffer.archive.reader import LogReader
from coffer.archive.repair.deferred_events import discard_deferred, read_deferred
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.writer_lock import WriterLock, command_of
from coffer.archive.tree.key_history import read_key_history
from coffer.archive.tree.mark import Mark
from coffer.index.index import Index
from coffer.keys.clock import clock_ms
from coffer.keys.crypto import derive
from coffer.keys.errors import CofferError, FormatError, HistoryError, IntegrityError, LockedError, UnavailableError
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.lease.epoch_authority import Lease
from coffer.keys.mailbox import events
from coffer.keys.providers.base import KekProvider
from coffer.keys.values.waiting_event import UNIQUE
from coffer.server.anchor.mark_file import MarkFile
from coffer.server.clock.watching import look
from coffer.server.config.settings import Config
from coffer.server.engine.archive import ArchiveParts, KeyAdminArchive, ReadableArchive, WritableArchive
from coffer.server.engine.bodies import Bodies
from coffer.server.engine.catch_up import IndexFeed, set_aside
from coffer.server.engine.checkpoint_signer import ArchiveSigner, in_force, new_lineage, signers_of
from coffer.server.engine.providers import Waiting, open_keyring, open_keyring_when_there, provider_of, settings_of
from coffer.server.engine.reconcile import Reconciler
from coffer.server.engine.rekey import Rekeyer
from coffer.server.engine.rollback import Missed, missed, report_trouble, shred_again
from coffer.server.engine.sealing import header_limits_of, rules_of
from coffer.server.observe import logs

if TYPE_CHECKING:  # for types alone: workers and most commands count nothing and do without prometheus_client
    from coffer.server.observe.metrics import Metrics

__all__ = [
    "objection_to_writing",
    "open_for_keys",
    "open_for_rebuild",
    "open_for_service",
    "open_past_mark",
    "open_reading",
    "open_writer",
]

_log = logs.get_logger()
_OTHER_KEY: Final = "nothing was changed; if the archive is the right one, correct [integrity] vkey; see coffer verify"


def open_reading(config: Config) -> ReadableArchive:
    """Open the archive for reading, beside a possible writer; `shortfall` says why the index lacks objects, if it does.

    Raises NotFoundError, ConfigError, KeyUnavailableError, IntegrityError.
    """
    with _closed_on_failure() as opened:
        found = _compare_beside(opened, config, readonly=True)
        found.late.require_none_shredded()
        parts = _parts(opened, found, readonly=True)
        archive = ReadableArchive(parts, parts.feed.level(found.folder.lock))
        report_trouble(archive.key_trouble)
        return archive


def open_for_keys(config: Config, provider: KekProvider | None = None) -> KeyAdminArchive:
    """Open the archive to change its keys: as its writer, or beside a running writer, which then does the rest.

    With `provider` instead of those that the configuration names. Only `server.keyops.key_change` calls this, which
    has every change signed. Raises as `open_writer`, whether a writer runs or not: what objects to writing objects to
    changes of keys.
    """
    try:
        return _open_writer(config, provider=provider)
    except LockedError:
        return _open_beside(config, provider)


def open_writer(config: Config) -> WritableArchive:
    """Open the archive as its one writer; log, index and keyring agree on return.

    Raises NotFoundError, ConfigError, LockedError, KeyUnavailableError, IntegrityError or a subclass if the log must
    not be written.
    """
    return _open_writer(config)


def open_for_rebuild(config: Config) -> WritableArchive:
    """As `open_writer`, with an empty index to be filled: the old one is removed, or kept in lost+found if it
    was altered (`catch_up.set_aside`)."""
    return _open_writer(config, fresh_index=True)


def open_past_mark(config: Config) -> WritableArchive:
    """As `open_writer`, whatever the mark outside the folder says: for an administrator who has decided that the
    archive is right, and then makes the mark anew (`WritableArchive.renew_mark`)."""
    return _open_writer(config, heeds_mark=False)


def open_for_service(
    config: Config, metrics: "Metrics | None" = None, waiting: Waiting | None = None
) -> WritableArchive:
    """As `open_writer`, for a server: a log that must not be written (damaged, rolled back, forked) is still opened for
    reading, and refuses every append with that cause.

    An unreachable key provider is retried for as long as the configuration says; `waiting` gets the cause and the
    seconds left at each try. Without `waiting` there is one try.
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
    """Keyring and log, what the keyring has missed of the log, and how it contradicts it, a sentence each."""

    config: Config
    folder: ArchiveFolder
    keyring: Keyring
    reader: LogReader
    late: Missed
    key_trouble: list[str]
    mark: MarkFile


def _compare_beside(
    opened: ExitStack, config: Config, provider: KekProvider | None = None, *, readonly: bool
) -> _Compared:
    """Open the keyring beside a possible writer, and find what it has missed."""
    keep_blocks()
    folder = ArchiveFolder.open(config.archive)
    keyring = open_keyring(folder, provider or provider_of(config.keys, folder.archive_id), readonly=readonly)
    return _compare(opened, config, folder, keyring, alone=False)


def _compare(opened: ExitStack, config: Config, folder: ArchiveFolder, keyring: Keyring, *, alone: bool) -> _Compared:
    """Find what an open keyring has missed; `alone` as in `missed`."""
    opened.callback(keyring.close)
    logs.use_id_key(keyring.archive_key(derive.LOG_ID))
    reader = LogReader(folder)
    opened.callback(reader.close)
    late = missed(folder, keyring, reader, alone=alone)
    mark = MarkFile.of(config, folder.archive_id)
    return _Compared(config, folder, keyring, reader, late, late.contradictions(keyring.epoch), mark)


def _parts(opened: ExitStack, found: _Compared, *, readonly: bool) -> ArchiveParts:
    """Open the index, as the last part."""
    config, folder, keyring, reader = found.config, found.folder, found.keyring, found.reader
    bodies = Bodies(folder.archive_id, reader, keyring.study)
    index = Index.open(folder.index, keyring, rules_of(config), readonly=readonly)
    opened.callback(index.close)
    limits = header_limits_of(config.limits)
    feed = IndexFeed(keyring, reader, bodies, index, limits, lost_and_found=folder.lost_and_found)
    trouble, late = found.key_trouble, found.late
    return ArchiveParts(config, folder, keyring, reader, bodies, index, feed, trouble, found.mark, late, opened)


def _open_beside(config: Config, provider: KekProvider | None) -> KeyAdminArchive:
    with _closed_on_failure() as opened:
        found = _compare_beside(opened, config, provider, readonly=False)
        found.late.require_none_shredded()
        mark = found.mark.find()  # before the keyring is asked for its number, which the mark follows
        objection = objection_to_writing(config, found.folder, found.keyring, found.late, mark)
        if objection is not None:
            raise objection
        parts = _parts(opened, found, readonly=True)
        archive = KeyAdminArchive(parts, parts.feed.level(found.folder.lock))
        report_trouble(archive.key_trouble)
        return archive


def _unread_metrics() -> "Metrics":
    """Of a command, which nobody asks for its metrics."""
    from coffer.server.observe.metrics import Metrics

    return Metrics()


def _open_writer(
    config: Config,
    metrics: "Metrics | None" = None,
    waiting: Waiting | None = None,
    *,
    provider: KekProvider | None = None,
    may_refuse: bool = False,
    fresh_index: bool = False,
    heeds_mark: bool = True,
) -> WritableArchive:
    with _closed_on_failure() as opened:
        folder, lease = _lock(opened, config, fresh_index=fresh_index)
        if waiting is None:
            keyring = open_keyring(folder, provider or provider_of(config.keys, folder.archive_id))
        else:
            keyring = open_keyring_when_there(folder, config.keys, waiting)
        found = _compare(opened, config, folder, keyring, alone=True)
        log = _open_log(found, lease, may_refuse=may_refuse, heeds_mark=heeds_mark)
        if log.refusal is not None and found.late.shredded:
            raise log.refusal  # neither obeyed nor served: whether these studies were shredded, nobody can say
        signer = ArchiveSigner(folder, keyring, log, found.mark, raises_mark=heeds_mark)
        opened.callback(_close_log, keyring, log, signer)
        if fresh_index:
            set_aside(folder, keyring, found.reader)
        parts = _parts(opened, found, readonly=False)
        reconciler = Reconciler(keyring, log, found.reader, parts.index, signer)
        archive = WritableArchive(parts, log, signer, reconciler, metrics or _unread_metrics())
        if log.refusal is None:
            _unless_full(archive, lambda: _leave_deferred(archive))
            _part(keyring, signer)
            _look_at_clock(keyring, log)
            _unless_full(archive, reconciler.reconcile)
            _change_over(archive)
        archive.catch_up()
        report_trouble(archive.key_trouble)
        archive.check_keys()
        return archive


def _lock(opened: ExitStack, config: Config, *, fresh_index: bool) -> tuple[ArchiveFolder, Lease]:
    """Become the one writer; missing folders are created, except an index that is about to be replaced."""
    keep_blocks()
    folder = ArchiveFolder.open(config.archive)
    command = command_of(sys.argv[1:])
    lock = opened.enter_context(WriterLock(folder.lock, command, clock_ms(), settings_of(config.keys)))
    folder.complete(but=folder.index.name if fresh_index else "")
    clear_stale(folder.spool)
    return folder, lock.lease


def _open_log(found: _Compared, lease: Lease, *, may_refuse: bool, heeds_mark: bool) -> LogWriter:
    config, folder, keyring = found.config, found.folder, found.keyring
    mark = found.mark.find() if heeds_mark else None

    def objection() -> IntegrityError | None:
        """Only now is the log the archive's own: what another one says was shredded must not be."""
        shred_again(found.late, keyring)
        return objection_to_writing(config, folder, keyring, found.late, mark)

    log = LogWriter(
        folder,
        sign=in_force(keyring, folder).sign_statement,
        now_ms=clock_ms,
        segment_bytes=config.storage.segment_bytes,
        reserve_bytes=config.storage.reserve_bytes,
        remembered=None if found.late.is_behind else found.late.remembered,  # an older keyring is objected to below
        outside=mark,
        lineage=new_lineage(keyring) if mark is None else mark.lineage,
        signers=[each.vkey(folder.origin) for each in signers_of(keyring)],
        objection=objection,
        may_refuse=may_refuse,
        lease=lease,
    )
    if log.refusal is not None:
        _log.error("nothing is stored", name="writer.refused", cause=str(log.refusal), remedy=log.refusal.hint())
    if log.cut_bytes:
        _log.warning(
            "an unfinished write was cut off and kept in lost+found",
            name="tail.cut",
            bytes=log.cut_bytes,
            records=log.cut_records,
        )
    return log


def _part(keyring: Keyring, signer: ArchiveSigner) -> None:
    """Part from every copy of keyring and log. On a full volume the archive is still read, and no row is written at
    all; groups that find room go on under the lineage that the mark has."""
    try:
        keyring.begin_lineage()
    except UnavailableError as error:
        _log.error(
            "the keyring cannot be written", name="keyring.lineage_failed", cause=str(error), remedy=error.hint()
        )
    try:
        signer.part()
    except CofferError as error:
        _log.error("no lineage was begun", name="log.lineage_failed", cause=str(error), remedy=error.hint())


def _look_at_clock(keyring: Keyring, log: LogWriter) -> None:
    """Begin to watch the clock, or note that it is in doubt. A failure is no reason not to open: nothing is granted."""
    try:
        look(keyring, log.last_ms)
    except CofferError as error:
        _log.error("the clock could not be checked", name="clock.check_failed", cause=str(error), remedy=error.hint())


def objection_to_writing(
    config: Config, folder: ArchiveFolder, keyring: Keyring, late: Missed, mark: Mark | None
) -> IntegrityError | None:
    """Why keys and keyring forbid to write, if they do: the keyring lacks some of the log or was altered, or keys and
    keyring contradict the mark or the configured verifier key. What cannot be read, the log refuses by itself."""
    found = late.objection(keyring.epoch) or keyring.objection()
    vkey = config.integrity.vkey
    try:
        if found is None and vkey and vkey not in read_key_history(folder).vkeys:
            return HistoryError(f"the configured verifier key, {vkey}, is none of this archive's", hint=_OTHER_KEY)
        return found or (None if mark is None else mark.objection(folder, keyring.changes()))
    except IntegrityError:
        return found


def _close_log(keyring: Keyring, log: LogWriter, signer: ArchiveSigner) -> None:
    try:
        if log.refusal is None:
            keyring.claims.settle()  # before the checkpoint: a keyring older by one commit is then found
            signer.sign()
    except CofferError as error:
        _log.error("no checkpoint was signed", name="checkpoint.sign_failed", cause=str(error), remedy=error.hint())
    log.close()


def _unless_full(archive: WritableArchive, step: Callable[[], None]) -> None:
    """Finish what was begun; on a full volume it is left for later and the archive is still read."""
    try:
        step()
    except UnavailableError as error:
        if archive.log.accepts_events():
            raise
        _log.error("a change of keys is not finished", name="keys.settle_failed", cause=str(error), remedy=error.hint())


def _leave_deferred(archive: WritableArchive) -> None:
    """Let what was repaired or recovered offline wait for the log like any event: each act once, whatever stops this.

    Call it before anything is signed: a recovery counts as carried out as long as the latest checkpoint is the one that
    it left. The keyring has the events, each under a row that follows from the act, before the file is gone; the caller
    delivers them only then. A recovery's announcement could be put back: one that the log has a record of is dropped.
    """
    try:
        deferred = read_deferred(archive.folder)
    except FormatError as error:  # anybody may have written it: a finding, but no reason to refuse stores
        _log.error(
            "offline repairs were not recorded",
            name="offline_event.record_failed",
            cause=str(error),
            remedy=error.hint(),
        )
        return
    if not deferred:
        return
    done = {each.digest[:UNIQUE]: each.event for each in deferred if each.was_done(archive.folder)}
    known = {each.unique for each in events.waiting(archive.keyring)}
    made = {unique: event for unique, event in done.items() if unique not in known and not _is_recorded(archive, event)}
    now_ms = clock_ms()
    rows = [replace(archive.enclosed(Occurrence(event, now_ms)), unique=unique) for unique, event in made.items()]
    events.leave(archive.keyring, rows)
    for event in made.values():
        facts = msgspec.to_builtins(event)
        _log.warning("an offline repair was recorded", name="offline_event.recorded", code=event.code, **facts)
    discard_deferred(archive.folder)


def _is_recorded(archive: WritableArchive, event: Repair) -> bool:
    """Whether the log that a recovery left goes on with a record of it."""
    if isinstance(event, SegmentRepaired):
        return False
    is_told = any(told.event == event for told in archive.events(frozenset({Kind.REPAIR}), event.left.records))
    if is_told:
        _log.warning(
            "a recovery was announced that the log already has a record of",
            name="offline_event.repeated",
            code=event.code,
            remedy="if no opening was interrupted, find out who can write to the archive folder",
        )
    return is_told


def _change_over(archive: WritableArchive) -> None:
    """Let the index lead to the new records of a rekey that was stopped before its change-over."""
    try:
        Rekeyer(archive).change_over()
    except CofferError as error:  # the rekey job reports it; the archive opens all the same
        _log.error("a rekey is not finished", name="rekey.failed", cause=str(error), remedy=error.hint())
