"""Receive one object: draft, identify, seal under the key of its patient's study, commit, and only then acknowledge.

Rule: success is returned only after the record and the key that opens it are on stable storage and the instance can be
found. The bytes are never changed, parsed for more than their identity, or written in plain text anywhere. The door
knows how they arrived; this module sees a data set and the identity stated in its request.
"""

import time
from typing import Protocol

from coffer.archive.codec.frames import FRAME_BYTES
from coffer.archive.format.entry import SealedFile
from coffer.archive.format.record import Flags
from coffer.index.dicom.bounds import longest_of
from coffer.index.dicom.headers import DataSetHeader, scan, scan_early
from coffer.index.instance.entry import Identity, InstanceEntry, extract, pixel_layout
from coffer.index.instance.identity import PartId, Rules
from coffer.index.instance.object_meta import ObjectMeta
from coffer.keys.clock import clock_ms
from coffer.keys.crypto.derive import hmac_sha256
from coffer.keys.crypto.study_key import StudyKey
from coffer.keys.disk.durable import discard
from coffer.keys.errors import (
    CofferError,
    FaultError,
    KeyUnavailableError,
    MismatchError,
    ShreddedError,
    UnavailableError,
)
from coffer.server.access.action import Action, Resource
from coffer.server.access.decision import Policy
from coffer.server.engine.commit import Committed, Sealed
from coffer.server.engine.sealing import Intake
from coffer.server.observe.logs import get_logger, is_verbose, short_id
from coffer.server.services.api import StoreOutcome, StoreRequest

_log = get_logger()

_LONGEST_UID = 64  # PS3.5 9.1
_SOP_CLASS, _SOP_INSTANCE = 0x00080016, 0x00080018
_NO_OTHER = "send an object under its own UIDs, at most 64 characters each"
# A study that is shredded while its objects arrive gets a new key each time; a further version of an instance is sealed
# again to name its predecessor, and once more for each other version that was committed meanwhile.
_MOST_TRIES = 8


class CommitPort(Protocol):
    """The way from sealing to the committer: in this process, or over a line to the committing process."""

    def study_key(self, part: PartId) -> StudyKey:
        """The key of a part of a study, durable. Raises UnavailableError if nothing can be stored now."""

    def require_key(self, key_id: bytes) -> None:
        """Return if a key that `study_key` returned may be used now; asked before each use.

        Raises ShreddedError, SupersededError or KeyUnavailableError where it was taken away, UnavailableError where
        nobody can be asked.
        """

    def memory(self, length: int) -> memoryview:
        """Memory in which a body of `length` bytes is sealed for `commit`: one at a time. Raises UnavailableError."""

    def commit(self, sealed: Sealed, body: memoryview | SealedFile) -> Committed:
        """Store an object; on return it is durable and can be found. Raises UnavailableError.

        Where the result is stale, nothing was stored: the caller seals the object again, as `Committed` says. It keeps
        a SealedFile; memory is what `memory` returned last, and must not be used afterwards.
        """


class Ingest:
    """The only way into the archive for a data set. Thread-safe if its port is."""

    def __init__(self, intake: Intake, port: CommitPort, policy: Policy, rules: Rules) -> None:
        self.intake = intake
        self.port = port
        self.rules = rules
        self._policy = policy

    def begin(self, request: StoreRequest) -> "IncomingObject":
        """Begin to receive one object. Raises AccessDeniedError."""
        self._policy.require(request.caller, Action.STORE, Resource.arriving(request.sop_class))
        return IncomingObject(self, request)


