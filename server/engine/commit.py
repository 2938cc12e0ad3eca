"""Commit sealed objects: one place decides what is a duplicate, appends to the log, and updates the index.

Rule: the order is key, record, index, answer. Objects that arrive while a commit runs join the next one, so that any
number of waiting objects share one sync. Nothing is parsed or sealed here: it must stay cheap, because everything that
is stored passes through it one after another.
"""

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct

from coffer.archive.format.entry import Entry, SealedFile
from coffer.archive.format.record import Flags, Kind
from coffer.archive.log import LogWriter
from coffer.archive.reader import LogReader
from coffer.index.index import Index
from coffer.index.instance.entry import InstanceEntry
from coffer.index.instance.identity import PartId, are_apart
from coffer.index.tables.rows import Version
from coffer.keys.crypto.study_key import StudyKey
from coffer.keys.errors import CofferError, ShreddedError, UnavailableError
from coffer.keys.keyring.claims import RECORDED, Claim
from coffer.keys.keyring.keyring import Keyring
from coffer.server.host.headroom import require_descriptors
from coffer.server.observe.logs import get_logger, short_id

if TYPE_CHECKING:  # for types alone: workers and most commands count nothing and do without prometheus_client
    from coffer.server.observe.metrics import Metrics

_log = get_logger()

__all__ = ["Committed", "Committer", "Parcel", "Sealed"]

_SUCCESS = 0x0000
_NO_CONTENT = bytes(32)


class Sealed(Struct, frozen=True, array_like=True):
    """What the log and the index need to know of a sealed object.

    `data_bytes` is its data set's length, `received_ms` counts from 1970 UTC, `started` is a reading of the machine's
    monotonic clock in seconds, at its first byte. `body_sha256` is the hash of a body in a file, which the log checks;
    for a body in memory it is empty, and the log computes it. `previous` is what the object's meta says of its
    predecessor: the content id, as first stored, of the newest version of the instance; empty if there is none.
    """

    key_id: bytes
    content_id: bytes
    body_sha256: bytes
    flags: int
    transfer_syntax: str
    data_bytes: int
    received_ms: int
    started: float
    source_ae: str
    entry: InstanceEntry
    previous: bytes = b""


class Committed(Struct, frozen=True, array_like=True):
    """How a commit ended: the record's number, whether the same bytes were already stored, or that the object is stale:
    then nothing was written and it must be sealed again. Without `previous` its key is no longer that of its part; with
    it the key is still right, and this is the predecessor that the object must name (empty: none)."""

    seq: int = -1
    duplicate: bool = False
    stale: bool = False
    previous: bytes | None = None


class Parcel(NamedTuple):
    """One object to commit."""

    sealed: Sealed
    body: memoryview | SealedFile


class _NewVersion(NamedTuple):
    """A further version of a stored instance: whether it belongs to another patient than the newest before it, and
    whether it replaces the version served."""

    is_moved: bool
    replaces: bool
    sealed: Sealed


class _Ticket:
    __slots__ = ("done", "error", "parcels", "results")

    def __init__(self, parcels: Sequence[Parcel]) -> None:
        self.parcels = parcels
        self.results: list[Committed] = []
        self.error: CofferError | None = None
        self.done = False


