"""From unique keys to stored instances: what C-MOVE, C-GET and commitment ask.

Rule: exact values only, and every key that is given must hold, so that two studies which claim the same UID never mix.
It matches no other attributes (`index.query`) and reads no bodies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from index.attributes import PATIENT_ID, SERIES_UID, SOP_INSTANCE, STUDY_UID
from index.matching import compile_key
from index.rows import Version
from index.table import StudyTable
from index.tables import INSTANCE, SERIES, STUDY, Ref, Tables, child
from keys.errors import KeyUnavailableError, ShreddedError

__all__ = ["Located", "Locator"]


@dataclass(frozen=True, slots=True)
class Located:
    """One instance and where its bytes are. `version` is the newest of `versions`."""

    study_uid: str
    series_uid: str
    sop_instance: str
    sop_class: str
    study_key_id: bytes
    version: Version
    versions: tuple[Version, ...]


class Locator:
    """Finds instances in the tables. Thread-safe, as they are."""

    def __init__(self, tables: Tables, table: StudyTable) -> None:
        self._tables = tables
        self._table = table

    def locate(self, keys: Mapping[int, Sequence[str]]) -> Iterator[Located]:
        """Yield the instances under exact unique keys (Patient ID, Study, Series and SOP Instance UID), oldest first.

        A key that is absent or empty restricts nothing; without any key nothing is yielded. Instances that could not be
        indexed are found by their SOP Instance UID alone.
        """
        sop = _listed(keys, SOP_INSTANCE)
        series = _listed(keys, SERIES_UID)
        studies = _listed(keys, STUDY_UID)
        patients = _listed(keys, PATIENT_ID)
        refs: Iterator[Ref]
        if sop:
            refs = iter(sorted({ref for uid in sop for ref in self._tables.named(INSTANCE, uid)}))
        elif series:
            found = sorted({ref for uid in series for ref in self._tables.named(SERIES, uid)})
            refs = (ref for each in found for ref in self.instances_of(each))
        elif studies:
            found = sorted({ref for uid in studies for ref in self._tables.named(STUDY, uid)})
            refs = (ref for each in found for ref in self._all_of(each))
        elif patients:
            numbers = sorted(self._table.candidates({PATIENT_ID: compile_key(PATIENT_ID, tuple(patients))}))
            refs = (ref for number in numbers for ref in self._all_of(number.to_bytes(8, "big")))
        else:
            return
        for ref in refs:
            located = self._row_of(ref)
            if located is not None and self._is_in(located, ref, patients, studies, series):
                yield located

    def _is_in(
        self, found: Located, ref: Ref, patients: frozenset[str], studies: frozenset[str], series: frozenset[str]
    ) -> bool:
        if (studies and found.study_uid not in studies) or (series and found.series_uid not in series):
            return False
        study = self._tables.study(ref[:8]) if patients else None
        return study is None or bool(patients & set(study.attributes.values.get(PATIENT_ID, ())))

    def _all_of(self, study: Ref) -> Iterator[Ref]:
        try:
            row = self._tables.study(study)
        except (KeyUnavailableError, ShreddedError):
            return
        for number in range(row.series if row else 0):
            yield from self.instances_of(child(study, number))

    def instances_of(self, series: Ref) -> Iterator[Ref]:
        """Yield the references of a series' instances; none for a series that is gone or cannot be opened."""
        try:
            row = self._tables.series(series)
        except (KeyUnavailableError, ShreddedError):
            return
        for number in range(row.instances if row else 0):
            yield child(series, number)

    def _row_of(self, ref: Ref) -> Located | None:
        try:
            study, series = self._tables.study(ref[:8]), self._tables.series(ref[:12])
            row = self._tables.instance(ref)
        except (KeyUnavailableError, ShreddedError):
            return None
        if study is None or series is None or row is None:
            return None
        newest = row.newest
        return Located(
            study.study_uid,
            series.series_uid,
            row.sop_instance,
            row.sop_class,
            newest.study_key_id or study.study_key_id,
            newest,
            row.versions,
        )


def _listed(keys: Mapping[int, Sequence[str]], tag: int) -> frozenset[str]:
    return frozenset(value for value in keys.get(tag, ()) if value)
