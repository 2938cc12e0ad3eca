"""C-FIND over the views (PS3.4 C.4.1, C.6): check the hierarchy, narrow down, match level by level, return the keys.

Rule: hierarchical queries only. Every unique key above the level has exactly one value without wildcards; keys below
the level, and attributes that are not indexed, restrict nothing and are returned empty. Rows come one by one, with None
between them when 2 ms have passed without one, so that a long search can be suspended or cancelled. It encodes nothing
and decides no access; Retrieve AE Title and Instance Availability are left to the caller.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, cast

from coffer.index.dicom import attributes as a
from coffer.index.dicom.attributes import (
    ATTRIBUTES,
    COMPUTED,
    Item,
    QueryLevel,
    Stored,
    Values,
)
from coffer.index.dicom.matching import MatchingKey, compile_key
from coffer.index.instance.identity import Patient
from coffer.index.query.views import SeriesView, StudyView, Views
from coffer.index.tables.candidates import StudyTable
from coffer.index.tables.lookup import Lookup
from coffer.index.tables.rows import InstanceRow, SeriesRow
from coffer.index.tables.sealed_rows import INSTANCE, Tables
from coffer.keys.errors import IdentifierError

__all__ = ["Query"]

_UNIQUE: Final = {
    QueryLevel.PATIENT: a.PATIENT_ID,
    QueryLevel.STUDY: a.STUDY_UID,
    QueryLevel.SERIES: a.SERIES_UID,
    QueryLevel.IMAGE: a.SOP_INSTANCE,
}
_PAUSE_SECONDS: Final = 0.002  # how often a search yields to others that share its thread
_TOP: Final = {"patient": QueryLevel.PATIENT, "study": QueryLevel.STUDY}


class Query:
    """One checked query. The constructor raises IdentifierError; `run` yields one mapping for each match and pauses."""

    def __init__(  # noqa: PLR0917  # the question, and where to look
        self, level: str, keys: Mapping[int, Values], model: str, tables: Tables, table: StudyTable, views: Views
    ) -> None:
        self._tables = tables
        self._lookup = Lookup(tables)
        self._table = table
        self._views = views
        self._paused = time.monotonic()
        self._computed: dict[int, Callable[[StudyView], tuple[str, ...]]] = {
            a.STUDY_UID: lambda view: (view.study_uid,),
            a.MODALITIES_IN_STUDY: lambda view: view.modalities,
            a.SOP_CLASSES_IN_STUDY: lambda view: view.sop_classes,
            a.STUDY_SERIES: lambda view: (str(views.count_of_series(view)),),
            a.STUDY_INSTANCES: lambda view: (str(view.instances),),
            **{tag: self._counts(tag) for tag in _PATIENT_COUNTS},
        }
        self._requested = keys
        self._level = _level(level, model)
        self._top = _TOP[model]
        self._check_unique_keys()
        self._keys: dict[QueryLevel, dict[int, MatchingKey]] = {each: {} for each in QueryLevel}
        for tag, values in keys.items():
            at = self._level_of(tag)
            if at is not None and at <= self._level:
                self._keys[at][tag] = compile_key(tag, self._key_values(tag, values))

    def _key_values(self, tag: int, values: Values) -> Values:
        """The values of a key; a Patient ID above the level is one text (PS3.6: VM 1), whatever it contains."""
        if tag == a.PATIENT_ID and self._top <= QueryLevel.PATIENT < self._level:
            return ("\\".join(v for v in values if isinstance(v, str)),)
        return values

    @staticmethod
    def _level_of(tag: int) -> QueryLevel | None:
        if tag in ATTRIBUTES:
            return ATTRIBUTES[tag].level
        # Patient counts are returned, not matched; those of study and below can be both.
        return COMPUTED.get(tag)

    def _check_unique_keys(self) -> None:
        for above in range(self._top, self._level):
            self._check_unique_key(_UNIQUE[QueryLevel(above)], single=True)
        self._check_unique_key(_UNIQUE[self._level], single=False)

    def _check_unique_key(self, tag: int, *, single: bool) -> None:
        values = [v for v in self._key_values(tag, self._requested.get(tag, ())) if isinstance(v, str) and v]
        is_uid = ATTRIBUTES[tag].vr == "UI"
        wild = [v for v in values if ("*" in v or "?" in v) and (single or (is_uid and v.strip("*")))]
        if wild or (single and len(values) != 1):
            raise IdentifierError(
                f"({tag >> 16:04X},{tag & 0xFFFF:04X}) needs exactly one value without wildcards"
                if single
                else f"({tag >> 16:04X},{tag & 0xFFFF:04X}) takes no wildcards",
                offending=(tag,),
                hint="a hierarchical query names one entity at every level above its own (PS3.4 C.4.1.2.2)",
            )

    def run(self) -> Iterator[dict[int, Values] | None]:
        """Yield the matches; each mapping holds every key of the query. None: some time has passed without a match."""
        if self._level is QueryLevel.PATIENT:
            yield from self._patients()
            return
        for view in self._studies():
            if view is None:
                yield None
            elif self._level is QueryLevel.STUDY:
                yield self._answer(view, None, None)
            else:
                yield from self._below(view)

    def _studies(self) -> Iterator[StudyView | None]:
        """The views that match, and None whenever some time has passed without one."""
        keys = self._keys[QueryLevel.PATIENT] | self._keys[QueryLevel.STUDY]
        for view in self._candidates(keys):
            if view is not None and self._study_matches(view, keys):
                yield view
            elif self._is_pause_due():
                yield None

    def _is_pause_due(self) -> bool:
        now = time.monotonic()
        if now - self._paused < _PAUSE_SECONDS:
            return False
        self._paused = now
        return True

    def _candidates(self, keys: Mapping[int, MatchingKey]) -> Iterator[StudyView | None]:
        """Each view that may match, once; None in place of what is not shown."""
        uid = keys.get(a.STUDY_UID)
        if uid is not None and uid.exact is not None:
            for value in dict.fromkeys(uid.exact):
                yield from self._views.of_study(value)
            return
        yield from self._views.of_parts(self._table.candidates(keys))

    def _study_matches(self, view: StudyView, keys: Mapping[int, MatchingKey]) -> bool:
        values = view.values
        return all(
            key.universal or tag in _PATIENT_COUNTS or key.matches(self._study_value(view, values, tag))
            for tag, key in keys.items()
        )

    def _patients(self) -> Iterator[dict[int, Values] | None]:
        keys = self._keys[QueryLevel.PATIENT]
        seen: set[Patient] = set()
        for view in self._candidates(keys):
            if self._is_pause_due():
                yield None
            if view is None or view.patient in seen or not self._study_matches(view, keys):
                continue
            seen.add(view.patient)
            others = [each for each in self._views.of_patient(view.patient) if self._study_matches(each, keys)]
            # The newest study describes the patient, whatever the numbers of the studies are.
            yield self._answer(max(others, key=lambda each: each.attributes.newest, default=view), None, None)

    def _below(self, view: StudyView) -> Iterator[dict[int, Values] | None]:
        keys = self._keys[QueryLevel.SERIES]
        for series in self._series(view, keys.get(a.SERIES_UID)):
            if self._is_pause_due():
                yield None
            if not all(key.matches(self._series_value(series.row, tag)) for tag, key in keys.items()):
                continue
            if self._level is QueryLevel.SERIES:
                yield self._answer(view, series.row, None)
            else:
                yield from self._images(view, series)

    def _series(self, view: StudyView, uid: MatchingKey | None) -> Iterable[SeriesView]:
        if uid is None or uid.exact is None:
            return self._views.series(view)
        named = (self._views.series_named(view, value) for value in dict.fromkeys(uid.exact))
        return [series for series in named if series is not None]

    def _images(self, view: StudyView, series: SeriesView) -> Iterator[dict[int, Values] | None]:
        keys = self._keys[QueryLevel.IMAGE]
        for row in self._image_rows(series, keys.get(a.SOP_INSTANCE)):
            if row and row.is_served and all(key.matches(_image_value(row, tag)) for tag, key in keys.items()):
                yield self._answer(view, series.row, row)
            elif self._is_pause_due():
                yield None

    def _image_rows(self, series: SeriesView, uid: MatchingKey | None) -> Iterator[InstanceRow | None]:
        if uid is not None and uid.exact is not None:
            named = (ref for value in dict.fromkeys(uid.exact) for ref in self._tables.named(INSTANCE, value))
            above = {ref for ref, _ in series.rows}
            return (self._tables.instance(ref) for ref in named if ref[:12] in above)
        return (row for ref, its in series.rows for _, row in self._lookup.instances_of(ref, its))

    def _answer(self, view: StudyView, series: SeriesRow | None, instance: InstanceRow | None) -> dict[int, Values]:
        out: dict[int, Values] = {}
        known = view.values
        for tag, asked in self._requested.items():
            level = self._level_of(tag)
            values: tuple[str | Item, ...] = ()
            if level is None or level > self._level:
                pass  # not held, or of an entity below
            elif level <= QueryLevel.STUDY:
                values = self._study_value(view, known, tag)
            elif level is QueryLevel.SERIES and series is not None:
                values = self._series_value(series, tag)
            elif instance is not None:
                values = _image_value(instance, tag)
            out[tag] = _requested_only(cast("Values", values), asked)
        out[a.QUERY_RETRIEVE_LEVEL] = (self._level.name,)
        return out

    def _study_value(self, view: StudyView, values: Stored, tag: int) -> tuple[str | Item, ...]:
        stored = values.get(tag)
        if stored is not None:
            one_text = tag == a.PATIENT_ID and len(stored) > 1
            return ("\\".join(v for v in stored if isinstance(v, str)),) if one_text else stored
        compute = self._computed.get(tag)
        return compute(view) if compute is not None else ()

    def _counts(self, tag: int) -> Callable[[StudyView], tuple[str, ...]]:
        """A function that counts the entities of a view's patient."""
        return lambda view: (str(sum(map(self._counted(tag), self._views.of_patient(view.patient)))),)

    def _counted(self, tag: int) -> Callable[[StudyView], int]:
        """A function for what one study adds to a count of its patient's entities."""
        if tag == a.PATIENT_SERIES:
            return self._views.count_of_series
        return (lambda view: view.instances) if tag == a.PATIENT_INSTANCES else (lambda _: 1)

    @staticmethod
    def _series_value(row: SeriesRow, tag: int) -> tuple[str | Item, ...]:
        if tag == a.SERIES_UID:
            return (row.series_uid,)
        if tag == a.SERIES_INSTANCES:
            return (str(row.instances),)
        return row.attributes.values.get(tag, ())


_PATIENT_COUNTS: Final = frozenset({a.PATIENT_STUDIES, a.PATIENT_SERIES, a.PATIENT_INSTANCES})


def _level(level: str, model: str) -> QueryLevel:
    if model not in _TOP or level not in QueryLevel.__members__ or QueryLevel[level] < _TOP[model]:
        raise IdentifierError(
            "Query/Retrieve Level is missing or not in the information model",
            offending=(a.QUERY_RETRIEVE_LEVEL,),
            hint="set (0008,0052) to PATIENT (Patient Root only), STUDY, SERIES or IMAGE",
        )
    return QueryLevel[level]


def _image_value(row: InstanceRow, tag: int) -> tuple[str | Item, ...]:
    if tag == a.AVAILABLE_TRANSFER_SYNTAX:
        return (row.best.transfer_syntax,)
    return row.attributes.get(tag, ())


def _requested_only(values: Values, asked: Values) -> Values:
    """Items reduced to the attributes in the key's item; an empty item requests all (PS3.4 C.2.2.2.6)."""
    item = next((v for v in asked if not isinstance(v, str)), None)
    if not item:
        return values
    return tuple({tag: v.get(tag, ()) for tag in item} for v in values if not isinstance(v, str))
