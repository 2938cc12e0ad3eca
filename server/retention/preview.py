"""Whose data a shred would erase, and what stays: shown only to the officer who is about to do it.

Rule: changes nothing. Names leave the archive here, for the terminal or the JSON of the calling command; they are in no
log, no event and no error.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from coffer.index.query.parts import Part
from coffer.server.engine.archive import ReadableArchive
from coffer.server.retention.selection import PartToShred, whole_studies

__all__ = ["Portion", "Preview", "portion", "preview"]


@dataclass(frozen=True, slots=True)
class Portion:
    """One patient's part of a study, or an object of no study: whose, what, and how much. Dates are as stored.

    `served_again`: instances of which this part has the version that replaces an erased one.
    """

    patient_name: str
    birth_date: str
    patient_id: str
    issuer: str
    study_uid: str
    sop_instance: str
    study_date: str
    description: str
    instances: int
    older_versions: int
    served_again: int = 0


@dataclass(frozen=True, slots=True)
class Preview:
    """What would be erased, and what stays of the same studies."""

    erased: tuple[Portion, ...]
    stays: tuple[Portion, ...]


def portion(part: Part, served_again: int = 0) -> Portion:
    """Return a part as it is shown."""
    return Portion(
        part.patient_name,
        part.birth_date,
        part.patient_id,
        part.view_issuer,
        part.study_uid,
        part.sop_instance,
        part.study_date,
        part.description,
        part.instances,
        part.superseded,
        served_again,
    )


def preview(archive: ReadableArchive, selection: Sequence[PartToShred]) -> Preview:
    """Return what would be erased and what would stay. Raises UnavailableError if the index no longer has it."""
    erased_ids = {each.part for each in selection}
    erased: list[Portion] = []
    stays: list[Portion] = []
    for parts in whole_studies(archive.index, selection):
        again = archive.index.served_without(erased_ids) if len(parts) > 1 else {}
        erased += [portion(part) for part in parts if part.id in erased_ids]
        stays += [portion(part, again.get(part.id, 0)) for part in parts if part.id not in erased_ids]
    return Preview(tuple(erased), tuple(stays))
