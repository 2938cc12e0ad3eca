"""What an administrator does to an archive that does not open for writing: inspect, recover, repair.

Rule: a session takes the writer's lock and never opens the log for writing; the next opening records what was done
(`archive.repair.deferred_events`). Inspection needs neither key nor lock.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from coffer.archive.reader import LogReader
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.writer_lock import WriterLock
from coffer.archive.tree.checkpoint import Checkpoint, read_checkpoint, remembered_checkpoint
from coffer.archive.tree.key_history import read_key_history
from coffer.archive.tree.mark import Mark, foreign
from coffer.archive.verify.verify import Finding, Options, Verifier, VerifyLevel
from coffer.index.keyless_check import check_index
from coffer.keys.clock import clock_ms
from coffer.keys.crypto.signing import CheckpointSigner
from coffer.keys.disk import opening
from coffer.keys.errors import CofferError, HistoryError, IntegrityError
from coffer.keys.inspect.remembered import read_remembered
from coffer.keys.keyring import signing_key
from coffer.keys.keyring.keyring import Keyring
from coffer.server.anchor.mark_file import MarkFile
from coffer.server.config.settings import Config
from coffer.server.engine.archive import ReadableArchive
from coffer.server.engine.checkpoint_signer import finish, signers_of
from coffer.server.engine.providers import open_keyring, provider_of
from coffer.server.engine.rollback import LostHold, Missed, keys_since, missed, report_trouble, shred_again
from coffer.server.maintenance.acknowledged import findings_of

__all__ = [
    "KeyringInspection",
    "OfflineSession",
    "foreign_successor",
    "inspect_index",
    "inspect_keyring",
    "lost_holds",
    "marked_successor",
    "objection_of",
    "offline_session",
    "older_keyring",
    "require_newest_keyring",
    "settle_findings",
    "strange_successor",
]


_PUT_BACK: Final = "stop the server, put the newest copy of the keyring folder back, then run coffer recover show"


@dataclass(frozen=True, slots=True)
class KeyringInspection:
    """What the keyring shows without its key: the checkpoint it remembers, what is wrong, whether its rows can be read,
    why nothing may be written with it, if it is damaged or lacks keys of the log, and whether it is there and whole: if
    not, nothing but its newest copy helps."""

    remembered: Checkpoint | None
    findings: tuple[Finding, ...]
    readable: bool = True
    objection: HistoryError | None = None
    is_usable: bool = True


def inspect_index(folder: ArchiveFolder) -> list[Finding]:
    """Return what is wrong with the rows of the index, if there is one; also beside a writer."""
    complaint = check_index(folder.index, folder.archive_id) if opening.exists(folder.index / "data.mdb") else None
    what = f"the index: {complaint} (coffer index rebuild creates it anew)"
    return [Finding(0, 0, None, what)] if complaint is not None else []


def inspect_keyring(folder: ArchiveFolder) -> KeyringInspection:
    """Inspect the keyring of an archive, if it has one; also beside a writer."""
    if not opening.exists(folder.keyring / "data.mdb"):  # a copy of the log alone is complete in itself
        gone = HistoryError("there is no keyring beside the log", hint=_PUT_BACK)
        return KeyringInspection(None, (), is_usable=False, objection=gone)
    try:
        signed = read_checkpoint(folder)  # before the keyring, which learns of a checkpoint first
    except IntegrityError:
        signed = None  # the verification itself reports it
    state = read_remembered(folder.keyring, keys_since(folder, 0 if signed is None else signed.size))
    found = [] if state.complaint is None else [f"the keyring: {state.complaint}"]
    remembered, forgotten = None, ""
    try:
        if state.note is not None or state.complaint is None:
            remembered = remembered_checkpoint(state.note, folder)
    except IntegrityError as error:
        forgotten = str(error)
        found.append(f"the checkpoint that the keyring remembers: {error}")
    if state.complaint is None and remembered is not None and signed is not None and remembered.size < signed.size:
        found.append(
            f"the keyring is older than the log: it remembers {remembered.size} records, {signed.size} are signed"
        )
    lacking = Missed(keyless=state.lacks, remembered=remembered, forgotten=forgotten)
    objection = lacking.objection(0) if state.lacks or forgotten else None
    if state.lacks:
        found.append(str(objection))
    if state.complaint is not None:
        named = state.complaint if not state.readable else f"the keyring: {state.complaint}"
        objection = HistoryError(named, hint=_PUT_BACK)
    seen = tuple(Finding(0, 0, None, what) for what in found)
    return KeyringInspection(remembered, seen, state.readable, objection, is_usable=state.complaint is None)


def settle_findings(archive: ReadableArchive) -> None:
    """Drop scrub findings about a history that was decided since; damaged bodies stay until they are read again."""
    folder, findings = archive.folder, findings_of(archive)
    entries = findings.entries()
    if entries:
        left = list(
            Verifier(folder, Options(VerifyLevel.HEADERS), remembered=inspect_keyring(folder).remembered).findings()
        )
        left += [Finding(e.segment, e.offset, e.record, e.what) for e in entries if e.what.startswith("the body")]
        findings.settle({e.segment for e in entries}, left)


def objection_of(mark: Mark | None, folder: ArchiveFolder, generation: int | None = None) -> HistoryError | None:
    """As `Mark.objection`, if there is a mark; the caller's other checks report endorsements that cannot be read."""
    try:
        return None if mark is None else mark.objection(folder, generation)
    except IntegrityError:
        return None


