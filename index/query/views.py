"""What queries and retrievals see of the rows: each study of one patient, once.

Rule: the rows keep the finest parts, so that they do not depend on the order of arrival; parts that belong together are
joined here, on demand. An absent issuer is joined with the only issuer that the same Patient ID has in the same study,
never with one of two. Nothing of another patient, and nothing that is not served, is in a view.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from coffer.index.dicom.attributes import ISSUER_OF_PATIENT_ID, Stored
from coffer.index.instance.identity import PartId, Patient, StudyPatients
from coffer.index.instance.order import Order
from coffer.index.tables.catalogue import Catalogue
from coffer.index.tables.lookup import Lookup
from coffer.index.tables.rows import InstanceRow, Merged, SeriesRow, StudyRow
from coffer.index.tables.sealed_rows import Ref, Tables

__all__ = ["SeriesView", "StudyView", "Views"]

_TRIES: Final = 3  # to read the instances of a part while others store; the last one holds the lock


@dataclass(frozen=True, slots=True)
class StudyView:
    """One study of one patient: its parts, oldest first."""

    patient: Patient
    parts: tuple[tuple[Ref, StudyRow], ...]

    @property
    def study_uid(self) -> str:
        """Study Instance UID; "" for an object without one."""
        return self.parts[0][1].study_uid

    @property
    def attributes(self) -> Merged:
        """The attributes of patient and study level, merged from all parts."""
        merged = self.parts[0][1].attributes
        for _, row in self.parts[1:]:
            merged = merged.joined_with(row.attributes)
        return merged

    @property
    def values(self) -> Stored:
        """The same as values by tag, with the issuer that identifies the patient."""
        values, issuer = self.attributes.values, self.patient.issuer
        if not issuer or values.get(ISSUER_OF_PATIENT_ID) == (issuer,):
            return values
        return {**values, ISSUER_OF_PATIENT_ID: (issuer,)}

    @property
    def instances(self) -> int:
        """The number of served instances."""
        return sum(row.instances for _, row in self.parts)

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities, each once, sorted."""
        return tuple(sorted({each for _, row in self.parts for each in row.modalities}))

    @property
    def sop_classes(self) -> tuple[str, ...]:
        """The SOP classes, each once, sorted."""
        return tuple(sorted({each for _, row in self.parts for each in row.sop_classes}))


@dataclass(frozen=True, slots=True)
class SeriesView:
    """One series of a view: its rows in the parts; `row` has the merged values and counts."""

    rows: tuple[tuple[Ref, SeriesRow], ...]
    row: SeriesRow


