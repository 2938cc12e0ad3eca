"""Which patient an object belongs to, and the site's rules for it: parts of studies, default issuers, versions.

Rule: pure. The data set decides; the rules only help to distinguish patients, and change no byte of an object. Rules by
calling AE title are only as reliable as that title: any caller can claim one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Annotated, Literal, TypeAlias

import msgspec

from coffer.index.instance.entry import InstanceEntry

__all__ = ["PartId", "Patient", "Rules", "Serve", "StudyPatients", "are_apart"]

Serve: TypeAlias = Literal["newest", "first"]
Text: TypeAlias = Annotated[str, msgspec.Meta(max_length=1024)]


class PartId(msgspec.Struct, frozen=True, array_like=True):
    """Identifies a part: the objects of one patient, as they state it, under one Study Instance UID.

    Patient ID and issuer are without padding and keep their case; "" if there is none. An object without a Study
    Instance UID is a part of its own: then `study_uid` is "" and `sop_instance` names it; otherwise the latter is "".
    """

    study_uid: Text
    patient_id: Text = ""
    issuer: Text = ""
    sop_instance: Text = ""

    @property
    def text(self) -> str:
        """One text for all of it, from which its token is made (FORMAT.md)."""
        return f"{self.study_uid}\0{self.patient_id}\0{self.issuer}\0{self.sop_instance}"

    @property
    def name(self) -> str:
        """The text by which its row is found: the Study Instance UID, or NUL and the SOP Instance UID."""
        return self.study_uid or f"\0{self.sop_instance}"


@dataclass(frozen=True, slots=True)
class Rules:
    """What an absent issuer means, and which version is served: in general, and by the AE title of the sender.

    `serve` "newest": a further version of an instance replaces the one that is served; "first": it is only kept.
    """

    default_issuer: str = ""
    default_issuer_by_ae: Mapping[str, str] = field(default_factory=dict)
    serve: Serve = "newest"
    serve_by_ae: Mapping[str, Serve] = field(default_factory=dict)

    def part_of(self, entry: InstanceEntry, source_ae: str) -> PartId:
        """The part that an object from `source_ae` belongs to."""
        issuer = ""
        if entry.patient_id:
            issuer = entry.issuer or self.default_issuer_by_ae.get(source_ae, self.default_issuer)
        own = "" if entry.study_uid else entry.sop_instance
        return PartId(entry.study_uid, entry.patient_id, issuer, own)

    def replaces(self, source_ae: str) -> bool:
        """Whether a version from `source_ae` replaces the one that is served."""
        return self.serve_by_ae.get(source_ae, self.serve) == "newest"

    @property
    def digest(self) -> bytes:
        """32 bytes that change with the rules (FORMAT.md): rows made under other rules must not be used."""
        by_ae = (sorted(each.items()) for each in (self.default_issuer_by_ae, self.serve_by_ae))
        issuers, serves = by_ae
        rules = [self.default_issuer, issuers, self.serve, serves]
        return sha256(json.dumps(rules, ensure_ascii=False, separators=(",", ":")).encode()).digest()


class Patient(msgspec.Struct, frozen=True, array_like=True):
    """Identifies one patient by Patient ID and issuer. Without a Patient ID, the objects of one study, or one object
    without a study, are a patient of their own: then `alone` is the part's name."""

    patient_id: str
    issuer: str = ""
    alone: str = ""


class StudyPatients:
    """The patients of one study's parts, distinguished by looking at all parts; the time per part is constant."""

    def __init__(self, parts: Iterable[PartId]) -> None:
        """Takes the parts in which something is served."""
        self._issuers: dict[str, set[str]] = {}
        self._parts = list(parts)
        for part in self._parts:
            if part.issuer:
                self._issuers.setdefault(part.patient_id, set()).add(part.issuer)

    def of(self, part: PartId) -> Patient:
        """The patient of a part. An absent issuer becomes the one of its Patient ID in the study, if there is just
        one."""
        if not part.patient_id:
            return Patient("", "", part.name)
        if part.issuer or not part.study_uid:
            return Patient(part.patient_id, part.issuer)
        issuers = self._issuers.get(part.patient_id, ())
        return Patient(part.patient_id, next(iter(issuers)) if len(issuers) == 1 else "")

    @property
    def count(self) -> int:
        """The number of patients."""
        return len({self.of(part) for part in self._parts})


def are_apart(one: PartId, other: PartId) -> bool:
    """Whether two parts of a study cannot belong to the same patient."""
    return one.patient_id != other.patient_id or bool(one.issuer and other.issuer and one.issuer != other.issuer)
