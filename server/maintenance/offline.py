"""What an administrator does to an archive that does not open for writing: look, recover, repair.

Rule: it takes the writer's lock and never opens the log for writing while it works; the next opening records what was
done (`archive.repair.deferred_events`). Looking needs neither key nor lock.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import structlog

from coffer.archive.reader import LogReader
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.writer_lock import WriterLock
from coffer.archive.tree.checkpoint import Checkpoint, read_checkpoint, remembered_checkpoint
from coffer.archive.verify.findings import FindingStore
from coffer.archive.verify.verify import Finding, Options, Verifier, VerifyLevel
from coffer.index.keyless_check import check_index
from coffer.keys.clock import clock_ms
from coffer.keys.crypto.signing import CheckpointSigner
from coffer.keys.disk import opening
from coffer.keys.errors import CofferError, HistoryError, IntegrityError
from coffer.keys.inspect.remembered import read_remembered
from coffer.keys.keyring import signing_key
from coffer.keys.keyring.keyring import Keyring
from coffer.server.config.settings import Config
from coffer.server.engine.checkpoint_signer import finish
from coffer.server.engine.providers import open_keyring, provider_of
from coffer.server.engine.rollback import LostHold, Missed, keys_since, missed, shred_again

__all__ = ["Hand", "Seen", "hands_on", "look", "look_at_index", "lost_holds", "settle"]

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the keyring says without its key: a checkpoint it remembers, what is wrong, whether its rows can be read,
    and why nothing may be written with it, if it lacks keys of the log."""

    witness: Checkpoint | None
    findings: tuple[Finding, ...]
    readable: bool = True
    objection: HistoryError | None = None


def look_at_index(folder: ArchiveFolder) -> list[Finding]:
    """What is wrong with the rows of the index, if there is one, beside whoever writes it."""
    complaint = check_index(folder.index, folder.archive_id) if opening.exists(folder.index / "data.mdb") else None
    what = f"the index: {complaint} (coffer index rebuild makes it again)"
    return [Finding(0, 0, None, what)] if complaint is not None else []


def look(folder: ArchiveFolder) -> Seen:
    """Look at the keyring of an archive, if it has one, beside whoever writes it."""
    if not opening.exists(folder.keyring / "data.mdb"):  # a copy of the log alone is whole in itself
        gone = HistoryError("there is no keyring beside the log", hint="put its newest copy back")
        return Seen(None, (), objection=gone)
    try:
        signed = read_checkpoint(folder)  # before the keyring, which is told of a checkpoint first
    except IntegrityError:
        signed = None  # the verification itself says so
    told = read_remembered(folder.keyring, keys_since(folder, 0 if signed is None else signed.size))
    found = [] if told.complaint is None else [f"the keyring: {told.complaint}"]
    witness = None
    try:
        if told.note is not None or told.complaint is None:
            witness = remembered_checkpoint(told.note, folder)
    except IntegrityError as error:
        found.append(f"the checkpoint that the keyring remembers: {error}")
    if told.complaint is None and witness is not None and signed is not None and witness.size < signed.size:
        found.append(
            f"the keyring is older than the log: it remembers {witness.size} records, {signed.size} are signed"
        )
    objection = Missed(keyless=told.lacks).objection(0) if told.lacks else None
    if objection is not None:
        found.append(str(objection))
    usable = witness if witness is not None and witness.size else None
    return Seen(usable, tuple(Finding(0, 0, None, what) for what in found), told.readable, objection)


def settle(folder: ArchiveFolder) -> None:
    """Drop what the scrub found of a history that was decided since; damaged bodies stay until they are read again."""
    ledger = FindingStore(folder.scrub)
    entries = ledger.entries()
    if entries:
        left = list(Verifier(folder, Options(VerifyLevel.HEADERS), remembered=look(folder).witness).findings())
        left += [Finding(e.segment, e.offset, e.record, e.what) for e in entries if e.what.startswith("the body")]
        ledger.settle({e.segment for e in entries}, left)


def lost_holds(config: Config) -> tuple[LostHold, ...] | None:
    """The holds of the log that the keyring lacks, beside whoever writes; None where the keyring does not open here."""
    folder = ArchiveFolder.open(config.archive)
    try:
        keyring = open_keyring(folder, provider_of(config.keys, folder.archive_id), readonly=True)
    except CofferError:
        return None
    reader = LogReader(folder)
    try:
        return missed(folder, keyring, reader).lost_holds(keyring)
    except CofferError:
        return None
    finally:
        reader.close()
        keyring.close()


@dataclass(frozen=True, slots=True)
class Hand:
    """The archive under the writer's lock, its log closed; `objection` is what its keyring lacks of the log, if any,
    and `lost_holds` are the holds among it."""

    folder: ArchiveFolder
    keyring: Keyring
    objection: HistoryError | None
    lost_holds: tuple[LostHold, ...] = ()

    @property
    def witness(self) -> Checkpoint:
        """What the keyring remembers. Raises IntegrityError."""
        return remembered_checkpoint(self.keyring.remembered_checkpoint(), self.folder)

    @property
    def signer(self) -> CheckpointSigner:
        """The keyring's signing key."""
        return signing_key.current(self.keyring)


@contextmanager
def hands_on(config: Config, command: str) -> Iterator[Hand]:
    """Take the lock and open the keyring. Raises LockedError while a server runs, and as `Keyring.open`."""
    folder = ArchiveFolder.open(config.archive)
    with WriterLock(folder.lock, command, clock_ms()):
        folder.complete()
        keyring = open_keyring(folder, provider_of(config.keys, folder.archive_id))
        reader = LogReader(folder)
        try:
            # Whoever accepts a loss makes an older keyring the newest: what was shredded since must not live again.
            late = missed(folder, keyring, reader, alone=True)
            shred_again(late, keyring)
            for what in late.contradictions(keyring.epoch):
                _log.error("the keyring does not belong to this log", cause=what, way_out="coffer keys audit")
            with suppress(IntegrityError):  # what is wrong with the endorsements is about to be told
                finish(folder, keyring)
            yield Hand(folder, keyring, late.objection(keyring.epoch), late.lost_holds(keyring))
        finally:
            reader.close()
            keyring.close()
