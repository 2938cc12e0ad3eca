"""Whose an object is, and what the site says of it: parts of studies, issuers that go without saying, versions.

Rule: pure. The data set decides; what the rules add is for telling patients apart only, and no byte of an object
changes. The calling AE title is worth what an AE title is worth: anyone can claim one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Annotated, Literal, TypeAlias

import msgspec

from coffer.index.instance.entry import InstanceEntry

__all__ = ["PartId", "Patient", "Patients", "Rules", "Serve", "are_apart"]

Serve: TypeAlias = Literal["newest", "first"]
Text: TypeAlias = Annotated[str, msgspec.Meta(max_length=1024)]


class PartId(msgspec.Struct, frozen=True, array_like=True):
    """What makes a part: the objects of one patient, as they state it, under one Study Instance UID.

    Patient ID and issuer are without padding, their case is kept; "" where there is none. An object without a Study
    Instance UID is a part of its own: then `study_uid` is "" and `sop_instance` says which; otherwise that one is "".
    """

    study_uid: Text
    patient_id: Text = ""
    issuer: Text = ""
    sop_instance: Text = ""

    @property
    def text(self) -> str:
        """One text for all of it, as its token is made of it (FORMAT.md)."""
        return f"{self.study_uid}\0{self.patient_id}\0{self.issuer}\0{self.sop_instance}"

    @property
    def name(self) -> str:
        """The UID that its row is found by: of its study, or NUL and its own."""
        return self.study_uid or f"\0{self.sop_instance}"


@dataclass(frozen=True, slots=True)
class Rules:
    """What an absent issuer means, and which version is served: for all, and by the AE title that an object came from.

    `serve` "newest": a further version of an instance takes the place of the one served; "first": it is kept beside it.
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
        """Whether a version from `source_ae` takes the place of the one that is served."""
        return self.serve_by_ae.get(source_ae, self.serve) == "newest"

    @property
    def digest(self) -> bytes:
        """32 bytes that change with the rules, as FORMAT.md says: rows made under others are not to be used."""
        by_ae = (sorted(each.items()) for each in (self.default_issuer_by_ae, self.serve_by_ae))
        issuers, serves = by_ae
        told = [self.default_issuer, issuers, self.serve, serves]
        return sha256(json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()).digest()


class Patient(msgspec.Struct, frozen=True, array_like=True):
    """Who one patient is: Patient ID and issuer; without an ID the objects of one study, or one object without a study,
    which are nobody else's: then `alone` is the part's name."""

    patient_id: str
    issuer: str = ""
    alone: str = ""


class Patients:
    """The patients of one study's parts, told apart together; as quick for many as for few."""

    def __init__(self, parts: Iterable[PartId]) -> None:
        """Takes the parts in which something is served."""
        self._issuers: dict[str, set[str]] = {}
        self._parts = list(parts)
        for part in self._parts:
            if part.issuer:
                self._issuers.setdefault(part.patient_id, set()).add(part.issuer)

    def of(self, part: PartId) -> Patient:
        """The patient of a part: an absent issuer is the one that the Patient ID has in the study, never one of two."""
        if not part.patient_id:
            return Patient("", "", part.name)
        if part.issuer or not part.study_uid:
            return Patient(part.patient_id, part.issuer)
        issuers = self._issuers.get(part.patient_id, ())
        return Patient(part.patient_id, next(iter(issuers)) if len(issuers) == 1 else "")

    @property
    def count(self) -> int:
        """How many they are."""
        return len({self.of(part) for part in self._parts})


def are_apart(one: PartId, other: PartId) -> bool:
    """Whether two parts of a study cannot be one patient's."""
    return one.patient_id != other.patient_id or bool(one.issuer and other.issuer and one.issuer != other.issuer)
