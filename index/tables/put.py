"""Put one stored object in: its part, series and instance, and the rows of the versions that it replaces.

Rule: bottom up, so that a reader of a part's row finds everything that it counts. Of all versions of an instance one is
served, in whichever part it is; the rows of the parts that lose or gain it are updated. The caller holds the tables'
lock. It reads no log, and knows keys only by their ids.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from coffer.index.instance.entry import InstanceEntry
from coffer.index.instance.identity import PartId, Rules
from coffer.index.tables.catalogue import Catalogue
from coffer.index.tables.lookup import Link, Lookup
from coffer.index.tables.merge import series_with, stored_in, study_with, with_version
from coffer.index.tables.rows import (
    InstanceRow,
    Merged,
    SeriesRow,
    StudyRow,
    Version,
    served,
)
from coffer.index.tables.sealed_rows import (
    INSTANCE,
    PART,
    SERIES,
    STUDY,
    Ref,
    Tables,
    child,
)

__all__ = ["Inserter"]

_NOTHING = Merged()


class Inserter:
    """Works on an index's tables and catalogue. `next_number` is the number of the next new part."""

    def __init__(self, tables: Tables, catalogue: Catalogue, lookup: Lookup, rules: Rules) -> None:
        self._tables = tables
        self._catalogue = catalogue
        self._lookup = lookup
        self._rules = rules
        self.next_number = 1

    def put(self, version: Version, key_id: bytes, entry: InstanceEntry) -> None:
        """Put in one version, sealed under this key. Changes nothing if it is in already.

        If the same object is in from an older record, its place is changed: it was sealed again.
        """
        part = self._rules.part_of(entry, version.source_ae)
        replaces = self._rules.replaces(version.source_ae)
        version = msgspec.structs.replace(version, study_key_id=key_id, replaces=replaces)
        order = version.order
        chain = self._lookup.chain(part.study_uid, entry.series_uid, entry.sop_instance)
        if any(each.order == order for link in chain for each in link.row.versions):
            self._repoint(chain, version)
            return
        study_ref, study = self._part(part, key_id)
        series_ref, series, study = self._series(study_ref, study, entry.series_uid)
        own = next((link for link in chain if link.ref[:12] == series_ref), None)
        old = own.row if own is not None else None
        new = with_version(old, version, entry)
        if own is not None:
            ref = own.ref
        else:
            ref = child(series_ref, series.numbered)
            series = SeriesRow(series.series_uid, series.attributes, series.numbered + 1, series.instances)
            self._tables.name(INSTANCE, entry.sop_instance, ref)
        winner = version
        if chain:
            others = [link for link in chain if link is not own]
            winner = served([*new.versions, *(each for link in others for each in link.row.versions)])
        new = msgspec.structs.replace(new, is_served=any(each is winner for each in new.versions))
        self._put_rows(ref, old, new, series, study, stored_in(study, version, entry))
        for link in chain:
            if link is not own:
                self._serve(link, winner)

    def _part(self, part: PartId, key_id: bytes) -> tuple[Ref, StudyRow]:
        """The row of a part; a new one is put and named."""
        ref, row = self._lookup.part(part)
        if ref is not None and row is not None:
            return ref, row
        ref = self.next_number.to_bytes(8, "big")
        self.next_number += 1
        row = StudyRow(part, key_id, _NOTHING, shared=self._share(part.name))
        self._put_study(ref, None, row)
        self._tables.name(STUDY, part.name, ref)
        self._tables.name(PART, part.text, ref)
        return ref, row

    def _share(self, name: str) -> bool:
        """Whether there are other parts of this name; if so, they are marked as shared."""
        found = False
        for ref in self._tables.named(STUDY, name):
            row = self._lookup.study(ref)
            if row is not None and row.shared:
                return True
            if row is not None:
                self._put_study(ref, row, msgspec.structs.replace(row, shared=True))
                found = True
        return found

    def _series(self, study_ref: Ref, study: StudyRow, uid: str) -> tuple[Ref, SeriesRow, StudyRow]:
        """The row of a part's series, named and counted if it is new, and the part's row then."""
        ref, row = self._lookup.series(study_ref, uid)
        if ref is not None and row is not None:
            return ref, row, study
        ref, row = child(study_ref, study.numbered), SeriesRow(uid, _NOTHING)
        self._tables.put(ref, row)
        counted = msgspec.structs.replace(study, numbered=study.numbered + 1)
        self._put_study(study_ref, study, counted)
        self._tables.name(SERIES, uid, ref)
        return ref, row, counted

    def _put_study(self, ref: Ref, before: StudyRow | None, after: StudyRow) -> None:
        self._tables.put(ref, after)
        self._catalogue.update(ref, before, after)

    def _serve(self, link: Link, winner: Version) -> None:
        """Mark a row as served or not, depending on the version that is served."""
        is_served = any(each.order == winner.order for each in link.row.versions)
        if is_served != link.row.is_served:
            # The change of another row may have put newer rows than the link has.
            study = self._lookup.study(link.ref[:8]) or link.study
            _, series = self._lookup.series(link.ref[:8], link.series.series_uid)
            after = msgspec.structs.replace(link.row, is_served=is_served)
            self._put_rows(link.ref, link.row, after, series or link.series, study, study)

    def _put_rows(  # noqa: PLR0917  # rows, before and after
        self,
        ref: Ref,
        before: InstanceRow | None,
        after: InstanceRow,
        series: SeriesRow,
        known: StudyRow,
        study: StudyRow,
    ) -> None:
        """Put an instance's row, and the rows above it as that changes them; `known`: the study row put last."""
        series_after = series_with(series, before, after)
        study_after = study_with(study, series, series_after, before, after)
        self._tables.put(ref, after)
        self._tables.put(ref[:12], series_after)
        self._put_study(ref[:8], known, study_after)

    def _repoint(self, chain: Iterable[Link], version: Version) -> None:
        """Point an object that is in already to a later record."""
        for link in chain:
            known = link.row.versions
            versions = tuple(version if _is_later_record(version, v) else v for v in known)
            if any(new is not old for new, old in zip(versions, known, strict=True)):
                self._tables.put(link.ref, msgspec.structs.replace(link.row, versions=versions))

    def serve_again(self, chain: list[Link]) -> None:
        """Decide again which version of an instance is served, among the rows that are left."""
        if chain:
            winner = served(each for link in chain for each in link.row.versions)
            for link in chain:
                self._serve(link, winner)


def _is_later_record(version: Version, known: Version) -> bool:
    """Whether both are the same object, and the first was sealed again after the second."""
    return version.order == known.order and version.recorded > known.recorded
