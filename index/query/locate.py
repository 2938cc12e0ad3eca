"""From unique keys to stored instances: for C-MOVE, C-GET and storage commitment.

Rule: exact values only, and every given key must match, so that neither two studies with the same UID nor two patients
under one Study Instance UID are ever mixed by accident. It matches no other attributes (`index.query.query`) and reads
no bodies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from coffer.index.dicom.attributes import PATIENT_ID, SERIES_UID, SOP_INSTANCE, STUDY_UID
from coffer.index.instance.identity import Patient, StudyPatients
from coffer.index.query.views import StudyView, Views
from coffer.index.tables.lookup import Link, Lookup
from coffer.index.tables.rows import Version
from coffer.index.tables.sealed_rows import SERIES, STUDY, Ref, Tables, child

__all__ = ["Located", "Locator"]


@dataclass(frozen=True, slots=True)
class Located:
    """One instance that is served, its patient, and where its bytes are. `version` is the served one; `versions` are
    those of the same part, oldest first."""

    study_uid: str
    series_uid: str
    sop_instance: str
    sop_class: str
    study_key_id: bytes
    version: Version
    versions: tuple[Version, ...]
    patient: Patient


class Locator:
    """Finds instances in the tables. Thread-safe, as they are."""

    def __init__(self, tables: Tables, lookup: Lookup, views: Views) -> None:
        self._tables = tables
        self._lookup = lookup
        self._views = views

    def locate(self, keys: Mapping[int, Sequence[str]], issuer: str | None = None) -> Iterator[Located]:
        """Yield the instances under exact unique keys (Patient ID, Study, Series and SOP Instance UID), oldest first.

        A key that is absent or empty restricts nothing; without any key nothing is yielded. `issuer` restricts the
        Patient ID to those of one issuer ("": of none; None: of any). Instances that could not be indexed are found by
        their SOP Instance UID only.
        """
        sop, series, studies, patients = (
            _listed(keys, tag) for tag in (SOP_INSTANCE, SERIES_UID, STUDY_UID, PATIENT_ID)
        )
        links: Iterator[Link]
        if sop:
            found = {link.ref: link for uid in sop for link in self._lookup.links(uid)}
            links = (found[ref] for ref in sorted(found))
        elif series:
            refs = sorted({ref for uid in series for ref in self._tables.named(SERIES, uid)})
            links = (link for ref in refs for link in self._lookup.links_of(ref))
        elif studies:
            refs = sorted({ref for uid in studies for ref in self._tables.named(STUDY, uid)})
            links = (link for ref in refs for link in self._all_of(ref))
        elif patients:
            views = (view for each in sorted(patients) for view in self._views.with_patient_id(each))
            refs = sorted({ref for view in views for ref, _ in view.parts})
            links = (link for ref in refs for link in self._all_of(ref))
        else:
            return
        known: dict[str, StudyPatients] = {}
        for link in links:
            if not link.row.is_served:
                continue
            if (studies and link.study.study_uid not in studies) or (series and link.series.series_uid not in series):
                continue
            patient = self._patient_of(link, known)
            if patients and (patient.patient_id not in patients or issuer not in (None, patient.issuer)):
                continue
            yield _located(link, patient)

    def issuers_of(self, patient_id: str, studies: Sequence[str] = ()) -> set[str]:
        """The issuers of the patients with this ID who have any of these studies, or any study at all."""
        views: Iterable[StudyView] = self._views.with_patient_id(patient_id) if not studies else ()
        if studies:
            views = (view for uid in studies for view in self._views.of_study(uid))
        return {view.patient.issuer for view in views if view.patient.patient_id == patient_id}

    def _patient_of(self, link: Link, known: dict[str, StudyPatients]) -> Patient:
        name = link.study.part.name
        if name not in known:
            siblings = self._lookup.siblings(link.ref[:8], link.study)
            known[name] = StudyPatients([link.study.part, *(row.part for _, row in siblings if row.instances)])
        return known[name].of(link.study.part)

    def _all_of(self, study: Ref) -> Iterator[Link]:
        row = self._lookup.study(study)
        for number in range(row.numbered if row else 0):
            yield from self._lookup.links_of(child(study, number))


def _located(link: Link, patient: Patient) -> Located:
    version = link.row.best
    return Located(
        link.study.study_uid,
        link.series.series_uid,
        link.row.sop_instance,
        link.row.sop_class,
        version.study_key_id or link.study.study_key_id,
        version,
        link.row.versions,
        patient,
    )


def _listed(keys: Mapping[int, Sequence[str]], tag: int) -> frozenset[str]:
    return frozenset(value for value in keys.get(tag, ()) if value)