class Views:
    """Makes views of an index's rows. Thread-safe."""

    def __init__(self, tables: Tables, catalogue: Catalogue, lookup: Lookup) -> None:
        self._tables = tables
        self._catalogue = catalogue
        self._lookup = lookup

    def of_parts(self, numbers: Iterable[int]) -> Iterator[StudyView | None]:
        """The views that these parts belong to, each once; None in place of what is not shown or was yielded before."""
        seen: set[str] = set()
        for number in numbers:
            ref = number.to_bytes(8, "big")
            row = self._lookup.study(ref)
            if row is None or not row.is_shown or row.study_uid in seen:
                yield None
            elif row.shared:
                seen.add(row.study_uid)
                yield from self.of_study(row.study_uid)
            else:
                yield self._views([(ref, row)])[0]

    def of_study(self, study_uid: str) -> list[StudyView]:
        """Every view of a Study Instance UID: one for each patient."""
        return self._views(self._lookup.parts_of_study(study_uid))

    def of_patient(self, patient: Patient) -> list[StudyView]:
        """Every view of a patient's studies, each once, oldest first. Needs the searchable table."""
        if patient.alone:
            ref, row = self._lookup.part(PartId(patient.alone))
            return self._views([(ref, row)]) if ref is not None and row is not None else []
        return [view for view in self.with_patient_id(patient.patient_id) if view.patient == patient]

    def with_patient_id(self, patient_id: str) -> list[StudyView]:
        """Every view of the patients who have this Patient ID, each once, oldest first. Needs the searchable table."""
        studies: dict[str, list[tuple[Ref, StudyRow]]] = {}
        for number in self._catalogue.table.of_patient(patient_id):
            ref = number.to_bytes(8, "big")
            row = self._lookup.study(ref)
            if row is not None and row.is_shown and row.part.patient_id == patient_id:
                studies.setdefault(row.study_uid, []).append((ref, row))
        # Parts with another Patient ID do not affect these.
        return [view for rows in studies.values() for view in self._views(rows)]

    def _views(self, parts: Iterable[tuple[Ref, StudyRow]]) -> list[StudyView]:
        """The views that the parts of one study form."""
        shown = [(ref, row) for ref, row in parts if row.is_shown]
        patients = StudyPatients(row.part for _, row in shown)
        found: dict[Patient, list[tuple[Ref, StudyRow]]] = {}
        for ref, row in shown:
            found.setdefault(patients.of(row.part), []).append((ref, self.refreshed(ref, row)))
        return [StudyView(patient, tuple(rows)) for patient, rows in found.items()]

    def series(self, view: StudyView) -> list[SeriesView]:
        """The series of a view, each once, except those without a UID or without served instances."""
        found: dict[str, list[tuple[Ref, SeriesRow]]] = {}
        for ref, study in view.parts:
            for series_ref, row in self._lookup.series_of(ref, study):
                if row.series_uid and row.instances:
                    found.setdefault(row.series_uid, []).append((series_ref, row))
        return [_series_of(rows) for rows in found.values()]

    def series_named(self, view: StudyView, uid: str) -> SeriesView | None:
        """One series of a view."""
        found = [self._lookup.series(ref, uid) for ref, _ in view.parts]
        rows = [(ref, row) for ref, row in found if ref is not None and row is not None and row.instances]
        return _series_of(rows) if rows and uid else None

    def count_of_series(self, view: StudyView) -> int:
        """How many series `series` returns, plus one if objects have no Series Instance UID."""
        if len(view.parts) == 1:
            return view.parts[0][1].series
        rows = (row for ref, study in view.parts for _, row in self._lookup.series_of(ref, study))
        return len({row.series_uid for row in rows if row.instances})

    def refreshed(self, ref: Ref, row: StudyRow) -> StudyRow:
        """A part's row with the values of what is served, merged again from its instances if it is stale."""
        for attempt in range(_TRIES):
            if not row.attributes.stale:
                return row
            if attempt < _TRIES - 1:
                made = self._described(ref, row)
                with self._tables.lock:
                    if self._lookup.study(ref) is row:
                        return self._put(ref, row, *made)
            else:
                with self._tables.lock:
                    row = self._lookup.study(ref) or row
                    return self._put(ref, row, *self._described(ref, row))
            row = self._lookup.study(ref) or row
        return row

    def _described(self, ref: Ref, row: StudyRow) -> tuple[Merged, list[tuple[Ref, SeriesRow]]]:
        """The attributes of a part and of each of its series, merged from its served instances."""
        of_study: list[tuple[Order, Stored]] = []
        all_series: list[tuple[Ref, SeriesRow]] = []
        for series_ref, series in self._lookup.series_of(ref, row):
            served = [each for _, each in self._lookup.instances_of(series_ref, series) if each.is_served]
            of_series = Merged.of(_descriptions(served, is_series=True))
            all_series.append((series_ref, msgspec.structs.replace(series, attributes=of_series)))
            of_study += _descriptions(served, is_series=False)
        return Merged.of(of_study), all_series

    def _put(self, ref: Ref, row: StudyRow, attributes: Merged, all_series: list[tuple[Ref, SeriesRow]]) -> StudyRow:
        for series_ref, series in all_series:
            self._tables.put(series_ref, series)
        differing = sum(bool(series.attributes.differing) for _, series in all_series)
        made = msgspec.structs.replace(row, attributes=attributes, differing_series=differing)
        self._tables.put(ref, made)
        self._catalogue.update(ref, row, made)
        return made


def _descriptions(rows: list[InstanceRow], *, is_series: bool) -> list[tuple[Order, Stored]]:
    return [(row.best.order, row.series if is_series else row.study) for row in rows]


def _series_of(rows: list[tuple[Ref, SeriesRow]]) -> SeriesView:
    (_, row), *others = rows
    for _, other in others:
        attributes = row.attributes.joined_with(other.attributes)
        row = SeriesRow(row.series_uid, attributes, 0, row.instances + other.instances)
    return SeriesView(tuple(rows), row)
