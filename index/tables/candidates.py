"""The searchable attributes of all studies, in memory: a SQLite table that narrows down the studies that
`index.dicom.matching` must check.

Rule: the candidates may be too many, never too few; a study with anything unusual (several values, very long text) is
always one. The table is built from the sealed rows at start, kept up to date by every put, and never written to disk.
It decides no match and holds no series or instances.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from coffer.index.dicom.attributes import (
    ACCESSION_NUMBER,
    BIRTH_DATE,
    MODALITIES_IN_STUDY,
    PATIENT_ID,
    PATIENT_NAME,
    STUDY_DATE,
    STUDY_DESCRIPTION,
    STUDY_ID,
)
from coffer.index.dicom.matching import MatchingKey, fold_name
from coffer.index.tables.rows import StudyRow

__all__ = ["StudyTable", "has_same_columns"]

_REFERRING_PHYSICIAN: Final = 0x00080090
_COLUMNS: Final[Mapping[int, str]] = {
    PATIENT_NAME: "name",
    PATIENT_ID: "patient_id",
    BIRTH_DATE: "birth_date",
    STUDY_DATE: "study_date",
    ACCESSION_NUMBER: "accession",
    STUDY_ID: "study_id",
    STUDY_DESCRIPTION: "description",
    _REFERRING_PHYSICIAN: "referring",
}
_NAMES: Final = ("name", "referring")
_INDEXED: Final = ("name", "patient_id", "birth_date", "study_date", "accession", "study_id", "patient")
_LONGEST: Final = 1024  # characters of one attribute; a longer one makes the study always a candidate
_PAGE: Final = 256
_MOST_PARAMETERS: Final = 30_000  # of one statement; SQLite's limit is 32,766
_TOP: Final = "\U0010ffff"


def has_same_columns(one: StudyRow, other: StudyRow) -> bool:
    """Whether both rows have the same content in the table."""
    first, second = one.attributes.values, other.attributes.values
    same = first is second or all(first.get(tag) == second.get(tag) for tag in _COLUMNS)
    alike = one.modalities is other.modalities or one.modalities.keys() == other.modalities.keys()
    return same and alike and _is_odd(one) == _is_odd(other)


def _is_odd(row: StudyRow) -> bool:
    """Whether its columns are not enough to rule it out: another part or its instances may match."""
    return row.shared or row.attributes.stale


class StudyTable:
    """One row for each part of a study. Thread-safe: one connection and one lock; results come in pages, so that nobody
    waits for long."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._db = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
        # One transaction forever: committing what only this process sees makes nothing safer, and walks the cache.
        self._db.execute("BEGIN")
        columns = ", ".join(f"{name} TEXT" for name in (*_COLUMNS.values(), "patient", "modalities"))
        self._db.execute(f"CREATE TABLE study (number INTEGER PRIMARY KEY, odd INTEGER, {columns})")
        marks = ", ".join("?" * (len(_COLUMNS) + 4))
        self._insert = f"INSERT OR REPLACE INTO study VALUES ({marks})"  # noqa: S608  # question marks only

    def index(self) -> None:
        """Index the columns, once the table is filled: updating the indexes row by row takes three times as long."""
        with self._lock:
            for name in _INDEXED:
                self._db.execute(f"CREATE INDEX IF NOT EXISTS by_{name} ON study ({name})")
            self._db.execute("CREATE INDEX IF NOT EXISTS by_odd ON study (number) WHERE odd")

    def put(self, rows: Iterable[tuple[int, StudyRow]]) -> None:
        """Add or replace studies by their number."""
        with self._lock:
            self._db.executemany(self._insert, (_columns(number, row) for number, row in rows))

    def remove(self, number: int) -> None:
        """Remove a study."""
        with self._lock:
            self._db.execute("DELETE FROM study WHERE number = ?", (number,))

    def clear(self) -> None:
        """Remove all studies."""
        with self._lock:
            self._db.execute("DELETE FROM study")

    def candidates(self, keys: Mapping[int, MatchingKey]) -> Iterator[int]:
        """Numbers of the studies that may match all keys, each once; the lock is held briefly for each page."""
        conditions: list[str] = []
        parameters: list[str] = []
        for tag, key in keys.items():
            _narrow(tag, key, conditions, parameters)
        if not conditions:
            yield from self._pages("SELECT number FROM study ORDER BY number", [], set())
            return
        seen: set[int] = set()
        yield from self._pages("SELECT number FROM study WHERE odd", [], seen)
        narrowed = " AND ".join(conditions)  # only our column names and question marks; values are parameters
        yield from self._pages(f"SELECT number FROM study WHERE {narrowed}", parameters, seen)  # noqa: S608

    def of_patient(self, patient_id: str) -> list[int]:
        """Numbers of the parts that may belong to a patient with this ID, oldest first."""
        statement = "SELECT number FROM study WHERE patient = ? ORDER BY number"
        with self._lock:
            rows = self._db.execute(statement, (_cell(patient_id),)).fetchall()
        return [number for (number,) in rows]

    def _pages(self, statement: str, parameters: list[str], seen: set[int]) -> Iterator[int]:
        with self._lock:
            cursor = self._db.execute(statement, parameters)
            page = cursor.fetchmany(_PAGE)
        while page:
            for (number,) in page:
                if number not in seen:  # an update between two pages may move a study to a later page
                    seen.add(number)
                    yield number
            with self._lock:
                page = cursor.fetchmany(_PAGE)

    def close(self) -> None:
        """Drop the table."""
        with self._lock:
            self._db.close()


