"""Check the keyring against the log: there is a key for everything that must be readable, and none for what is erased.

    key ids in the log - key ids that the log says are shredded or replaced = key ids in the keyring

Rule: sees no plaintext: the ids are in the headers of records and in the keyring's rows. Where no provider opens the
keyring, it says that the rows were not checked with a key, and compares them all the same. It runs beside a server; the
log is read before the keyring, so that an object stored meanwhile is no finding.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from coffer.archive.events.recorded import NO_KEY
from coffer.archive.format.entry import Position
from coffer.archive.format.merkle import Frontier, leaf_hash
from coffer.archive.format.record import Kind, RecordHeader
from coffer.archive.reader import LogReader
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.checkpoint import Checkpoint, read_checkpoint
from coffer.keys.errors import CofferError, FormatError, IntegrityError, NotFoundError
from coffer.keys.inspect.listing import KeyringListing, list_keyring
from coffer.keys.keyring.claims import RECORDED
from coffer.keys.keyring.returned import returned
from coffer.keys.keyring.tombstone import Reason
from coffer.keys.providers.base import KekProvider
from coffer.keys.values.epoch import GONE
from coffer.server.engine.providers import open_keyring
from coffer.server.maintenance.keyring_history import LoggedEvents, contradictions
from coffer.server.maintenance.offline import inspect_keyring

__all__ = ["KeyAudit", "Summary"]

_EVERY: Final = 4096  # records between two reports of progress


@dataclass(slots=True)
class _LoggedKeys:
    """Keys as the log has them: how many records each sealed, which were shredded, which were replaced."""

    records: dict[bytes, int] = field(default_factory=dict)
    shredded: set[bytes] = field(default_factory=set)
    replaced: set[bytes] = field(default_factory=set)
    end: int = 0
    tree: Frontier = field(default_factory=Frontier)
    events: LoggedEvents = field(default_factory=LoggedEvents)

    def copy(self) -> "_LoggedKeys":
        """Return a copy of the present state; `tree` and `events` are shared."""
        return replace(self, records=dict(self.records), shredded=set(self.shredded), replaced=set(self.replaced))

    def add(self, position: Position, header: RecordHeader) -> None:
        self.end += 1
        self.events.add(position, header)
        self.tree.append(leaf_hash(header.serialize()))
        kind, key_id = header.kind, header.study_key_id
        if key_id == NO_KEY:
            return
        if kind == Kind.OBJECT:
            self.records[key_id] = self.records.get(key_id, 0) + 1
        elif kind == Kind.STUDY_KEY_CREATED:
            self.records.setdefault(key_id, 0)
        elif kind == Kind.SHRED_SCHEDULED:
            self.shredded.add(key_id)
        elif kind == Kind.STUDY_REKEYED:
            self.replaced.add(key_id)


@dataclass(frozen=True, slots=True)
class Summary:
    """The numbers of records read and of keys in use, shredded, replaced and not used by any record yet, the
    providers that could not be asked about secrets of destroyed epochs, and why the keyring's rows could not be checked
    with its keys, if they could not ("")."""

    records: int = 0
    in_use: int = 0
    shredded: int = 0
    replaced: int = 0
    unused: int = 0
    unasked: tuple[str, ...] = ()
    unchecked: str = ""


class KeyAudit:
    """One audit of one archive: iterate over `findings`, then read `summary`."""

    def __init__(
        self,
        folder: ArchiveFolder,
        provider: KekProvider,
        progress: Callable[[int, int], None] = lambda _done, _total: None,
    ) -> None:
        """`provider` is asked which epochs it opens, and where it can, for the keys of the sums over the rows.
        `progress` regularly gets the number of records read and of all, as far as known."""
        self._folder = folder
        self._provider = provider
        self._progress = progress
        self._log = _LoggedKeys()
        self._remembered: Checkpoint | None = None
        self._head: bytes | None = None  # tree head of the log at the size that the keyring remembers
        self._unchecked = ""
        self.summary = Summary()

    def findings(self) -> Iterator[str]:
        """Yield each disagreement as a sentence, once. Raises NotFoundError if there is no keyring."""
        told: set[str] = set()
        for what in self._findings():
            if what not in told:  # with a key and without one, some look the same
                told.add(what)
                yield what

    def _findings(self) -> Iterator[str]:
        seen = inspect_keyring(self._folder)
        self._remembered = seen.remembered
        if self._remembered is not None and self._remembered.size == 0:
            self._head = self._log.tree.root()
        yield from (finding.what for finding in seen.findings)
        if not seen.readable:
            return
        damage = self._read_log()
        if damage is not None:
            yield f"the log cannot be read to its end; what follows is not checked: {damage} (coffer verify says more)"
        elif (fork := self._fork()) is not None:
            yield fork
        before = self._log.copy()
        try:
            keyring = list_keyring(self._folder.keyring)
        except NotFoundError:
            raise
        except CofferError as error:
            yield f"the keyring: {error}"
            return
        if damage is None:
            self._read_log()  # the keyring may know records that came meanwhile, but need not: `before`
        yield from keyring.complaints
        yield from self._altered(is_log_whole=damage is None)
        if keyring.header is not None and keyring.header.archive_id != self._folder.archive_id:
            yield f"this is the keyring of another archive, {keyring.header.archive_id.hex()}"
            return
        yield from _missing(before, keyring)
        yield from _revived(before, keyring)
        yield from self._unexplained(keyring)
        yield from _broken_claims(keyring)
        if damage is None:
            yield from _unrecorded(self._log, keyring)
        yield from _lost_epochs(keyring)
        yield from _without_keeper(keyring)
        back = returned(keyring.epochs.values(), keyring.keepers, self._provider)
        for epoch in back.epochs:
            yield f"the secret of destroyed epoch {epoch} is back at its provider: coffer keys destroy {epoch}"
        self._sum_up(keyring, back.unasked)

    def _altered(self, *, is_log_whole: bool) -> Iterator[str]:
        """Yield what only a key shows: somebody without it can make the other sums fit, and reads no event of the
        log."""
        try:
            keyring = open_keyring(self._folder, self._provider, readonly=True)
        except (IntegrityError, FormatError) as error:
            yield f"the keyring: {error}"
            return
        except CofferError as error:
            self._unchecked = str(error)
            return
        try:
            complaint = keyring.complaint()
            if complaint is not None:
                yield f"the keyring: {complaint}"
            if is_log_whole:
                yield from contradictions(self._folder, keyring, self._log.events)
        except IntegrityError as error:
            yield str(error)
        finally:
            keyring.close()

    def _read_log(self) -> CofferError | None:
        """Read the log on from where the last call ended; returns the damage that stopped it, if any."""
        logged, reader = self._log, LogReader(self._folder)
        try:
            signed = read_checkpoint(self._folder)
        except IntegrityError:
            signed = None  # `inspect_keyring` has reported it
        total = signed.size if signed is not None else 0
        try:
            for position, header in reader.records(logged.end):
                logged.add(position, header)
                if self._remembered is not None and logged.end == self._remembered.size:
                    self._head = logged.tree.root()
                if logged.end % _EVERY == 0:
                    self._progress(logged.end, max(total, logged.end))
        except IntegrityError as error:
            return error
        finally:
            reader.close()
            self._progress(logged.end, max(total, logged.end))
        return None

    def _fork(self) -> str | None:
        """Return how the histories of log and keyring differ, or None."""
        if self._remembered is None or self._head == self._remembered.root:
            return None
        if self._head is None:
            size = self._remembered.size
            return f"the log has {self._log.end} records, and the keyring remembers {size}: coffer recover"
        return f"the keyring belongs to another history: its first {self._remembered.size} records differ"

    def _unexplained(self, keyring: KeyringListing) -> Iterator[str]:
        """Yield destroyed keys of which neither the log nor an event waiting for it gives the reason."""
        waiting = {each.study_key_id for each in keyring.events}
        under_way = {key_id for each in keyring.rekeys.values() for key_id in (each.old, each.new)}
        for key_id, tombstone in keyring.tombstones.items():
            recorded = self._log.shredded if tombstone.reason is Reason.SHREDDED else self._log.replaced
            if key_id not in recorded | waiting and key_id not in under_way:
                why = tombstone.reason.name.lower()
                yield f"key {key_id.hex()} was destroyed ({why}), and the log has no record of it"

    def _sum_up(self, keyring: KeyringListing, unasked: tuple[str, ...]) -> None:
        alive = keyring.keys.keys() - keyring.tombstones.keys()
        used = alive & self._log.records.keys()
        replaced = sum(tombstone.reason is Reason.REKEYED for tombstone in keyring.tombstones.values())
        self.summary = Summary(
            self._log.end,
            len(used),
            len(keyring.tombstones) - replaced,
            replaced,
            len(alive) - len(used),
            unasked,
            self._unchecked,
        )


def _missing(log: _LoggedKeys, keyring: KeyringListing) -> Iterator[str]:
    """Yield keys that the log names and of which the keyring has neither the key nor a tombstone."""
    gone = keyring.tombstones.keys() | log.shredded | log.replaced  # `_revived` reports the last two
    for key_id, records in log.records.items():
        if key_id not in keyring.keys and key_id not in gone:
            yield f"key {key_id.hex()} is missing: {records} objects cannot be opened"


def _revived(log: _LoggedKeys, keyring: KeyringListing) -> Iterator[str]:
    """Yield keys that were shredded or replaced, but have no tombstone in the keyring."""
    replaced = log.replaced - keyring.rekeys.keys()  # the last step of a rekey follows its record
    for key_id in sorted((log.shredded | replaced) - keyring.tombstones.keys()):
        what = "shredded" if key_id in log.shredded else "replaced by a rekey"
        if key_id in keyring.keys:
            yield f"key {key_id.hex()} was {what}, and is alive in this keyring"
        else:
            yield f"key {key_id.hex()} was {what}, and this keyring knows nothing of it"


def _broken_claims(keyring: KeyringListing) -> Iterator[str]:
    """Yield claims that lead to no key of theirs, and keys whose claim leads elsewhere: two keys of one patient's part
    of a study, of which a new object could get the wrong one."""
    for token, claim in keyring.claims.items():
        row = keyring.keys.get(claim.key_id)
        if row is None or claim.key_id in keyring.tombstones:
            yield f"claim {token.hex()} leads to key {claim.key_id.hex()}, which is not in use"
        elif row.claim != token:
            yield f"claim {token.hex()} leads to key {claim.key_id.hex()}, which is not its own"
    for key_id, row in keyring.keys.items():
        if not row.has_claim:
            continue
        found = keyring.claims.get(row.claim)
        if found is None:
            yield f"key {key_id.hex()} has claim {row.claim.hex()}, which is not there"
        elif found.key_id != key_id:
            yield f"key {key_id.hex()} and key {found.key_id.hex()} have one claim"


def _unrecorded(log: _LoggedKeys, keyring: KeyringListing) -> Iterator[str]:
    """Yield keys of which the keyring knows that the log had a record, and the log has none: it was put back."""
    for claim in keyring.claims.values():
        if claim.from_seq == RECORDED and claim.key_id not in log.records:
            yield f"key {claim.key_id.hex()} was recorded, and the log has no record of it: the log is the older one"


def _without_keeper(keyring: KeyringListing) -> Iterator[str]:
    """Yield epochs without a known opener: an erasure under them could never be proved."""
    known = {(each.epoch, each.kind) for each in keyring.keepers}
    for number, row in sorted(keyring.epochs.items()):
        if (number, row.provider) not in known:
            yield f"the keyring does not say which secret of its {row.provider} provider opens epoch {number}"


def _lost_epochs(keyring: KeyringListing) -> Iterator[str]:
    """Yield epochs that wrap living keys but cannot be opened."""
    users: dict[int, int] = {}
    for key_id, row in keyring.keys.items():
        epoch = keyring.epochs.get(row.epoch)
        if key_id not in keyring.tombstones and (epoch is None or epoch.kek_id != row.kek_id or epoch.state in GONE):
            users[row.epoch] = users.get(row.epoch, 0) + 1
    for number, count in sorted(users.items()):
        state = "is not in this keyring" if number not in keyring.epochs else "is destroyed or another one"
        yield f"{count} keys are under epoch {number}, which {state}"
    current = keyring.header.epoch if keyring.header is not None else 0
    if current not in keyring.epochs:
        yield f"the current epoch, {current}, is not in this keyring"
