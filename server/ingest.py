"""Receive one object: spool, identify, seal under its study's key, append, index, and only then say so.

Rule: a success outcome is returned after the record and the key that opens it are on stable storage and the instance
can be found. The bytes are never changed, parsed for more than their identity, or written readable anywhere. How they
arrived is the door's business; this module sees a data set and the identity its request gave.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from archive.log import Entry, Position, SealedFile
from archive.record import Flags, Kind
from index.elements import Header, scan
from index.entry import Identity, InstanceEntry, extract
from index.objectmeta import ObjectMeta
from index.rows import Version
from keys.derive import hmac_sha256
from keys.errors import CofferError
from keys.keyring import StudyKey, clock_ms
from server.access import Action
from server.dimse.services import StoreOutcome, StoreRequest
from server.dimse.status import DimseStatusError, status_of
from server.logs import short_id
from server.vault import Vault

_log = structlog.get_logger(__name__)

SUCCESS = 0x0000
DOES_NOT_MATCH = 0xA900  # PS3.4 Table B.2-1: Data Set does not match SOP Class
_LONGEST_UID = 64  # PS3.5 9.1
_SOP_CLASS, _SOP_INSTANCE = 0x00080016, 0x00080018


class Ingest:
    """The only way into the archive. One instance serves all doors and threads."""

    def __init__(self, vault: Vault) -> None:
        self.vault = vault
        self._fresh: dict[str, StudyKey] = {}  # keys of studies that the index does not know yet
        self._fresh_lock = threading.Lock()
        self._busy: set[tuple[str, str]] = set()
        self._idle = threading.Condition()

    def begin(self, request: StoreRequest) -> "Reception":
        """Start to receive one object. Raises AccessDeniedError, or UnavailableError where nothing can be stored."""
        self.vault.policy.require(Action.STORE, request.caller.calling_ae)
        self.vault.log.require_writable()
        return Reception(self, request)

    @contextmanager
    def only_one(self, study_uid: str, sop_uid: str) -> Iterator[None]:
        """Let no second copy of one instance be compared with the index while the first is on its way into it."""
        key = (study_uid, sop_uid)
        with self._idle:
            self._idle.wait_for(lambda: key not in self._busy)
            self._busy.add(key)
        try:
            yield
        finally:
            with self._idle:
                self._busy.discard(key)
                self._idle.notify_all()

    def study_key(self, study_uid: str) -> tuple[StudyKey, bool]:
        """The key of a study, durable, and whether no record of the study is known to be in the log yet."""
        with self._fresh_lock:
            known = self.vault.index.study_key_for(study_uid)
            if known is not None:
                self._fresh.pop(study_uid, None)
                return self.vault.keyring.study(known), False
            if study_uid not in self._fresh:
                # The most damaging order possible would be a record before its key: the key is synced here.
                self._fresh[study_uid] = self.vault.keyring.new_study()
            return self._fresh[study_uid], True


class Reception:
    """One object on its way in: `write` its bytes, then `finish` or `abort`. Used by one thread."""

    def __init__(self, ingest: Ingest, request: StoreRequest) -> None:
        self._ingest = ingest
        self._vault = ingest.vault
        self._request = request
        self._spool = self._vault.new_spool()
        self._started = time.perf_counter()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes of the data set. Raises UnavailableError beyond the memory or size limits."""
        self._spool.write(data)

    def abort(self) -> None:
        """Forget what was received."""
        self._spool.close()

    def finish(self) -> StoreOutcome:
        """Store what was received; durable on return of status 0x0000. Never raises a CofferError: see the status."""
        try:
            outcome = self._store()
        except DimseStatusError as error:
            outcome = StoreOutcome(error.status, error.comment, error.offending)
        except CofferError as error:
            status, comment = status_of(error)
            _log.warning("store failed", status=f"{status:04X}", cause=str(error), way_out=error.hint())
            outcome = StoreOutcome(status, comment, ())
        finally:
            self._spool.close()
        seconds = time.perf_counter() - self._started
        self._vault.metrics.stored(outcome.status, self._spool.size, seconds, duplicate=outcome.duplicate)
        return outcome

    def _store(self) -> StoreOutcome:
        vault, request = self._vault, self._request
        header = scan(self._spool.read, self._spool.size, request.transfer_syntax, vault.limits)
        self._check_identity(header)
        entry = extract(header, Identity(request.sop_class, request.sop_instance))
        with self._ingest.only_one(entry.study_uid, entry.sop_instance):
            key, is_fresh = self._ingest.study_key(entry.study_uid)
            content_id = hmac_sha256(key.cid, self._spool.sha256())
            versions = vault.index.known_content(entry.study_uid, entry.series_uid, entry.sop_instance)
            if any(v.content_id == content_id for v in versions):
                return StoreOutcome(SUCCESS, "", (), duplicate=True)
            position = self._append(header, entry, key, content_id, is_fresh=is_fresh)
        _log.info(
            "stored",
            sop_instance=short_id(entry.sop_instance),
            study=short_id(entry.study_uid),
            seq=position.seq,
            calling_ae=request.caller.calling_ae,
            bytes=self._spool.size,
            problem=header.problem,
        )
        return StoreOutcome(SUCCESS, "", ())

    def _check_identity(self, header: Header) -> None:
        """PS3.4 B.2.3: the request's UIDs must be those of the data set where the data set has them."""
        given = ((_SOP_CLASS, self._request.sop_class), (_SOP_INSTANCE, self._request.sop_instance))
        offending = tuple(tag for tag, uid in given if not _is_same(header.text(tag), uid))
        if offending:
            raise DimseStatusError(DOES_NOT_MATCH, "SOP UIDs of command and data set differ", offending)

    def _append(
        self, header: Header, entry: InstanceEntry, key: StudyKey, content_id: bytes, *, is_fresh: bool
    ) -> Position:
        vault, request = self._vault, self._request
        now = clock_ms()
        meta = ObjectMeta(
            transfer_syntax=request.transfer_syntax,
            sop_class=entry.sop_class,
            sop_instance=entry.sop_instance,
            study_uid=entry.study_uid,
            source_ae=request.caller.calling_ae,
            received_ms=now,
            file_meta=request.file_meta,
            preamble=request.preamble,
        )
        body = vault.seal(key, content_id, meta.encode(), self._spool, entry.layout)
        flags = Flags.UNINDEXED if header.problem else Flags(0)
        entries = [Entry(Kind.OBJECT, key.key_id, flags, content_id, body, now)]
        if is_fresh:
            entries.insert(0, Entry(Kind.STUDY_KEY_CREATED, key.key_id, Flags(0), bytes(32), key.kcv, now))
        try:
            position = vault.log.append(entries)[-1]
        finally:
            if isinstance(body, SealedFile):
                body.path.unlink()
        version = Version.of(position, content_id, request.transfer_syntax, self._spool.size, now, flags)
        vault.index.apply(version, key.key_id, entry, covers=len(entries))
        return position


def _is_same(stored: str, named: str) -> bool:
    """Whether a UID of the data set is the one the request names; toolkits cut an overlong one at 64 characters."""
    return not stored or stored == named or (len(stored) > _LONGEST_UID and stored[:_LONGEST_UID] == named)
