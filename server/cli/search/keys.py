"""What `coffer find` refuses to be asked: a condition or column that C-FIND would pass over in silence.

A peer sends optional keys that an archive may ignore (PS3.4 C.2.2.1.3). A person who types one means it, and what is
printed may decide what is shredded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from coffer.index.dicom.attributes import (
    ATTRIBUTES,
    COMPUTED,
    PATIENT_INSTANCES,
    PATIENT_SERIES,
    PATIENT_STUDIES,
    SERIES_UID,
    STUDY_UID,
    Values,
    vr_of,
)
from coffer.index.dicom.attributes import QueryLevel as Level
from coffer.index.dicom.date_ranges import RANGE_VRS, bounds
from coffer.index.dicom.keywords import keyword_of
from coffer.keys.errors import InputError

__all__ = ["name_of", "require_usable"]

_WORDS: Final = {Level.PATIENT: "patient", Level.STUDY: "study", Level.SERIES: "series", Level.IMAGE: "instance"}
_UNIQUE: Final = {Level.STUDY: STUDY_UID, Level.SERIES: SERIES_UID}
_COUNTS: Final = frozenset({PATIENT_STUDIES, PATIENT_SERIES, PATIENT_INSTANCES})
_IN_STUDY: Final = {"Modality": "ModalitiesInStudy", "SOPClassUID": "SOPClassesInStudy"}
_NOUNS: Final = {"DA": "date or range of dates", "TM": "time or range of times", "DT": "moment or range of moments"}
_FORMS: Final = {
    "DA": "a date is 20240131, a range 20240101-20240131, 20240101- or -20240131",
    "TM": "a time is 0930 or 093000, a range 0800-1200, 0800- or -1200",
    "DT": "a moment is 20240131 or 20240131093000, a range 20240101-20240131",
}


def name_of(tag: int) -> str:
    """The keyword of a tag, or the tag as `gggg,eeee`."""
    return keyword_of(tag) or f"{tag >> 16:04X},{tag & 0xFFFF:04X}"


def require_usable(conditions: Mapping[int, Values], columns: Iterable[int], level: Level) -> None:
    """Raise InputError for the first condition or column that rows of that level are not compared by, or do not have,
    and for a date or time that is none."""
    for tag in (*conditions, *columns):
        _require_at(tag, level)
    for above in (each for each in _UNIQUE if each < level):
        if len(conditions.get(_UNIQUE[above], ())) != 1:
            raise InputError(
                f"--level {_WORDS[level]} needs the {_WORDS[above]}: {name_of(_UNIQUE[above])}=UID",
                hint=f"coffer find{'' if above is Level.STUDY else ' --level series StudyInstanceUID=UID'} shows it",
            )
    for tag, values in conditions.items():
        if tag in _COUNTS:
            raise InputError(f"{name_of(tag)} is shown, and never compared", hint=f"use --return {name_of(tag)}")
        if vr_of(tag) in RANGE_VRS:
            _require_range(tag, [each for each in values if isinstance(each, str)])


def _require_at(tag: int, level: Level) -> None:
    at = ATTRIBUTES[tag].level if tag in ATTRIBUTES else COMPUTED.get(tag)
    name = name_of(tag)
    if at is None:
        raise InputError(
            f"{name} is not among the attributes that the index keeps",
            hint="docs/conformance.md lists them; coffer get gives the objects, which have every attribute",
        )
    if at > level:
        instead = _IN_STUDY.get(name) if level is Level.STUDY else None
        hint = f"use {instead}, or " if instead else "use "
        above = "" if level is Level.PATIENT else f" with {name_of(STUDY_UID)}=UID"
        raise InputError(
            f"{name} is of the {_WORDS[at]} level: a {_WORDS[level]} has none",
            hint=f"{hint}--level {_WORDS[at]}{above}",
        )


def _require_range(tag: int, values: Iterable[str]) -> None:
    for value in values:
        if value.strip("*") and bounds(vr_of(tag), value) is None:
            raise InputError(f"{name_of(tag)}={value!r} is no {_NOUNS[vr_of(tag)]}", hint=_FORMS[vr_of(tag)])