def foreign_successor(config: Config, folder: ArchiveFolder) -> HistoryError | None:
    """Whether `checkpoints/endorsements` ends with a signing key that the archive does not have: by its keyring if that
    opens, else by its mark; also beside a writer."""
    try:
        keyring = open_keyring(folder, provider_of(config.keys, folder.archive_id), readonly=True)
    except CofferError:
        return marked_successor(config, folder)
    try:
        return strange_successor(folder, keyring)
    finally:
        keyring.close()


def marked_successor(config: Config, folder: ArchiveFolder) -> HistoryError | None:
    """As `foreign_successor` without a key: by the mark, unless the keyring shows a rotation under way."""
    try:
        keys = read_key_history(folder)
        if len(keys.vkeys) == 1:
            return None
        rotates = read_remembered(folder.keyring).rotates if opening.exists(folder.keyring / "data.mdb") else False
        mark = MarkFile.of(config, folder.archive_id).find()
        return None if mark is None else mark.foreign_successor(keys, is_rotating=rotates)
    except IntegrityError:
        return None  # the verification reports it


def strange_successor(folder: ArchiveFolder, keyring: Keyring) -> HistoryError | None:
    """That `checkpoints/endorsements` ends with a key that an open keyring does not have; None if it has it, or if they
    cannot be read."""
    try:
        keys, own = read_key_history(folder), {each.vkey(folder.origin) for each in signers_of(keyring)}
    except IntegrityError:
        return None
    is_changed = read_key_history(folder).current != keys.current  # a writer is rotating just now
    return None if is_changed or keys.current in own else foreign(keys)


@contextmanager
def _opened(config: Config) -> Iterator[tuple[ArchiveFolder, Keyring, LogReader] | None]:
    """The archive's keyring and log, also beside a writer; None if the keyring does not open."""
    folder = ArchiveFolder.open(config.archive)
    try:
        keyring = open_keyring(folder, provider_of(config.keys, folder.archive_id), readonly=True)
    except CofferError:
        yield None
        return
    with closing(keyring), closing(LogReader(folder)) as reader:
        yield folder, keyring, reader


def older_keyring(config: Config, mark: Mark | None) -> HistoryError | None:
    """That the keyring is older than the log, or the mark, by what only its keys can tell; also beside a writer. None
    if it is not, or does not open."""
    with _opened(config) as opened:
        if opened is None:
            return None
        folder, keyring, reader = opened
        try:
            late = missed(folder, keyring, reader)
            return late.objection(keyring.epoch) or objection_of(mark, folder, keyring.changes())
        except HistoryError as error:
            return error
        except CofferError:
            return None  # the comparison without the key reports it


def lost_holds(config: Config) -> tuple[LostHold, ...] | None:
    """Return the holds of the log that the keyring lacks, also beside a writer; None if the keyring does not open."""
    with _opened(config) as opened:
        if opened is None:
            return None
        try:
            return missed(*opened).lost_holds(opened[1])
        except CofferError:
            return None


@dataclass(frozen=True, slots=True)
class OfflineSession:
    """The archive under the writer's lock, its log closed; `remembered` is the checkpoint that its keyring remembers,
    `outside` its mark, `objection` what the keyring lacks of the log or of the mark, if anything,
    and `lost_holds` are the holds among it."""

    folder: ArchiveFolder
    keyring: Keyring
    remembered: Checkpoint | None
    outside: Mark | None
    objection: HistoryError | None
    lost_holds: tuple[LostHold, ...] = ()

    @property
    def signer(self) -> CheckpointSigner:
        """The keyring's signing key."""
        return signing_key.current(self.keyring)

    def shred_again(self, size: int) -> None:
        """Repeat, durable on return, what the first `size` records say was shredded, those that are this archive's own.

        Accepting a loss makes an older keyring the newest: keys shredded since must not live again. Nor may a record be
        obeyed that is about to be set aside: it may be of a copy.
        """
        reader = LogReader(self.folder)
        try:
            shred_again(missed(self.folder, self.keyring, reader, size=size), self.keyring)
        finally:
            reader.close()


def require_newest_keyring(keyring: Keyring, copy: ArchiveFolder) -> None:
    """Raise HistoryError, before anything is changed, if the keyring lacks keys, holds or requests of a copy's log.

    Whatever takes that log lets the keyring remember its checkpoint, and an older keyring would pass for the newest.
    A copy of another archive is not looked at: it is refused as such.
    """
    if copy.archive_id != keyring.archive_id:
        return
    reader = LogReader(copy)
    try:
        lacking = missed(copy, keyring, reader, alone=True).lacking(keyring.epoch)
    finally:
        reader.close()
    if lacking:
        raise HistoryError(
            f"the keyring is {lacking[0]}: nothing was taken",
            hint="put the newest copy of the keyring folder back, then run the command again",
        )


@contextmanager
def offline_session(config: Config, command: str) -> Iterator[OfflineSession]:
    """Take the writer's lock and open the keyring. Raises LockedError while a server runs, and as `Keyring.open`."""
    folder = ArchiveFolder.open(config.archive)
    with WriterLock(folder.lock, command, clock_ms()):
        folder.complete()
        keyring = open_keyring(folder, provider_of(config.keys, folder.archive_id))
        reader = LogReader(folder)
        try:
            late = missed(folder, keyring, reader, alone=True)
            report_trouble(late.contradictions(keyring.epoch))
            with suppress(IntegrityError):  # the caller reports what is wrong with the endorsements
                finish(folder, keyring, MarkFile.of(config, folder.archive_id))
            mark = MarkFile.of(config, folder.archive_id).find()
            objection = late.objection(keyring.epoch) or objection_of(mark, folder, keyring.changes())
            objection = objection or strange_successor(folder, keyring)
            yield OfflineSession(folder, keyring, late.remembered, mark, objection, late.lost_holds(keyring))
        finally:
            reader.close()
            keyring.close()
