"""What the end of a study key does to the index: its rows are removed, or point to the records under another key.

Rule: what a shredded key sealed disappears from every answer at once, and from the tables later; a version of another
part that was superseded by it is served again. Rows that can no longer be opened keep their tokens, which then lead
nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from coffer.archive.format.entry import RecordId
from coffer.index.tables.catalogue import Catalogue
from coffer.index.tables.lookup import Lookup
from coffer.index.tables.put import Inserter
from coffer.index.tables.rows import InstanceRow, SeriesRow, StudyRow, Version
from coffer.index.tables.sealed_rows import (
    INSTANCE,
    PART,
    SERIES,
    STUDY,
    Ref,
    Tables,
)
from coffer.keys.errors import KeyUnavailableError, ShreddedError
from coffer.keys.keyring.keyring import Keyring

__all__ = ["KeyChange"]


class KeyChange:
    """Works on an index's tables and catalogue. Thread-safe as they are."""

    def __init__(
        self, tables: Tables, catalogue: Catalogue, lookup: Lookup, inserter: Inserter, keyring: Keyring
    ) -> None:
        self._tables = tables
        self._catalogue = catalogue
        self._lookup = lookup
        self._inserter = inserter
        self._keyring = keyring

    def hide(self, key_id: bytes, name: bytes) -> None:
        """Hide the parts under a name whose rows this key seals. The caller holds the tables' lock."""
        found = self._of_key(key_id, name)
        for ref, row in found:
            self._tables.hide(ref)
            self._catalogue.update(ref, row, None)
        self._serve_again(found)

    def serve_again(self, key_id: bytes, name: bytes) -> None:
        """Serve what is left of the instances that this shredded key seals. The caller holds the tables' lock."""
        self._serve_again(self._of_key(key_id, name))

    def remove(self, key_id: bytes, name: bytes) -> int:
        """Remove the rows and tokens of these parts, durable after the next flush; return how many instances."""
        found = self._of_key(key_id, name)
        with self._tables.lock:
            for ref, _ in found:
                self._tables.hide(ref)
            self._serve_again(found)
        return sum(self._remove(ref, row) for ref, row in found)

    def _of_key(self, key_id: bytes, name: bytes) -> list[tuple[Ref, StudyRow]]:
        """The parts under a name whose row is, or will be, sealed under this key: one, or several that changed rules
        made of one."""
        found = []
        for ref in self._tables.under(bytes((STUDY,)) + name):
            try:
                row = self._tables.read(ref, self._keyring.study_even_if_shredded)
            except (KeyUnavailableError, ShreddedError):
                continue
            if isinstance(row, StudyRow) and row.study_key_id == key_id:
                found.append((ref, row))
        return found

    def _serve_again(self, gone: list[tuple[Ref, StudyRow]]) -> None:
        """Of each instance of which one of these parts had versions, serve what is left."""
        for ref, row in gone:
            if not self._lookup.siblings(ref, row):
                continue
            for _, series, instance in self._all_of(ref, row):
                chain = self._lookup.chain(row.study_uid, series.series_uid, instance.sop_instance)
                self._inserter.serve_again(chain)

    def _all_of(self, ref: Ref, row: StudyRow) -> list[tuple[Ref, SeriesRow, InstanceRow]]:
        """Every instance of a part whose key was shredded but is not destroyed yet."""
        return [
            (instance_ref, series, instance)
            for series_ref, series in self._series_of(ref, row)
            for instance_ref, instance in self._instances_of(series_ref, series)
        ]

    def _series_of(self, ref: Ref, row: StudyRow) -> Iterator[tuple[Ref, SeriesRow]]:
        for series_ref, opened in self._tables.below(ref, row.numbered, self._keyring.study_even_if_shredded):
            series = opened()
            if isinstance(series, SeriesRow):
                yield series_ref, series

    def _instances_of(self, series_ref: Ref, series: SeriesRow) -> Iterator[tuple[Ref, InstanceRow]]:
        for ref, opened in self._tables.below(series_ref, series.numbered, self._keyring.study_even_if_shredded):
            instance = opened()
            if isinstance(instance, InstanceRow):
                yield ref, instance

    def _remove(self, ref: Ref, row: StudyRow) -> int:
        count = 0
        for series_ref, series in self._series_of(ref, row):
            with self._tables.lock:
                for instance_ref, instance in self._instances_of(series_ref, series):
                    self._tables.remove(instance_ref, (INSTANCE, instance.sop_instance))
                    count += 1
                self._tables.remove(series_ref, (SERIES, series.series_uid))
        with self._tables.lock:
            self._tables.remove(ref, (STUDY, row.part.name), (PART, row.part.text))
            self._catalogue.drop(ref)
        return count

    def rekey(self, name: bytes, old: bytes, new: bytes, moved: Mapping[RecordId, Version]) -> set[RecordId]:
        """See `index.index.Index.rekey`."""
        held: set[RecordId] = set()
        with self._tables.lock:  # a flush takes it too, and never sees half of this
            for ref in self._tables.under(bytes((STUDY,)) + name):
                row = self._lookup.study(ref)
                if row is not None:
                    held |= self._rekey(ref, row, old, new, moved)
        return held

    def _rekey(
        self, ref: Ref, row: StudyRow, old: bytes, new: bytes, moved: Mapping[RecordId, Version]
    ) -> set[RecordId]:
        """Change the rows of one part: all of them if the old key seals them."""
        held: set[RecordId] = set()
        is_sealed_under_old = row.study_key_id == old
        if is_sealed_under_old:
            row = msgspec.structs.replace(row, study_key_id=new)
            self._tables.put(ref, row)
        for series_ref, series in list(self._lookup.series_of(ref, row)):
            if is_sealed_under_old:
                self._tables.put(series_ref, series)
            for instance_ref, instance in list(self._lookup.instances_of(series_ref, series)):
                versions = tuple(_version(version, moved) for version in instance.versions)
                if is_sealed_under_old or versions != instance.versions:
                    self._tables.put(instance_ref, msgspec.structs.replace(instance, versions=versions))
                held.update(version.id for version in versions)
        return held


def _version(version: Version, moved: Mapping[RecordId, Version]) -> Version:
    """A version with its new place; its order is unchanged, and so is the content id by which others name it."""
    new = moved.get(version.id)
    if new is None:
        return version
    return msgspec.structs.replace(
        version,
        log=new.log,
        seq=new.seq,
        segment=new.segment,
        offset=new.offset,
        body_len=new.body_len,
        time_ms=new.time_ms,
        content_id=new.content_id,
        study_key_id=new.study_key_id,
        first=version.order,
        original=version.first_content_id,
    )
