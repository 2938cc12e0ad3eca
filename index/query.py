"""C-FIND over the rows (PS3.4 C.4.1, C.6): check the hierarchy, narrow, match level by level, answer what was asked.

Rule: hierarchical queries only. Every unique key above the level holds exactly one value without wildcards; keys below
the level, and attributes the index does not hold, restrict nothing and are answered empty. Rows come one by one, and
None among them after every so many that did not match, so that a long search can be given up.
It encodes nothing and decides no access; Retrieve AE Title and Instance Availability are the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, cast

from index import attributes as a
from index.attributes import ATTRIBUTES, COMPUTED, Item, Level, Values
from index.matching import IdentifierError, Key, compile_key
from index.rows import InstanceRow, SeriesRow, StudyRow
from index.table import StudyTable, patient_key
from index.tables import INSTANCE, SERIES, STUDY, Ref, Tables, child
from keys.errors import KeyUnavailableError, ShreddedError

__all__ = ["IdentifierError", "Query"]

_UNIQUE: Final = {
    Level.PATIENT: a.PATIENT_ID,
    Level.STUDY: a.STUDY_UID,
    Level.SERIES: a.SERIES_UID,
    Level.IMAGE: a.SOP_INSTANCE,
}
_PAUSE_ROWS: Final = 64
_TOP: Final = {"patient": Level.PATIENT, "study": Level.STUDY}


@dataclass(frozen=True, slots=True)
class _Study:
    ref: Ref
    row: StudyRow


class Query:
    """One checked query. Making it raises IdentifierError; `run` yields one mapping for each match, and pauses."""

    def __init__(self, level: str, keys: Mapping[int, Values], model: str, tables: Tables, table: StudyTable) -> None:
        self._tables = tables
        self._table = table
        self._asked = keys
        self._level = _level(level, model)
        self._top = _TOP[model]
        self._check_unique_keys()
        self._keys: dict[Level, dict[int, Key]] = {each: {} for each in Level}
        for tag, values in keys.items():
            at = self._level_of(tag)
            if at is not None and at <= self._level:
                self._keys[at][tag] = compile_key(tag, values)

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
        values = [v for v in self._asked.get(tag, ()) if isinstance(v, str) and v]
        is_uid = ATTRIBUTES[tag].vr == "UI"
        wild = [v for v in values if ("*" in v or "?" in v) and (single or (is_uid and v.strip("*")))]
        if wild or (single and len(values) != 1):
            raise IdentifierError(
                f"({tag >> 16:04X},{tag & 0xFFFF:04X}) needs exactly one value without wildcards"
                if single
                else f"({tag >> 16:04X},{tag & 0xFFFF:04X}) takes no wildcards",
                (tag,),
                hint="a hierarchical query names one entity at every level above its own (PS3.4 C.4.1.2.2)",
            )

    def run(self) -> Iterator[dict[int, Values] | None]:
        """Yield the matches; each mapping holds every key that was asked for. None when many rows did not match."""
        if self._level is Level.PATIENT:
            yield from self._patients()
            return
        for study in self._studies():
            if study is None:
                yield None
            elif self._level is Level.STUDY:
                yield self._answer(study.row, None, None)
            else:
                yield from self._below(study)

    def _studies(self) -> Iterator[_Study | None]:
        keys = self._keys[Level.PATIENT] | self._keys[Level.STUDY]
        uid = keys.get(a.STUDY_UID)
        refs: Iterator[Ref]
        if uid is not None and uid.exact is not None:
            refs = (ref for value in dict.fromkeys(uid.exact) for ref in self._tables.named(STUDY, value))
        else:
            refs = (number.to_bytes(8, "big") for number in self._table.candidates(keys))
        for count, ref in enumerate(refs, 1):
            row = self._study(ref)
            if row is not None and row.study_uid and self._study_matches(row, keys):
                yield _Study(ref, row)
            elif not count % _PAUSE_ROWS:
                yield None

    def _study(self, ref: Ref) -> StudyRow | None:
        try:
            return self._tables.study(ref)
        except (KeyUnavailableError, ShreddedError):
            return None

    def _study_matches(self, row: StudyRow, keys: Mapping[int, Key]) -> bool:
        return all(
            key.universal or tag in _PATIENT_COUNTS or key.matches(self._study_value(row, tag))
            for tag, key in keys.items()
        )

    def _patients(self) -> Iterator[dict[int, Values] | None]:
        keys = self._keys[Level.PATIENT]
        seen: set[str] = set()
        for count, number in enumerate(self._table.candidates(keys), 1):
            if not count % _PAUSE_ROWS:
                yield None
            row = self._study(number.to_bytes(8, "big"))
            if row is None or not row.study_uid or not self._study_matches(row, keys):
                continue
            patient = patient_key(row)
            if patient not in seen:
                seen.add(patient)
                others = [other for other in self._of_patient(patient) if self._study_matches(other, keys)]
                # The newest study speaks for the patient, whatever order the studies were numbered in.
                yield self._answer(max(others, key=lambda r: r.attributes.newest, default=row), None, None)

    def _of_patient(self, patient: str) -> list[StudyRow]:
        rows = (self._study(n.to_bytes(8, "big")) for n in self._table.of_patient(patient[: 4 * 1024]))
        return [row for row in rows if row is not None and row.study_uid]

    def _below(self, study: _Study) -> Iterator[dict[int, Values] | None]:
        keys = self._keys[Level.SERIES]
        for ref, series in self._children_named(study, keys.get(a.SERIES_UID)):
            if not series.series_uid or not all(
                key.matches(self._series_value(series, tag)) for tag, key in keys.items()
            ):
                continue
            if self._level is Level.SERIES:
                yield self._answer(study.row, series, None)
            else:
                yield from self._images(study.row, ref, series)

    def _children_named(self, study: _Study, uid: Key | None) -> Iterator[tuple[Ref, SeriesRow]]:
        if uid is not None and uid.exact is not None:
            refs = [r for v in dict.fromkeys(uid.exact) for r in self._tables.named(SERIES, v) if r[:8] == study.ref]
        else:
            refs = [child(study.ref, number) for number in range(study.row.series)]
        for ref in refs:
            row = self._tables.series(ref)
            if row is not None:
                yield ref, row

    def _images(self, study: StudyRow, series_ref: Ref, series: SeriesRow) -> Iterator[dict[int, Values] | None]:
        keys = self._keys[Level.IMAGE]
        uid = keys.get(a.SOP_INSTANCE)
        if uid is not None and uid.exact is not None:
            named = (r for v in dict.fromkeys(uid.exact) for r in self._tables.named(INSTANCE, v))
            refs = [r for r in named if r[:12] == series_ref]
        else:
            refs = [child(series_ref, number) for number in range(series.instances)]
        for count, ref in enumerate(refs, 1):
            row = self._tables.instance(ref)
            if row is not None and all(key.matches(_image_value(row, tag)) for tag, key in keys.items()):
                yield self._answer(study, series, row)
            elif not count % _PAUSE_ROWS:
                yield None

    def _answer(self, study: StudyRow, series: SeriesRow | None, instance: InstanceRow | None) -> dict[int, Values]:
        out: dict[int, Values] = {}
        for tag, asked in self._asked.items():
            level = self._level_of(tag)
            values: tuple[str | Item, ...] = ()
            if level is None or level > self._level:
                pass  # not held, or of an entity below
            elif level <= Level.STUDY:
                values = self._study_value(study, tag)
            elif level is Level.SERIES and series is not None:
                values = self._series_value(series, tag)
            elif instance is not None:
                values = _image_value(instance, tag)
            out[tag] = _only_asked(cast("Values", values), asked)
        out[a.QUERY_RETRIEVE_LEVEL] = (self._level.name,)
        return out

    def _study_value(self, row: StudyRow, tag: int) -> tuple[str | Item, ...]:
        stored = row.attributes.values.get(tag)
        if stored is not None:
            return stored
        if tag in _PATIENT_COUNTS:
            rows = self._of_patient(patient_key(row))
            return (str(sum(_PATIENT_COUNTS[tag](each) for each in rows)),)
        made = _STUDY_COMPUTED.get(tag)
        return made(row) if made else ()

    @staticmethod
    def _series_value(row: SeriesRow, tag: int) -> tuple[str | Item, ...]:
        if tag == a.SERIES_UID:
            return (row.series_uid,)
        if tag == a.SERIES_INSTANCES:
            return (str(row.instances),)
        return row.attributes.values.get(tag, ())


_PATIENT_COUNTS: Final[Mapping[int, Callable[[StudyRow], int]]] = {
    a.PATIENT_STUDIES: lambda row: 1,  # noqa: ARG005  # one study each
    a.PATIENT_SERIES: lambda row: row.series,
    a.PATIENT_INSTANCES: lambda row: row.instances,
}
_STUDY_COMPUTED: Final[Mapping[int, Callable[[StudyRow], tuple[str, ...]]]] = {
    a.STUDY_UID: lambda row: (row.study_uid,),
    a.MODALITIES_IN_STUDY: lambda row: row.modalities,
    a.SOP_CLASSES_IN_STUDY: lambda row: row.sop_classes,
    a.STUDY_SERIES: lambda row: (str(row.series),),
    a.STUDY_INSTANCES: lambda row: (str(row.instances),),
}


def _level(level: str, model: str) -> Level:
    if model not in _TOP or level not in Level.__members__ or Level[level] < _TOP[model]:
        raise IdentifierError(
            "Query/Retrieve Level is missing or not one of the information model",
            (a.QUERY_RETRIEVE_LEVEL,),
            hint="set (0008,0052) to PATIENT (Patient Root only), STUDY, SERIES or IMAGE",
        )
    return Level[level]


def _image_value(row: InstanceRow, tag: int) -> tuple[str | Item, ...]:
    if tag == a.AVAILABLE_TRANSFER_SYNTAX:
        return (row.newest.transfer_syntax,)
    return row.attributes.get(tag, ())


def _only_asked(values: Values, asked: Values) -> Values:
    """Items reduced to the attributes that the key's item names; an empty item asks for all (PS3.4 C.2.2.2.6)."""
    item = next((v for v in asked if not isinstance(v, str)), None)
    if not item:
        return values
    return tuple({tag: v.get(tag, ()) for tag in item} for v in values if not isinstance(v, str))
