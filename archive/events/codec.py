"""The JSON of events, and the register of their classes by code and version.

Rule: pure. Whatever is written can be read, and has one encoding: what is read is encoded again and compared. A code
or version that is not in the register is returned as an `UnknownEvent`: an old reader survives a newer event.
"""

from typing import Any, Final

import msgspec

from coffer.archive.events import (
    clocks,
    epochs,
    holds,
    marks,
    rekeys,
    repairs,
    shares,
    shreds,
    signing_keys,
    users,
)
from coffer.archive.events.event import Event, UnknownEvent
from coffer.keys.errors import FormatError, IntegrityError

__all__ = ["EVENTS", "MAX_EVENT_BYTES", "RESERVED", "decode", "encode"]

MAX_EVENT_BYTES: Final = 1 << 20
EVENTS: Final[tuple[type[Event], ...]] = (
    holds.HoldAdded,
    holds.HoldRemoved,
    shreds.ShredRequested,
    shreds.ShredApproved,
    shreds.ShredCancelled,
    shreds.StudyShredded,
    shreds.StudyShreddedAgain,
    shreds.CertificateIssued,
    epochs.EpochRotated,
    epochs.EpochDestroyed,
    epochs.EpochAbandoned,
    shares.SharesMade,
    shares.SharesGivenUp,
    shares.SharesBurned,
    shares.SharesDrilled,
    shares.KeyRecovered,
    rekeys.RekeyOrdered,
    rekeys.StudyRekeyed,
    signing_keys.SigningKeyOrdered,
    signing_keys.SigningKeyRotated,
    repairs.SegmentRepaired,
    repairs.SegmentsTaken,
    repairs.LossAccepted,
    clocks.ClockDoubted,
    clocks.ClockConfirmed,
    clocks.LogEpochBegun,
    marks.MarkRenewed,
    repairs.ObjectsRestored,
    users.UsersLoaded,
    shares.CopyRegistered,
    shares.CopyGone,
)
RESERVED: Final = {
    "audit.head": "the head of the audit trail; its record kind will be AUDIT_HEAD (7)",
    "policies.hash": "the hash of the rules of access",
    "consent.*": "consents of patients",
    "project.*": "research projects",
}  # codes of what is planned: no event uses one before it is defined here
_BY_CODE: Final = {(each.code, each.version): each for each in EVENTS}


def encode(event: Event) -> bytes:
    """The JSON object of an event: keys sorted, no spaces, UTF-8, at most 1 MiB.

    Raises FormatError for what `decode` would refuse: a field that breaks its schema, or too long an event.
    """
    data = _encode(event)
    if len(data) > MAX_EVENT_BYTES:
        raise FormatError("an event is too long for its record", hint="shorten its texts, or do less at once")
    if decode(data, event.kind) != event:
        raise FormatError(f"an event {event.code} is not in the register")
    return data


def decode(data: bytes, kind: int) -> Event | UnknownEvent:
    """The event in a JSON object, under a record of this kind.

    Raises FormatError for an object that is none of an event, that breaks the schema of its code and version, that
    stands under another kind of record than its class's, or that is not encoded as `encode` does.
    """
    body, code, version = _parse(data)
    of = _BY_CODE.get((code, version))
    if of is None:
        return UnknownEvent(code, version, kind)
    if kind != of.kind:
        raise FormatError(f"an event {code} stands in a record of another kind")
    try:
        event = msgspec.convert(body, of)
    except msgspec.ValidationError:  # which quotes what it found
        raise FormatError(f"an event {code} has fields that are not those of version {version}") from None
    if _encode(event) != data:
        raise FormatError(f"an event {code} is not in canonical form")
    return event


def _encode(event: Event) -> bytes:
    body: dict[str, Any] = msgspec.to_builtins(event)
    try:
        return msgspec.json.encode({"code": event.code, "v": event.version, **body}, order="sorted")
    except UnicodeEncodeError as error:
        raise FormatError("a text for the log is not valid Unicode", hint="type it again") from error


def _parse(data: bytes) -> tuple[dict[str, object], str, int]:
    try:
        body = msgspec.json.decode(data, type=dict[str, Any])
        code, version = body.pop("code"), body.pop("v")
    except (ValueError, KeyError, RecursionError) as error:
        raise IntegrityError("the contents of an event are not those of an event") from error
    if not isinstance(code, str) or type(version) is not int:
        raise IntegrityError("the contents of an event are not those of an event")
    return body, code, version
