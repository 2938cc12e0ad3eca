"""Narrow queries and retrievals to the scopes of a permission.

Rule: what lies outside a scope is treated as if it were not stored: no row, no count, no object, and no key that is not
shown narrows a search, because an answer to it would say what the key holds. Without scopes nothing is changed.
"""

import datetime as dt
from collections.abc import Iterator, Mapping
from typing import Final

from coffer.index.dicom import attributes as a
from coffer.index.dicom.attributes import Values
from coffer.index.index import Index
from coffer.index.instance.patient_id import identity_text
from coffer.index.query.locate import Located
from coffer.keys.errors import AccessDeniedError
from coffer.server.access.scope import Scope, StudyFacts

__all__ = ["Narrowing"]

_UIDS: Final = frozenset({a.STUDY_UID, a.SERIES_UID, a.SOP_INSTANCE})
_COUNTS: Final = frozenset({a.PATIENT_STUDIES, a.PATIENT_SERIES, a.PATIENT_INSTANCES})
_STUDY_COUNTS: Final = frozenset({a.STUDY_SERIES, a.STUDY_INSTANCES})  # which count series of every modality
_ASKED: Final = frozenset({a.SPECIFIC_CHARACTER_SET, a.QUERY_RETRIEVE_LEVEL, 0x00080054, 0x00080056})
_NARROWER: Final = "query at study level; coffer access explain shows the limits of a user"


class Narrowing:
    """One permission's scopes, for one search; everything must lie inside all of them. Used by one thread."""

    def __init__(self, index: Index, scopes: tuple[Scope, ...], today: dt.date | None = None) -> None:
        self._index = index
        self._scopes = scopes
        # Study Dates are those of the place where the machine stands.
        self._today = today or dt.date.today()  # noqa: DTZ011
        self._series: dict[tuple[str, str, str], Mapping[int, Values]] = {}

    def shows(self, tag: int) -> bool:
        """Whether an attribute may be asked for and returned. The UIDs may: without them nothing can be named."""
        if not self._scopes or tag in _UIDS or tag in _ASKED:
            return True
        if tag in _COUNTS or (tag in _STUDY_COUNTS and any(scope.modalities is not None for scope in self._scopes)):
            return False
        return all(scope.shows(tag) for scope in self._scopes)

    def matches(self, level: str, keys: Mapping[int, Values], model: str) -> Iterator[dict[int, Values] | None]:
        """As `Index.query_in_steps`, without what lies outside; attributes that are not shown are not in the rows.

        Raises as that does, and AccessDeniedError for a level at which the scopes cannot be judged.
        """
        if not self._scopes:
            return self._index.query_in_steps(level, keys, model)
        self._require_level(level)
        is_key = {a.PATIENT_ID} if model == "patient" else set()
        asked = {tag: values for tag, values in keys.items() if self.shows(tag) or tag in is_key}
        hidden = {tag: () for tag in _hidden(level) if tag not in asked}
        return self._inside(self._index.query_in_steps(level, {**asked, **hidden}, model), hidden, level)

    def _require_level(self, level: str) -> None:
        for scope in self._scopes:
            if scope.levels is not None and level not in scope.levels:
                raise AccessDeniedError("the role lists patients and studies only", hint=_NARROWER)
            if level == "PATIENT" and scope.is_by_study:
                raise AccessDeniedError("the user's limits are of studies, not of patients", hint=_NARROWER)

    def _inside(
        self, rows: Iterator[dict[int, Values] | None], hidden: Mapping[int, Values], level: str
    ) -> Iterator[dict[int, Values] | None]:
        for row in rows:
            is_inside = row is not None and self._covers(_facts_of(row, level, self._index))
            # None also in place of a row outside: that search must be interruptible, too.
            yield {tag: each for tag, each in row.items() if tag not in hidden} if row and is_inside else None

    def has(self, one: Located) -> bool:
        """Whether an object lies inside. One that belongs to no study does not: nothing is known of it."""
        if not self._scopes:
            return True
        row = self._series_of(one)
        if row is None:
            return False
        sources = {one.version.source_ae}
        return self._covers(
            StudyFacts(one.patient.patient_id, _text(row, a.STUDY_DATE), _texts(row, a.MODALITY), lambda: sources)
        )

    def has_study(self, study_uid: str) -> bool:
        """Whether there is such a study, with any part of it inside."""
        return any(self.has(one) for one in self._index.locate_in_steps({a.STUDY_UID: (study_uid,)}) if one is not None)

    def _series_of(self, one: Located) -> Mapping[int, Values] | None:
        """Study Date and Modality of an object's series."""
        name = one.study_uid, one.series_uid, one.patient.patient_id
        if name not in self._series and one.study_uid and one.series_uid:
            keys: dict[int, Values] = dict.fromkeys(_hidden("SERIES"), ())
            keys |= {a.STUDY_UID: (one.study_uid,), a.SERIES_UID: (one.series_uid,)}
            for row in self._index.query_in_steps("SERIES", keys, "study"):
                if row is not None:
                    self._series[(*name[:2], identity_text(_texts(row, a.PATIENT_ID)))] = row
        return self._series.get(name)

    def _covers(self, facts: StudyFacts) -> bool:
        return all(scope.covers(facts, self._today) for scope in self._scopes)


def _hidden(level: str) -> tuple[int, ...]:
    """The attributes by which scopes are judged at a level."""
    if level == "PATIENT":
        return (a.PATIENT_ID,)
    return (a.PATIENT_ID, a.STUDY_UID, a.STUDY_DATE, a.MODALITIES_IN_STUDY if level == "STUDY" else a.MODALITY)


def _facts_of(row: Mapping[int, Values], level: str, index: Index) -> StudyFacts:
    patient = identity_text(_texts(row, a.PATIENT_ID))
    modality = a.MODALITIES_IN_STUDY if level == "STUDY" else a.MODALITY

    def sources() -> set[str]:
        found = index.locate_in_steps({a.STUDY_UID: tuple(_texts(row, a.STUDY_UID))})
        return {one.version.source_ae for one in found if one is not None and one.patient.patient_id == patient}

    return StudyFacts(patient, _text(row, a.STUDY_DATE), _texts(row, modality), sources)


def _texts(row: Mapping[int, Values], tag: int) -> list[str]:
    return [each for each in row.get(tag, ()) if isinstance(each, str)]


def _text(row: Mapping[int, Values], tag: int) -> str:
    return "".join(_texts(row, tag))
