"""C-FIND over the views (PS3.4 C.4.1, C.6): check the hierarchy, narrow, match level by level, answer what was asked.

Rule: hierarchical queries only. Every unique key above the level holds exactly one value without wildcards; keys below
the level, and attributes the index does not hold, restrict nothing and are answered empty. Rows come one by one, and
None among them whenever so much time has passed without one, so that a long search can be put off or given up.
It encodes nothing and decides no access; Retrieve AE Title and Instance Availability are the caller's.
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
    Level,
    Stored,
    Values,
)
from coffer.index.dicom.matching import Key, compile_key
from coffer.index.instance.identity import Patient
from coffer.index.query.views import SeriesView, StudyView, Views
from coffer.index.tables.candidates import StudyTable
from coffer.index.tables.rows import InstanceRow, SeriesRow
from coffer.index.tables.sealed_rows import INSTANCE, Ref, Tables, child
from coffer.keys.errors import IdentifierError

__all__ = ["Query"]

_UNIQUE: Final = {
    Level.PATIENT: a.PATIENT_ID,
    Level.STUDY: a.STUDY_UID,
    Level.SERIES: a.SERIES_UID,
    Level.IMAGE: a.SOP_INSTANCE,
}
_PAUSE_SECONDS: Final = 0.002  # whoever shares a thread with this search gets it back as often
_TOP: Final = {"patient": Level.PATIENT, "study": Level.STUDY}


class Query:
    """One checked query. Making it raises IdentifierError; `run` yields one mapping for each match, and pauses."""

    def __init__(  # noqa: PLR0917  # what is asked, and where it is looked for
        self, level: str, keys: Mapping[int, Values], model: str, tables: Tables, table: StudyTable, views: Views
    ) -> None:
        self._tables = tables
        self._table = table
        self._views = views
        self._paused = time.monotonic()
        self._made: dict[int, Callable[[StudyView], tuple[str, ...]]] = {
            a.STUDY_UID: lambda view: (view.study_uid,),
            a.MODALITIES_IN_STUDY: lambda view: view.modalities,
            a.SOP_CLASSES_IN_STUDY: lambda view: view.sop_classes,
            a.STUDY_SERIES: lambda view: (str(views.count_of_series(view)),),
            a.STUDY_INSTANCES: lambda view: (str(view.instances),),
            **{tag: self._counts(tag) for tag in _PATIENT_COUNTS},
        }
        self._asked = keys
        self._level = _level(level, model)
        self._top = _TOP[model]
        self._check_unique_keys()
        self._keys: dict[Level, dict[int, Key]] = {each: {} for each in Level}
        for tag, values in keys.items():
            at = self._level_of(tag)
            if at is not None and at <= self._level:
                self._keys[at][tag] = compile_key(tag, self._whole(tag, values))

    def _whole(self, tag: int, values: Values) -> Values:
        """The values of a key; one Patient ID above the level is one text (PS3.6: VM 1), whatever is in it."""
        if tag == a.PATIENT_ID and self._top <= Level.PATIENT < self._level:
            return ("\\".join(v for v in values if isinstance(v, str)),)
        return values

    @staticmethod
    def _level_of(tag: int) -> Level | None:
        if tag in ATTRIBUTES:
            return ATTRIBUTES[tag].level
        # Patient counts are answered, not matched; those of study and below can be both.
        return COMPUTED.get(tag)

    def _check_unique_keys(self) -> None:
        for above in range(self._top, self._level):
            self._check_unique_key(_UNIQUE[Level(above)], single=True)
        self._check_unique_key(_UNIQUE[self._level], single=False)

    def _check_unique_key(self, tag: int, *, single: bool) -> None:
        values = [v for v in self._whole(tag, self._asked.get(tag, ())) if isinstance(v, str) and v]
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
        """Yield the matches; each mapping holds every key that was asked for. None when some time went without one."""
        if self._level is Level.PATIENT:
            yield from self._patients()
            return
        for view in self._studies():
            if view is None:
                yield None
            elif self._level is Level.STUDY:
                yield self._answer(view, None, None)
            else:
                yield from self._below(view)

    def _studies(self) -> Iterator[StudyView | None]:
        """The views that match, and None whenever some time went without one."""
        keys = self._keys[Level.PATIENT] | self._keys[Level.STUDY]
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

    def _candidates(self, keys: Mapping[int, Key]) -> Iterator[StudyView | None]:
        """Each view that may match, once; None in the place of what is not shown."""
        uid = keys.get(a.STUDY_UID)
        if uid is not None and uid.exact is not None:
            for value in dict.fromkeys(uid.exact):
                yield from self._views.of_study(value)
            return
        yield from self._views.each(self._table.candidates(keys))

    def _study_matches(self, view: StudyView, keys: Mapping[int, Key]) -> bool:
        values = view.values
        return all(
            key.universal or tag in _PATIENT_COUNTS or key.matches(self._study_value(view, values, tag))
            for tag, key in keys.items()
        )

    def _patients(self) -> Iterator[dict[int, Values] | None]:
        keys = self._keys[Level.PATIENT]
        seen: set[Patient] = set()
        for view in self._candidates(keys):
            if self._is_pause_due():
                yield None
            if view is None or view.patient in seen or not self._study_matches(view, keys):
                continue
            seen.add(view.patient)
            others = [each for each in self._views.of_patient(view.patient) if self._study_matches(each, keys)]
            # The newest study speaks for the patient, whatever order the studies were numbered in.
            yield self._answer(max(others, key=lambda each: each.attributes.newest, default=view), None, None)

    def _below(self, view: StudyView) -> Iterator[dict[int, Values] | None]:
        keys = self._keys[Level.SERIES]
        for series in self._series(view, keys.get(a.SERIES_UID)):
            if self._is_pause_due():
                yield None
            if not all(key.matches(self._series_value(series.row, tag)) for tag, key in keys.items()):
                continue
            if self._level is Level.SERIES:
                yield self._answer(view, series.row, None)
            else:
                yield from self._images(view, series)

    def _series(self, view: StudyView, uid: Key | None) -> Iterable[SeriesView]:
        if uid is None or uid.exact is None:
            return self._views.series(view)
        named = (self._views.series_named(view, value) for value in dict.fromkeys(uid.exact))
        return [series for series in named if series is not None]

    def _images(self, view: StudyView, series: SeriesView) -> Iterator[dict[int, Values] | None]:
        keys = self._keys[Level.IMAGE]
        for ref in self._image_refs(series, keys.get(a.SOP_INSTANCE)):
            row = self._tables.instance(ref)
            if row and row.is_served and all(key.matches(_image_value(row, tag)) for tag, key in keys.items()):
                yield self._answer(view, series.row, row)
            elif self._is_pause_due():
                yield None

    def _image_refs(self, series: SeriesView, uid: Key | None) -> Iterable[Ref]:
        if uid is not None and uid.exact is not None:
            named = (ref for value in dict.fromkeys(uid.exact) for ref in self._tables.named(INSTANCE, value))
            above = {ref for ref, _ in series.rows}
            return [ref for ref in named if ref[:12] in above]
        return [child(ref, number) for ref, row in series.rows for number in range(row.numbered)]

    def _answer(self, view: StudyView, series: SeriesRow | None, instance: InstanceRow | None) -> dict[int, Values]:
        out: dict[int, Values] = {}
        known = view.values
        for tag, asked in self._asked.items():
            level = self._level_of(tag)
            values: tuple[str | Item, ...] = ()
            if level is None or level > self._level:
                pass  # not held, or of an entity below
            elif level <= Level.STUDY:
                values = self._study_value(view, known, tag)
            elif level is Level.SERIES and series is not None:
                values = self._series_value(series, tag)
            elif instance is not None:
                values = _image_value(instance, tag)
            out[tag] = _only_asked(cast("Values", values), asked)
        out[a.QUERY_RETRIEVE_LEVEL] = (self._level.name,)
        return out

    def _study_value(self, view: StudyView, values: Stored, tag: int) -> tuple[str | Item, ...]:
        stored = values.get(tag)
        if stored is not None:
            one_text = tag == a.PATIENT_ID and len(stored) > 1
            return ("\\".join(v for v in stored if isinstance(v, str)),) if one_text else stored
        made = self._made.get(tag)
        return made(view) if made is not None else ()

    def _counts(self, tag: int) -> Callable[[StudyView], tuple[str, ...]]:
        """How a count of a patient's entities is made."""
        return lambda view: (str(sum(map(self._counted(tag), self._views.of_patient(view.patient)))),)

    def _counted(self, tag: int) -> Callable[[StudyView], int]:
        """What one study adds to a count of its patient's entities."""
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


def _level(level: str, model: str) -> Level:
    if model not in _TOP or level not in Level.__members__ or Level[level] < _TOP[model]:
        raise IdentifierError(
            "Query/Retrieve Level is missing or not one of the information model",
            offending=(a.QUERY_RETRIEVE_LEVEL,),
            hint="set (0008,0052) to PATIENT (Patient Root only), STUDY, SERIES or IMAGE",
        )
    return Level[level]


def _image_value(row: InstanceRow, tag: int) -> tuple[str | Item, ...]:
    if tag == a.AVAILABLE_TRANSFER_SYNTAX:
        return (row.best.transfer_syntax,)
    return row.attributes.get(tag, ())


def _only_asked(values: Values, asked: Values) -> Values:
    """Items reduced to the attributes that the key's item names; an empty item asks for all (PS3.4 C.2.2.2.6)."""
    item = next((v for v in asked if not isinstance(v, str)), None)
    if not item:
        return values
    return tuple({tag: v.get(tag, ()) for tag in item} for v in values if not isinstance(v, str))
