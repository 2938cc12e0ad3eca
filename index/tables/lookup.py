"""From identities to rows: a part, its series, and every row that holds versions of one instance.

Rule: reads only, and omits what cannot be opened: what was shredded counts as absent. It matches nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from coffer.index.instance.identity import PartId
from coffer.index.tables.rows import InstanceRow, SeriesRow, StudyRow
from coffer.index.tables.sealed_rows import (
    INSTANCE,
    PART,
    SERIES,
    STUDY,
    Ref,
    Tables,
)
from coffer.keys.errors import KeyUnavailableError, ShreddedError

__all__ = ["Link", "Lookup"]


@dataclass(frozen=True, slots=True)
class Link:
    """An instance's row in one part, with the rows above it. An instance has one in each part with versions of it."""

    ref: Ref
    study: StudyRow
    series: SeriesRow
    row: InstanceRow


class Lookup:
    """Reads an index's tables. Thread-safe, as they are."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    def study(self, ref: Ref) -> StudyRow | None:
        """A part's row; None if it is absent or cannot be opened."""
        try:
            return self._tables.study(ref)
        except (KeyUnavailableError, ShreddedError):
            return None

    def part(self, part: PartId) -> tuple[Ref, StudyRow] | tuple[None, None]:
        """The row of a part. A part that was shredded and arrived again has a new row."""
        for ref in self._tables.named(PART, part.text):
            row = self.study(ref)
            if row is not None and row.part == part:
                return ref, row
        return None, None

    def parts_of_study(self, study_uid: str) -> Iterator[tuple[Ref, StudyRow]]:
        """Every part with a Study Instance UID, oldest first; none for ""."""
        for ref, row in self.parts_named(study_uid) if study_uid else ():
            if row.study_uid == study_uid:
                yield ref, row

    def parts_named(self, name: str) -> Iterator[tuple[Ref, StudyRow]]:
        """Every part with a name (`PartId.name`), oldest first: those of a study, or that of one object without one."""
        for ref in self._tables.named(STUDY, name):
            row = self.study(ref)
            if row is not None:
                yield ref, row

    def series(self, study: Ref, uid: str) -> tuple[Ref, SeriesRow] | tuple[None, None]:
        """The row of a part's series."""
        for ref in self._tables.named(SERIES, uid):
            if ref[:8] == study and (row := self._tables.series(ref)) is not None:
                return ref, row
        return None, None

    def chain(self, study_uid: str, series_uid: str, sop_instance: str) -> list[Link]:
        """Every row with versions of one instance of one series of one study, in any part."""
        return [
            link
            for link in self.links(sop_instance)
            if link.study.study_uid == study_uid and link.series.series_uid == series_uid
        ]

    def links(self, sop_instance: str) -> Iterator[Link]:
        """Every row with versions under a SOP Instance UID, in any series and study."""
        for ref in self._tables.named(INSTANCE, sop_instance):
            link = self.link(ref)
            if link is not None:
                yield link

    def link(self, ref: Ref) -> Link | None:
        """An instance's row with those above it; None if it is absent or cannot be opened."""
        try:
            study, series = self._tables.study(ref[:8]), self._tables.series(ref[:12])
            row = self._tables.instance(ref)
        except (KeyUnavailableError, ShreddedError):
            return None
        return Link(ref, study, series, row) if study and series and row else None

    def series_of(self, study: Ref, row: StudyRow) -> Iterator[tuple[Ref, SeriesRow]]:
        """Every series of a part, including those in which nothing is served."""
        for ref, opened in self._tables.below(study, row.numbered):
            found = opened()
            if isinstance(found, SeriesRow):
                yield ref, found

    def instances_of(self, series: Ref, row: SeriesRow) -> Iterator[tuple[Ref, InstanceRow]]:
        """Every instance of a part's series, including those of which another part's version is served."""
        for ref, opened in self._tables.below(series, row.numbered):
            found = opened()
            if isinstance(found, InstanceRow):
                yield ref, found

    def links_of(self, series: Ref) -> Iterator[Link]:
        """The rows of every instance of a part's series, with those above; none that cannot be opened."""
        try:
            study, row = self._tables.study(series[:8]), self._tables.series(series)
        except (KeyUnavailableError, ShreddedError):
            return
        if study is None or row is None:
            return
        for ref, opened in self._tables.below(series, row.numbered):
            with suppress(KeyUnavailableError, ShreddedError):
                found = opened()
                if isinstance(found, InstanceRow):
                    yield Link(ref, study, row, found)

    def all_of(self, study: Ref, row: StudyRow) -> Iterator[tuple[Ref, SeriesRow, InstanceRow]]:
        """Every instance of a part with its series. Raises KeyUnavailableError, ShreddedError."""
        for series_ref, series in self.series_of(study, row):
            for ref, instance in self.instances_of(series_ref, series):
                yield ref, series, instance

    def siblings(self, ref: Ref, row: StudyRow) -> Sequence[tuple[Ref, StudyRow]]:
        """The other parts of the same name."""
        return [(other, its) for other, its in self.parts_named(row.part.name) if other != ref] if row.shared else []
