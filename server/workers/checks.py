"""Check that a worker's message can come from an honest worker: sizes, lengths, names, numbers and kinds.

Rule: pure. A worker parses bytes of strangers, so the committing process trusts none of its messages. The bounds are
those that the worker's own code keeps, so no mistake of a peer can exceed them. A message beyond them ends the line:
`BrokenRule` names the rule, never a value.
"""

import re
from dataclasses import dataclass
from typing import Final

from coffer.archive.body.head import FRAME, HEAD, MAX_META_BYTES
from coffer.archive.body.padding import padded_length
from coffer.archive.codec.frames import FRAME_BYTES
from coffer.archive.format.record import Flags
from coffer.index.dicom.attributes import STUDY_UID
from coffer.index.dicom.bounds import longest_of
from coffer.index.instance.entry import InstanceEntry, could_be_extracted
from coffer.keys.crypto import aead
from coffer.server.config.settings import Limits
from coffer.server.dimse.protocol import negotiation
from coffer.server.dimse.protocol.negotiation import Rejection
from coffer.server.dimse.scp.session import MAX_IDENTIFIER_BYTES
from coffer.server.engine.commit import Sealed
from coffer.server.observe.reached import Abort, Limit
from coffer.server.workers.messages import (
    Aborted,
    Answered,
    Commit,
    Find,
    Identify,
    KeyOf,
    Limited,
    Plan,
    Rejected,
    Renew,
    Request,
    Sent,
    StudyKeyFor,
)

__all__ = ["MAX_REQUEST_BYTES", "BrokenRule", "Now", "body_limits", "require_sound"]

MAX_REQUEST_BYTES: Final = MAX_IDENTIFIER_BYTES + (64 << 10)  # the longest message; a commit is far shorter
_ID, _HASH = 16, 32
_LONGEST_UID: Final = longest_of(STUDY_UID, "UI")
_LONGEST_SYNTAX: Final = 128
_LONGEST_AE: Final = 16  # the field of PS3.8 Table 9-11
_LONGEST_PROBLEM: Final = 200
_WRONG_CLOCK_MS: Final = 3_600_000  # both ends read the same clock; it may be set in between
_LARGEST: Final = 1 << 53
_LARGEST_STATUS: Final = 0xFFFF  # PS3.7 E.1, a field of two bytes
_LONGEST_SERVICE: Final = 16
_NAME: Final = re.compile(r"[0-9a-f]{16}\.sealed")
_REASONS: Final = frozenset(each.word for each in vars(negotiation).values() if isinstance(each, Rejection))
_ABORTS: Final = frozenset(Abort)
_MODELS: Final = frozenset({"patient", "study"})


class BrokenRule(Exception):  # noqa: N818  # what the worker did
    """A worker sent what an honest worker cannot send."""


@dataclass(frozen=True, slots=True)
class Now:
    """Both clocks: milliseconds since 1970 UTC, and the machine's monotonic one in seconds."""

    clock_ms: int
    monotonic: float


def body_limits(limits: Limits) -> tuple[int, int]:
    """The largest size in bytes of a sealed body, in memory and in a file."""
    frames = FRAME.size * (2 * limits.max_object_bytes // FRAME_BYTES + 16)
    beside = HEAD.size + MAX_META_BYTES + frames
    in_memory = beside + min(limits.memory_object_bytes, 2 * limits.max_object_bytes)
    in_file = beside + 2 * limits.max_object_bytes
    return aead.sealed_length(padded_length(in_memory)), aead.sealed_length(padded_length(in_file))


def require_sound(request: Request, limits: Limits, now: Now) -> None:
    """Raise BrokenRule for a message that an honest worker cannot send."""
    match request:
        case Commit(sealed, length, path):
            _require_body(sealed, length, path, limits)
            _require_sealed(sealed, limits, now)
            _require_entry(sealed.entry)
        case StudyKeyFor(part):
            _require(len(part.study_uid) <= _LONGEST_UID, "a UID that is too long")
        case KeyOf(key_id) | Renew(key_id):
            _require(len(key_id) == _ID, "an id of the wrong length")
        case Identify(claim):
            titles = (claim.calling_ae, claim.called_ae)
            _require(all(len(title) <= _LONGEST_AE for title in titles), "an AE title that is too long")
        case Find(identifier, _, model):
            _require_question(identifier, model)
        case Plan(identifier, _, model, destination):
            _require_question(identifier, model)
            _require(len(destination) <= _LONGEST_AE, "an AE title that is too long")
        case Rejected(reason):
            _require(reason in _REASONS, "an unknown reason")
        case Aborted(reason):
            _require(reason in _ABORTS, "an unknown reason")
        case Limited(limit):
            _require(limit == Limit.REQUEST_RATE, "a limit that is not a worker's")
        case Answered(service, status, seconds):
            _require(_is_text(service, _LONGEST_SERVICE), "an odd service")
            _require(0 <= status <= _LARGEST_STATUS, "an impossible status")
            _require(0 <= seconds <= _LARGEST, "an impossible duration")  # NaN included
        case Sent(service, objects, size):
            _require(_is_text(service, _LONGEST_SERVICE), "an odd service")
            _require(0 <= objects <= _LARGEST and 0 <= size <= _LARGEST, "an impossible number")


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise BrokenRule(f"it sent {what}")


def _require_body(sealed: Sealed, length: int, path: str, limits: Limits) -> None:
    in_memory, in_file = body_limits(limits)
    _require(0 < length <= (in_file if path else in_memory), "a body of an impossible size")
    _require(not path or _NAME.fullmatch(path) is not None, "a name that is not a spool file's")
    _require(len(sealed.body_sha256) == (_HASH if path else 0), "a hash of the wrong length")


def _require_sealed(sealed: Sealed, limits: Limits, now: Now) -> None:
    _require((len(sealed.key_id), len(sealed.content_id)) == (_ID, _HASH), "an id of the wrong length")
    _require(len(sealed.previous) in {0, _HASH}, "an id of the wrong length")
    _require(sealed.flags in {0, Flags.UNINDEXED}, "unknown flags")
    _require(0 <= sealed.data_bytes <= limits.max_object_bytes, "a data set of an impossible size")
    _require(abs(sealed.received_ms - now.clock_ms) <= _WRONG_CLOCK_MS, "a time of receipt other than now")
    _require(0 <= sealed.started <= now.monotonic, "a start in the future")  # NaN included
    _require(len(sealed.source_ae) <= _LONGEST_AE, "an AE title that is too long")
    _require(_is_text(sealed.transfer_syntax, _LONGEST_SYNTAX), "an odd transfer syntax")


def _require_entry(entry: InstanceEntry) -> None:
    _require(could_be_extracted(entry), "an index entry that no data set yields")
    _require(len(entry.problem or "") <= _LONGEST_PROBLEM, "a problem that is too long")


def _require_question(identifier: bytes, model: str) -> None:
    _require(len(identifier) <= MAX_IDENTIFIER_BYTES, "an identifier that is too long")
    _require(model in _MODELS, "an unknown information model")


def _is_text(value: str, longest: int) -> bool:
    return len(value) <= longest and value.isprintable()
