"""The parts of studies and the versions of instances, including those not shown: for holding, erasing and listing.

Rule: reads only. A part is the objects of one patient, as they state it, under one Study Instance UID, or one object
without such a UID. Each part has a key of its own; erasing the key erases the part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from coffer.index.dicom.attributes import BIRTH_DATE, PATIENT_NAME, STUDY_DATE, STUDY_DESCRIPTION
from coffer.index.instance.identity import PartId, StudyPatients
from coffer.index.instance.patient_id import identity_text
from coffer.index.query.locate import Located
from coffer.index.query.views import Views
from coffer.index.tables.catalogue import Catalogue
from coffer.index.tables.lookup import Link, Lookup
from coffer.index.tables.rows import StudyRow, Version, served
from coffer.index.tables.sealed_rows import STUDY, Ref, Tables

__all__ = ["Part", "Parts", "StoredVersion"]


@dataclass(frozen=True, slots=True)
class Part:
    """One patient's objects of one study, as they are stored. Times in ms since 1970 UTC, dates as YYYYMMDD.

    `issuer` is stated by the objects (or by the site's rules for them), `view_issuer` is the one under which the
    patient is shown: that of another part if this one has none. Names, description and dates are those of what is
    served or, if nothing is, of an older version.
    """

    id: PartId
    view_issuer: str
    name: (
        bytes  # the `study_token`, by which its rows are found when its key is gone; the same for all parts of a study
    )
    key_ids: frozenset[bytes]  # every key that a version in it is sealed under
    patient_name: str
    birth_date: str
    study_date: str
    description: str
    latest_date: str  # from which the retention counts: the latest of all versions ever stored (`retention_day`)
    received_ms: int  # when its newest version arrived
    instances: int  # served
    versions: int  # stored, including those that are not served
    some_without_issuer: bool  # at least one version states no issuer itself, whatever the rules say

    @property
    def study_uid(self) -> str:
        """Study Instance UID; "" for an object without one."""
        return self.id.study_uid

    @property
    def patient_id(self) -> str:
        """Patient ID without padding; "" if there is none."""
        return self.id.patient_id

    @property
    def issuer(self) -> str:
        """Issuer of Patient ID without padding; "" if there is none."""
        return self.id.issuer

    @property
    def sop_instance(self) -> str:
        """Its SOP Instance UID if the part is one object without a Study Instance UID; otherwise ""."""
        return self.id.sop_instance

    @property
    def superseded(self) -> int:
        """Versions that are not served, because another version, in this part or another one, is."""
        return self.versions - self.instances


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """One version of an instance: `number` counts from 1 for the oldest among those of the same study and series, in
    any part. `located` says where to open it, as for a retrieval."""

    part: PartId
    number: int
    is_served: bool
    located: Located


class Parts:
    """Lists parts and versions of an index. Thread-safe."""

    def __init__(self, tables: Tables, catalogue: Catalogue, lookup: Lookup, views: Views) -> None:
        self._tables = tables
        self._catalogue = catalogue
        self._lookup = lookup
        self._views = views

    def of_study(self, study_uid: str) -> list[Part]:
        """The parts of a study, oldest first; none for an unknown one, or for ""."""
        parts = list(self._lookup.parts_of_study(study_uid))
        beside = StudyPatients(row.part for _, row in parts if row.instances)
        return [self._part(ref, row, beside) for ref, row in parts]

    def of_patient(self, patient_id: str, issuer: str | None) -> list[Part]:
        """The parts of a patient, including those in which nothing is served, oldest first.

        `issuer` is compared with `view_issuer` ("": none); None: any. Needs the searchable table.
        """
        wanted = identity_text((patient_id,))
        rows = ((ref, row) for ref, row in self._rows(wanted) if row.part.patient_id == wanted)
        parts = (self._part(ref, row) for ref, row in rows)
        return [part for part in parts if issuer is None or part.view_issuer == identity_text((issuer,))]

    def of_instance(self, sop_instance: str) -> list[Part]:
        """The parts that have a version under this SOP Instance UID."""
        rows = {link.ref[:8]: link.study for link in self._lookup.links(sop_instance)}
        return [self._part(ref, rows[ref]) for ref in sorted(rows)]

    def all(self) -> Iterator[Part]:
        """Every part, oldest first. Needs the searchable table."""
        return (self._part(ref, row) for ref, row in self._rows(None))

    def without_study(self) -> Iterator[str]:
        """The SOP Instance UIDs of objects that are in no study, oldest first. Needs the searchable table."""
        return (row.part.sop_instance for _, row in self._rows(None) if row.instances and not row.study_uid)

    def versions(self, sop_instance: str) -> list[StoredVersion]:
        """Every version under a SOP Instance UID: study by study and series by series, oldest first in each."""
        chains: dict[tuple[str, str], list[Link]] = {}
        for link in self._lookup.links(sop_instance):
            chains.setdefault((link.study.study_uid, link.series.series_uid), []).append(link)
        return [each for chain in chains.values() for each in self._chain(chain)]

    def served_without(self, going: Collection[PartId]) -> dict[PartId, int]:
        """How many instances each other part would serve in place of the versions of `going` if those were removed."""
        found: Counter[PartId] = Counter()
        for part in going:
            ref, row = self._lookup.part(part)
            if ref is None or row is None:
                continue
            for _, series, instance in self._lookup.all_of(ref, row):
                if instance.is_served:
                    chain = self._lookup.chain(part.study_uid, series.series_uid, instance.sop_instance)
                    left = [(version, link) for link in chain for version in link.row.versions]
                    left = [(version, link) for version, link in left if link.study.part not in going]
                    if left:
                        winner = served(version for version, _ in left)
                        found[next(link.study.part for version, link in left if version is winner)] += 1
        return dict(found)

    def _chain(self, chain: list[Link]) -> list[StoredVersion]:
        all_of_it = [(version, link) for link in chain for version in link.row.versions]
        winner = served(version for version, _ in all_of_it)
        all_of_it.sort(key=lambda each: each[0].order)
        return [
            StoredVersion(link.study.part, number, version.order == winner.order, self._located(link, version))
            for number, (version, link) in enumerate(all_of_it, 1)
        ]

    def _located(self, link: Link, version: Version) -> Located:
        key_id = version.study_key_id or link.study.study_key_id
        uids = link.study.study_uid, link.series.series_uid, link.row.sop_instance, link.row.sop_class
        patient = self._shown_beside(link.ref[:8], link.study).of(link.study.part)
        return Located(*uids, key_id, version, link.row.versions, patient)

    def _rows(self, patient_id: str | None) -> Iterator[tuple[Ref, StudyRow]]:
        table = self._catalogue.table
        numbers = table.candidates({}) if patient_id is None else table.of_patient(patient_id)
        for number in numbers:
            ref = number.to_bytes(8, "big")
            row = self._lookup.study(ref)
            if row is not None:
                yield ref, row

    def _shown_beside(self, ref: Ref, row: StudyRow) -> StudyPatients:
        return StudyPatients(its.part for _, its in self._lookup.siblings(ref, row) if its.instances)

    def _part(self, ref: Ref, row: StudyRow, beside: StudyPatients | None = None) -> Part:
        row = self._views.refreshed(ref, row)
        keys, values = {row.study_key_id}, row.attributes.values
        for _, _, instance in self._lookup.all_of(ref, row):
            keys.update(version.study_key_id for version in instance.versions)
            values = values or instance.study
        patient = (beside or self._shown_beside(ref, row)).of(row.part)
        return Part(
            row.part,
            patient.issuer,
            self._tables.token(STUDY, row.part.name)[1:],
            frozenset(keys - {b""}),
            _first(values.get(PATIENT_NAME, ())),
            _first(values.get(BIRTH_DATE, ())),
            _first(values.get(STUDY_DATE, ())),
            _first(values.get(STUDY_DESCRIPTION, ())),
            row.latest_date,
            row.received_ms,
            row.instances,
            row.versions,
            row.some_without_issuer,
        )


def _first(values: tuple[object, ...]) -> str:
    return next((value for value in values if isinstance(value, str)), "")