class IncomingObject:
    """One object being received: `write` its bytes, then `finish` or `abort`. Used by one thread."""

    def __init__(self, ingest: Ingest, request: StoreRequest) -> None:
        self._intake = ingest.intake
        self._port = ingest.port
        self._rules = ingest.rules
        self._request = request
        self._draft = self._intake.new_draft()
        self._early: DataSetHeader | None = None
        self._parse_at = FRAME_BYTES
        self._started = time.monotonic()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Add the next bytes of the data set. Raises UnavailableError beyond the memory or size limits."""
        self._draft.write(data)
        if self._draft.size >= self._parse_at and not self._draft.is_laid_out:
            self._parse_early()

    def _parse_early(self) -> None:
        """Parse the header once it is complete, so that frames can be coded while the rest arrives."""
        limits = self._intake.header_limits
        self._parse_at = 2 * self._draft.size
        self._early = scan_early(self._draft.read, self._request.transfer_syntax, limits)
        if self._early is not None or self._draft.size > limits.bytes:
            self._draft.lay_out(pixel_layout(self._early) if self._early is not None else None)

    def abort(self) -> None:
        """Discard what was received."""
        self._draft.close()

    def finish(self) -> StoreOutcome:
        """Store what was received; durable on return without an error in the outcome. Never raises."""
        try:
            return self._store()
        except CofferError as error:
            return StoreOutcome(error=error)
        except Exception as error:  # noqa: BLE001  # one object must not end an association, or an import
            _log.exception("an object was not stored: internal error", name="object.store_failed")
            return StoreOutcome(error=_fault(error))
        finally:
            self._draft.close()

    def _store(self) -> StoreOutcome:
        header = self._header()
        self._check_identity(header)
        entry = extract(header, Identity(self._request.sop_class, self._request.sop_instance))
        self._draft.finish(entry.layout)
        part = self._rules.part_of(entry, self._request.caller.ae_title)
        previous = b""  # nearly every object is a first version, and asking would cost each of them a round trip
        for _ in range(_MOST_TRIES):
            done = self._commit(header, entry, self._port.study_key(part), previous)
            if not done.stale:
                break
            previous = previous if done.previous is None else done.previous
        else:
            raise UnavailableError(
                "the study's key, or the newest version of the instance, kept changing", hint="send the object again"
            )
        problem = header.problem or entry.problem or (None if entry.study_uid else "it has no Study Instance UID")
        if problem is not None and not done.duplicate:
            _log.warning(
                "an object was stored, and not all queries find it",
                name="object.unindexed",
                **self._told(entry, done),
                problem=problem,
            )
        elif is_verbose():
            _log.debug(
                "an object was stored", name="object.stored", **self._told(entry, done), duplicate=done.duplicate
            )
        return StoreOutcome(duplicate=done.duplicate)

    def _told(self, entry: InstanceEntry, done: Committed) -> dict[str, object]:
        """What a line of the log says of an object."""
        return {
            "sop_instance": short_id(entry.sop_instance), "study": short_id(entry.study_uid), "seq": done.seq,
            "calling_ae": self._request.caller.ae_title, "bytes": self._draft.size,
        }  # fmt: skip

    def _header(self) -> DataSetHeader:
        """The whole header: the one parsed early, if nothing follows the pixel data."""
        early, draft = self._early, self._draft
        pixel = early.pixel if early is not None and early.problem is None else None
        if early is not None and pixel is not None and pixel.whole and pixel.offset + pixel.length == draft.size:
            return early
        return scan(draft.read, draft.size, self._request.transfer_syntax, self._intake.header_limits)

    def _check_identity(self, header: DataSetHeader) -> None:
        """PS3.4 B.2.3: the request's UIDs must equal those of the data set, if the data set has them."""
        given = ((_SOP_CLASS, self._request.sop_class), (_SOP_INSTANCE, self._request.sop_instance))
        if offending := tuple(tag for tag, uid in given if len(uid) > longest_of(tag, "UI")):
            raise MismatchError("a SOP UID is longer than the index can hold", hint=_NO_OTHER, offending=offending)
        offending = tuple(tag for tag, uid in given if not _is_same(header.text(tag), uid))
        if offending:
            raise MismatchError("SOP UIDs of command and data set differ", hint=_NO_OTHER, offending=offending)

    def _commit(self, header: DataSetHeader, entry: InstanceEntry, key: StudyKey, previous: bytes) -> Committed:
        """Seal the object, naming the content id of the version before it (empty: none), and commit it."""
        request, now = self._request, clock_ms()
        content_id = hmac_sha256(key.cid, self._draft.sha256())
        meta = ObjectMeta(
            transfer_syntax=request.transfer_syntax,
            sop_class=entry.sop_class,
            sop_instance=entry.sop_instance,
            study_uid=entry.study_uid,
            source_ae=request.caller.ae_title,
            received_ms=now,
            file_meta=request.file_meta,
            preamble=request.preamble,
            previous=previous or None,
        )
        body = self._intake.seal(
            key, content_id, meta.encode(), self._draft, self._port.memory, lambda: self._require(key)
        )
        sealed = Sealed(
            key.key_id,
            content_id,
            body.sha256 if isinstance(body, SealedFile) else b"",
            Flags.UNINDEXED if header.problem or entry.problem else Flags(0),
            request.transfer_syntax,
            self._draft.size,
            now,
            self._started,
            request.caller.ae_title,
            entry,
            previous,
        )
        try:
            return self._port.commit(sealed, body)
        finally:
            if isinstance(body, SealedFile):
                discard(body.path)

    def _require(self, key: StudyKey) -> None:
        """Raise UnavailableError if the key was taken away, or nobody can say that it was not: nothing more is sealed
        under it."""
        try:
            self._port.require_key(key.key_id)
        except (ShreddedError, KeyUnavailableError) as error:
            raise UnavailableError(
                "the key of the study was taken away while the object was sealed", hint="send the object again"
            ) from error


def _fault(error: Exception) -> FaultError:
    fault = FaultError(f"internal error: {type(error).__name__}", hint="report it with the traceback in the log")
    fault.__cause__ = error
    return fault


def _is_same(stored: str, named: str) -> bool:
    """Whether the UIDs of data set and request are equal; toolkits truncate an overlong one to 64 characters."""
    return not stored or stored == named or (len(stored) > _LONGEST_UID and stored[:_LONGEST_UID] == named)