def _columns(number: int, row: StudyRow) -> tuple[int | str, ...]:
    values = row.attributes.values
    odd = int(_is_odd(row))
    out: list[str] = []
    for tag, name in _COLUMNS.items():
        stored = values.get(tag, ())
        text = stored[0] if stored and isinstance(stored[0], str) else ""
        if len(stored) > 1 or not _is_plain(text):
            odd = 1
        if name in _NAMES:
            text = "=".join(fold_name(text))
        elif name.endswith("_date") and not (len(text) == 8 or not text):
            odd = 1  # not YYYYMMDD: only the matcher reads it
        if not _is_plain(text):
            odd = 1
        out.append(_cell(text))
    modalities = "".join(f"\\{m}" for m in row.modalities) + "\\"
    return (number, odd, *out, _cell(row.part.patient_id), modalities)


def _cell(text: str) -> str:
    return text[:_LONGEST].replace("\0", " ")


def _is_plain(text: str) -> bool:
    """Whether the table holds it completely, and the comparisons of `_narrow` treat it correctly."""
    return len(text) <= _LONGEST and "\0" not in text and _TOP not in text


def _narrow(tag: int, key: MatchingKey, conditions: list[str], parameters: list[str]) -> None:
    """Add a condition that every study matching the key fulfils, if there is one."""
    if key.universal:
        return
    if tag == MODALITIES_IN_STUDY and key.exact is not None and len(key.exact) == 1:
        conditions.append("instr(modalities, ?) > 0")
        parameters.append(f"\\{key.exact[0]}\\")
        return
    column = _COLUMNS.get(tag)
    if column is None:
        return
    if key.exact is not None:
        if len(parameters) + len(key.exact) > _MOST_PARAMETERS:
            return
        conditions.append(f"{column} IN ({', '.join('?' * len(key.exact))})")
        parameters.extend(key.exact)
    elif key.span is not None:
        conditions.append(f"{column} BETWEEN ? AND ?")
        parameters.extend(key.span)
    elif len(key.patterns) == 1:
        _narrow_pattern(column, key.patterns[0], conditions, parameters)


def _narrow_pattern(column: str, pattern: str, conditions: list[str], parameters: list[str]) -> None:
    pieces = [piece for piece in pattern.replace("?", "*").split("*") if piece]
    if column in _NAMES:
        # A single group may match any group of the value, and a key's groups need not be adjacent in it.
        pieces = [part for piece in pieces for part in piece.split("=") if part]
    elif pattern[0] not in "*?":
        conditions.append(f"{column} >= ? AND {column} < ?")
        parameters.extend((pieces[0], pieces[0] + _TOP))
        pieces = pieces[1:]
    for piece in pieces[:8]:
        conditions.append(f"instr({column}, ?) > 0")
        parameters.append(piece)