class Committer:
    """The only way into the log for objects. Thread-safe; one per archive."""

    def __init__(self, keyring: Keyring, log: LogWriter, reader: LogReader, index: Index, metrics: "Metrics") -> None:
        self._keyring = keyring
        self._log = log
        self._reader = reader
        self._index = index
        self._metrics = metrics
        self._queue: list[_Ticket] = []
        self._queue_lock = threading.Lock()
        self._lock = threading.Lock()
        self.refusal: UnavailableError | None = None  # set while stored objects could not be opened after a restart

    def study_key(self, part: PartId) -> StudyKey:
        """The key of one patient's objects of a study, as `study_keys`."""
        return self.study_keys([part])[0]

    def study_keys(self, parts: Sequence[PartId]) -> list[StudyKey]:
        """The keys of these parts, created where there are none, in one commit; durable.

        The keyring's claims decide: the index can be lost or planted, and decides nothing that is written. A record
        before its key would be the most damaging order possible, so the keys are synced here. Raises UnavailableError
        if nothing can be stored.
        """
        self.require_accepting()
        return self._keyring.claims.keys_for([part.text for part in parts], self._log.next_seq)

    def require_key(self, key_id: bytes) -> None:
        """Return if this key may be used now. Raises ShreddedError, SupersededError, KeyUnavailableError."""
        self._keyring.study(key_id)

    def commit(self, parcels: Sequence[Parcel]) -> list[Committed]:
        """Commit objects together; on return they are durable and can be found. Raises UnavailableError if none is."""
        self.require_accepting()
        ticket = _Ticket(parcels)
        with self._queue_lock:
            self._queue.append(ticket)
        with self._lock:
            if not ticket.done:
                with self._queue_lock:
                    tickets, self._queue = self._queue, []
                self._commit(tickets)
        if ticket.error is not None:
            raise ticket.error
        return ticket.results

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Keep commits out while the block runs; everything committed before can be found. Keep it short."""
        with self._lock:
            self._index.follow()
            yield

    def require_accepting(self) -> None:
        """Return if objects can be stored. Raises UnavailableError, or the error of the log, keyring or index.

        If one of them has stopped, all stop: a record without its key or its index row is useless. Nothing is begun
        that might have to stop for want of a file descriptor.
        """
        require_descriptors()
        self._log.require_writable()
        self._keyring.require_writable()
        self._index.require_writable()
        if self.refusal is not None:
            raise self.refusal.with_traceback(None)  # its traceback would grow at each raise

    def _report(self, batch: "_Batch") -> None:
        """Record new versions, and studies of several patients, in log and metrics."""
        for change in batch.changes:
            entry = change.sealed.entry
            self._metrics.version_stored(replaces=change.replaces, moved=change.is_moved)
            _log.warning(
                "another version of an instance was stored and is served from now on"
                if change.replaces
                else "another version of an instance was stored and is not served",
                name="version.added",
                sop_instance=short_id(entry.sop_instance),
                study=short_id(entry.study_uid),
                calling_ae=change.sealed.source_ae,
                another_patient=change.is_moved,
            )
        for study_uid in batch.shared:
            _log.warning(
                "objects of several patients have one Study Instance UID",
                name="study.shared",
                study=short_id(study_uid),
            )

    def _commit(self, tickets: list[_Ticket]) -> None:
        try:
            self._index.follow()
            batch = _Batch(self._index, self._keyring, self._reader)
            results = batch.commit(self._log, [parcel for ticket in tickets for parcel in ticket.parcels])
            self._report(batch)
        except Exception as error:  # noqa: BLE001  # every waiting caller must get its end, whatever it is
            if not isinstance(error, CofferError):
                _log.exception("a commit ended with an internal error", name="commit.failed")
                error = UnavailableError("nothing was stored: internal error", hint="see the server's log")
            for ticket in tickets:
                ticket.error, ticket.done = error, True
            return
        now = time.monotonic()
        for ticket in tickets:
            for parcel in ticket.parcels:
                result = results.pop(0)
                ticket.results.append(result)
                if not result.stale:
                    sealed = parcel.sealed
                    self._metrics.stored(_SUCCESS, sealed.data_bytes, now - sealed.started, result.duplicate)
            ticket.done = True


class _Newest(NamedTuple):
    """The newest version of an instance: its part, its entry in the batch or record in the log, and its content id as
    first stored."""

    part: PartId
    content_id: bytes
    transfer_syntax: str
    at: int
    is_new: bool
    first_content_id: bytes


class _Batch:
    """One commit: what is new in it, in order of arrival."""

    def __init__(self, index: Index, keyring: Keyring, reader: LogReader) -> None:
        self._index = index
        self._keyring = keyring
        self._reader = reader
        self._entries: list[Entry] = []
        self.announced: dict[Claim, PartId] = {}  # those whose key gets its first record in this batch
        self.changes: list[_NewVersion] = []
        self.shared: list[str] = []  # studies that got a further patient
        self._new: dict[tuple[str, str, str], _Newest] = {}  # what the batch stores, by instance

    def commit(self, log: LogWriter, parcels: Sequence[Parcel]) -> list[Committed]:
        places = [self._place(parcel) for parcel in parcels]
        appended = log.append(self._entries)
        for claim, part in self.announced.items():
            self._keyring.claims.recorded(part.text, claim)
        results = []
        for place, parcel in zip(places, parcels, strict=True):
            if isinstance(place, Committed):
                results.append(place)
                continue
            at, covers = place
            (position, time_ms), sealed = appended[at], parcel.sealed
            if covers:
                version = Version.of(
                    position, time_ms, sealed.content_id, sealed.transfer_syntax, sealed.data_bytes,
                    sealed.received_ms, sealed.flags, sealed.source_ae, previous=sealed.previous,
                )  # fmt: skip
                self._index.accept(version, sealed.key_id, sealed.entry, covers=covers, tip=log.tip)
            results.append(Committed(position.seq, duplicate=not covers))
        return results

    def _place(self, parcel: Parcel) -> Committed | tuple[int, int]:
        """Decide on a parcel: an immediate answer, or its entry and its number of records (0: a batch duplicate)."""
        sealed = parcel.sealed
        part = self._index.rules.part_of(sealed.entry, sealed.source_ae)
        claim = self._keyring.claims.find(part.text)
        if claim is None or sealed.key_id != claim.key_id:
            return Committed(stale=True)
        newest = self._newest(sealed)
        if newest is not None and newest[:3] == (part, sealed.content_id, sealed.transfer_syntax):
            return (newest.at, 0) if newest.is_new else Committed(newest.at, duplicate=True)
        # Objects are sealed without asking; only a further version is sealed a second time, to name its predecessor.
        previous = newest.first_content_id if newest is not None else b""
        if sealed.previous != previous:
            return Committed(stale=True, previous=previous)
        covers = 1
        if not self._is_announced(part, claim):
            try:
                key = self._keyring.study(claim.key_id)
            except ShreddedError:  # just now: it is a new study then
                return Committed(stale=True)
            self._announce(part, claim, sealed, key)
            covers = 2
        if newest is not None:
            self.changes.append(_NewVersion(newest.part != part, self._index.rules.replaces(sealed.source_ae), sealed))
        at = len(self._entries)
        self._entries.append(Entry(Kind.OBJECT, sealed.key_id, sealed.flags, sealed.content_id, parcel.body))
        content_id = sealed.content_id
        self._new[_instance(sealed)] = _Newest(part, content_id, sealed.transfer_syntax, at, True, content_id)
        return at, covers

    def _newest(self, sealed: Sealed) -> _Newest | None:
        """The version that this object may duplicate, and else names: the newest of the batch, else of the archive.

        An index that was lost is filled again before anything is committed. One that was altered answers nothing: the
        rows that are read here were checked by their keyed sums.
        """
        instance = _instance(sealed)
        if (new := self._new.get(instance)) is not None:
            return new
        found = self._index.newest_of(*instance)
        if found is None:
            return None
        part, version = found
        syntax, first = version.transfer_syntax, version.first_content_id
        return _Newest(part, version.content_id, syntax, version.seq, False, first)

    def _is_announced(self, part: PartId, claim: Claim) -> bool:
        """Whether the log, or this batch, has the record that announces a claim's key.

        The claim says from which record on to look for it, where a stop came between the record and the claim's mark.
        """
        if claim.from_seq == RECORDED or claim in self.announced:
            return True
        if claim.is_new:
            return False
        headers = (header for _, header in self._reader.records(claim.from_seq))
        found = any((h.kind, h.study_key_id) == (Kind.STUDY_KEY_CREATED, claim.key_id) for h in headers)
        if found:
            self._keyring.claims.recorded(part.text, claim)
        return found

    def _announce(self, part: PartId, claim: Claim, sealed: Sealed, key: StudyKey) -> None:
        """Add the record that announces a key, before the first object under it."""
        beside = (each for each in self.announced.values() if each.study_uid == part.study_uid)
        if part.study_uid and (any(are_apart(each, part) for each in beside) or self._index.has_another_patient(part)):
            self.shared.append(part.study_uid)
        self.announced[claim] = part
        self._entries.append(Entry(Kind.STUDY_KEY_CREATED, sealed.key_id, Flags(0), _NO_CONTENT, key.kcv))


def _instance(sealed: Sealed) -> tuple[str, str, str]:
    entry = sealed.entry
    return entry.study_uid, entry.series_uid, entry.sop_instance
