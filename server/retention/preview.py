"""Whom and what a shred would erase, and what stays: shown to whoever is about to do it, and to nobody else.

Rule: it changes nothing. Names leave the archive here, for the terminal or the JSON of the command that asks; they are
in no log, no event and no error.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from coffer.index.query.parts import Part
from coffer.server.engine.archive import ReadableArchive
from coffer.server.retention.selection import Doomed, whole_studies

__all__ = ["Portion", "Preview", "portion", "preview"]


@dataclass(frozen=True, slots=True)
class Portion:
    """One patient's part of a study, or an object of none: who and what it is, and how much. Dates as they are stored.

    `served_again`: instances of which a version in this part takes the place of one that goes.
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
    """What goes, and what stays of the same studies."""

    erased: tuple[Portion, ...]
    stays: tuple[Portion, ...]


def portion(part: Part, served_again: int = 0) -> Portion:
    """A part as it is shown."""
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


def preview(archive: ReadableArchive, doomed: Sequence[Doomed]) -> Preview:
    """What would be erased, and what would stay. Raises UnavailableError where the index does not have it any more."""
    going = {each.part for each in doomed}
    erased: list[Portion] = []
    stays: list[Portion] = []
    for parts in whole_studies(archive.index, doomed):
        again = archive.index.served_without(going) if len(parts) > 1 else {}
        erased += [portion(part) for part in parts if part.id in going]
        stays += [portion(part, again.get(part.id, 0)) for part in parts if part.id not in going]
    return Preview(tuple(erased), tuple(stays))
