"""Events of erasures: requests to shred, shreds, and certificates of erasure.

Rule: they name studies by the ids of their keys, which are random. The token that the index needs if an older keyring
is put back is hidden under the key that is erased: the log outlives it.
"""

from typing import Annotated

import msgspec

from coffer.archive.events.event import Event
from coffer.archive.events.fields import By, Count, Epoch, Flag, Hex4, Hex16, Hex32, Ms, Person, Reason, doc
from coffer.archive.format.record import Kind

__all__ = [
    "CertificateIssued",
    "ShredApproved",
    "ShredCancelled",
    "ShredRequested",
    "StudyShredded",
    "StudyShreddedAgain",
]

_HiddenStudy = Annotated[
    Hex16,
    doc("the study's token (index/FORMAT.md), XORed with HKDF-Expand-SHA-256(its key, `coffer/erased-name/v1`, 16)"),
]
_Request = Annotated[Hex4, doc("the id of the request to shred")]


class _RequestEvent(Event, frozen=True, kw_only=True):
    request: _Request
    chosen: Annotated[tuple[Hex16, ...], doc("the ids of the keys of what was chosen, in ascending order")]
    reason: Reason
    by: By


class ShredRequested(_RequestEvent, frozen=True, kw_only=True):
    """An officer requested a shred that others have to approve."""

    code = "shred.requested"


class ShredApproved(_RequestEvent, frozen=True, kw_only=True):
    """An officer approved a request to shred, and others still have to."""

    code = "shred.approved"


class ShredCancelled(_RequestEvent, frozen=True, kw_only=True):
    """A request to shred was cancelled."""

    code = "shred.cancelled"


class StudyShredded(Event, frozen=True, kw_only=True):
    """The key that the record is about, one of a study, was shredded: no process opens it from now on."""

    code = "study.shredded"
    kind = Kind.SHRED_SCHEDULED

    study: _HiddenStudy
    epoch: Epoch
    scheduled_ms: Annotated[Ms, doc("when it was shredded")]
    until_ms: Annotated[Ms, doc("until when backups may hold the key")]
    instances: Annotated[Count, doc("how many objects were served under the key")]
    versions: Annotated[Count, doc("how many objects were stored under the key, those not served included")]
    other_patients: Annotated[Count, doc("how many other patients have objects in the study")]
    reason: Reason
    request: _Request | None
    officers: Annotated[
        tuple[Person, ...],
        msgspec.Meta(min_length=1),
        doc("who agreed: the first made the request, the last carried it out"),
    ]


class StudyShreddedAgain(Event, frozen=True, kw_only=True):
    """An older keyring, put back, had a shredded key, which was shredded again at the first opening."""

    code = "study.shredded_again"

    study: _HiddenStudy


class CertificateIssued(Event, frozen=True, kw_only=True):
    """A certificate of erasure was issued; the record is about the first of its keys."""

    code = "certificate.issued"

    certificate: Annotated[Hex32, doc("SHA-256 of the certificate's signed note")]
    is_effective: Annotated[Flag, doc("whether it says that the study is erased, not only that a shred is scheduled")]
    keys: Annotated[tuple[Hex16, ...], doc("the ids of the keys that it lists")]
    tells_uid: Annotated[Flag, doc("whether it states the Study Instance UID")]
    tells_reason: Annotated[Flag, doc("whether it states the reason of the shred")]
    by: By
