"""Receive one object: draft, identify, seal under the key of its patient's study, commit, and only then say so.

Rule: a success outcome is returned after the record and the key that opens it are on stable storage and the instance
can be found. The bytes are never changed, parsed for more than their identity, or written readable anywhere. How they
arrived is the door's business; this module sees a data set and the identity its request gave.
"""

import time
from typing import Protocol

import structlog

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
from coffer.keys.errors import CofferError, FaultError, MismatchError, UnavailableError
from coffer.server.access.action import Action
from coffer.server.access.decision import Policy
from coffer.server.engine.commit import Committed, Sealed
from coffer.server.engine.sealing import Intake
from coffer.server.observe.logs import is_verbose, short_id
from coffer.server.services.api import StoreOutcome, StoreRequest

_log = structlog.get_logger(__name__)

_LONGEST_UID = 64  # PS3.5 9.1
_SOP_CLASS, _SOP_INSTANCE = 0x00080016, 0x00080018
_NO_OTHER = "announce an object by the UIDs that it has, at most 64 characters each"
_MOST_TRIES = 4  # a study that is shredded while its objects come in gets a new key each time


class CommitPort(Protocol):
    """The way from sealing to the one committer: in this process, or over a line to the one that commits."""

    def study_key(self, part: PartId) -> StudyKey:
        """The key of a part of a study, durable. Raises UnavailableError where nothing can be stored now."""

    def memory(self, length: int) -> memoryview:
        """Where a body of so many bytes is sealed for `commit`: one at a time. Raises UnavailableError."""

    def commit(self, sealed: Sealed, body: memoryview | SealedFile) -> Committed:
        """Store it; durable on return, and can be found. Raises UnavailableError.

        A SealedFile stays the caller's; memory is what `memory` gave last, and must not be used any more.
        """


class Ingest:
    """The only way into the archive for a data set. Serves any number of threads as far as its port does."""

    def __init__(self, intake: Intake, port: CommitPort, policy: Policy, rules: Rules) -> None:
        self.intake = intake
        self.port = port
        self.rules = rules
        self._policy = policy

    def begin(self, request: StoreRequest) -> "Reception":
        """Start to receive one object. Raises AccessDeniedError."""
        self._policy.require(request.caller, Action.STORE)
        return Reception(self, request)


class Reception:
    """One object on its way in: `write` its bytes, then `finish` or `abort`. Used by one thread."""

    def __init__(self, ingest: Ingest, request: StoreRequest) -> None:
        self._intake = ingest.intake
        self._port = ingest.port
        self._rules = ingest.rules
        self._request = request
        self._draft = self._intake.new_draft()
        self._early: DataSetHeader | None = None
        self._look_at = FRAME_BYTES
        self._started = time.monotonic()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes of the data set. Raises UnavailableError beyond the memory or size limits."""
        self._draft.write(data)
        if self._draft.size >= self._look_at and not self._draft.is_laid_out:
            self._look()

    def _look(self) -> None:
        """See whether the header is there; once it is, frames can be coded while the rest arrives."""
        limits = self._intake.header_limits
        self._look_at = 2 * self._draft.size
        self._early = scan_early(self._draft.read, self._request.transfer_syntax, limits)
        if self._early is not None or self._draft.size > limits.bytes:
            self._draft.lay_out(pixel_layout(self._early) if self._early is not None else None)

    def abort(self) -> None:
        """Forget what was received."""
        self._draft.close()

    def finish(self) -> StoreOutcome:
        """Store what was received; durable on return without an error in the outcome. Never raises."""
        try:
            return self._store()
        except CofferError as error:
            return StoreOutcome(error=error)
        except Exception as error:  # noqa: BLE001  # one object must not end an association, or an import
            _log.exception("an object was not stored: a fault of ours")
            return StoreOutcome(error=_fault(error))
        finally:
            self._draft.close()

    def _store(self) -> StoreOutcome:
        header = self._header()
        self._check_identity(header)
        entry = extract(header, Identity(self._request.sop_class, self._request.sop_instance))
        self._draft.finish(entry.layout)
        part = self._rules.part_of(entry, self._request.caller.ae_title)
        for _ in range(_MOST_TRIES):
            done = self._commit(header, entry, self._port.study_key(part))
            if not done.stale:
                break
        else:
            raise UnavailableError("the study's key changed again and again", hint="send the object again")
        if is_verbose():
            _log.debug(
                "stored",
                sop_instance=short_id(entry.sop_instance),
                study=short_id(entry.study_uid),
                seq=done.seq,
                calling_ae=self._request.caller.ae_title,
                bytes=self._draft.size,
                duplicate=done.duplicate,
                problem=header.problem or entry.problem,
            )
        return StoreOutcome(duplicate=done.duplicate)

    def _header(self) -> DataSetHeader:
        """The header as a whole: what was read early, where nothing follows the pixel data."""
        early, draft = self._early, self._draft
        pixel = early.pixel if early is not None and early.problem is None else None
        if early is not None and pixel is not None and pixel.whole and pixel.offset + pixel.length == draft.size:
            return early
        return scan(draft.read, draft.size, self._request.transfer_syntax, self._intake.header_limits)

    def _check_identity(self, header: DataSetHeader) -> None:
        """PS3.4 B.2.3: the request's UIDs must be those of the data set where the data set has them."""
        given = ((_SOP_CLASS, self._request.sop_class), (_SOP_INSTANCE, self._request.sop_instance))
        if offending := tuple(tag for tag, uid in given if len(uid) > longest_of(tag, "UI")):
            raise MismatchError("a SOP UID is longer than an index can hold", hint=_NO_OTHER, offending=offending)
        offending = tuple(tag for tag, uid in given if not _is_same(header.text(tag), uid))
        if offending:
            raise MismatchError("SOP UIDs of command and data set differ", hint=_NO_OTHER, offending=offending)

    def _commit(self, header: DataSetHeader, entry: InstanceEntry, key: StudyKey) -> Committed:
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
        )
        body = self._intake.seal(key, content_id, meta.encode(), self._draft, self._port.memory)
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
        )
        try:
            return self._port.commit(sealed, body)
        finally:
            if isinstance(body, SealedFile):
                discard(body.path)


def _fault(error: Exception) -> FaultError:
    fault = FaultError(f"a fault of the archive: {type(error).__name__}", hint="the log has the traceback: report it")
    fault.__cause__ = error
    return fault


def _is_same(stored: str, named: str) -> bool:
    """Whether a UID of the data set is the one the request names; toolkits cut an overlong one at 64 characters."""
    return not stored or stored == named or (len(stored) > _LONGEST_UID and stored[:_LONGEST_UID] == named)
