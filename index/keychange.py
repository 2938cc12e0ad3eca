"""What the end of a study's key does to the index: its rows go, or lead to the records under another key.

Rule: what a shredded key sealed leaves every answer at once, and the tables when there is time. Rows that cannot be
opened any more keep their tokens, which then lead nowhere.
"""

from __future__ import annotations

from collections.abc import Mapping

from index.catalogue import Catalogue
from index.rekeyed import instance_under, series_under, study_under
from index.rows import InstanceRow, SeriesRow, StudyRow, Version
from index.tables import STUDY, Ref, Tables, child
from keys.errors import KeyUnavailableError, ShreddedError
from keys.keyring import Keyring

__all__ = ["KeyChange"]


class KeyChange:
    """Works on an index's tables and catalogue. Thread-safe as they are."""

    def __init__(self, tables: Tables, catalogue: Catalogue, keyring: Keyring) -> None:
        self._tables = tables
        self._catalogue = catalogue
        self._keyring = keyring

    def hide(self, key_id: bytes, name: bytes) -> None:
        """Let nobody find the studies under a name whose rows this key seals. The caller holds the tables' lock."""
        for ref, row in self._of_key(key_id, name):
            self._tables.kill(ref)
            self._catalogue.note(ref, row, None)

    def remove(self, key_id: bytes, name: bytes) -> int:
        """Remove their rows and tokens, durable after the next flush; return how many instances."""
        return sum(self._remove(ref, row) for ref, row in self._of_key(key_id, name))

    def _of_key(self, key_id: bytes, name: bytes) -> list[tuple[Ref, StudyRow]]:
        """The studies under a name whose row is sealed under this key, or waits to be."""
        found = []
        for ref in self._tables.under(bytes((STUDY,)) + name):
            try:
                row = self._tables.read(ref, self._keyring.doomed)
            except (KeyUnavailableError, ShreddedError):
                continue
            if isinstance(row, StudyRow) and row.study_key_id == key_id:
                found.append((ref, row))
        return found

    def _remove(self, ref: Ref, row: StudyRow) -> int:
        for series_ref in (child(ref, number) for number in range(row.series)):
            series = self._tables.read(series_ref, self._keyring.doomed)
            if not isinstance(series, SeriesRow):
                continue
            with self._tables.lock:
                for instance_ref in (child(series_ref, number) for number in range(series.instances)):
                    instance = self._tables.read(instance_ref, self._keyring.doomed)
                    if isinstance(instance, InstanceRow):
                        self._tables.remove(instance_ref, instance.sop_instance)
                self._tables.remove(series_ref, series.series_uid)
        with self._tables.lock:
            self._tables.remove(ref, row.study_uid)
            self._catalogue.drop(ref)
        return row.instances

    def rekey(self, name: bytes, old: bytes, new: bytes, moved: Mapping[int, Version]) -> set[int]:
        """As `index.index.Index.rekey`."""
        held: set[int] = set()
        with self._tables.lock:  # a flush takes it too: it never sees half of this
            for ref in self._tables.under(bytes((STUDY,)) + name):
                try:
                    row = self._tables.study(ref)
                except (KeyUnavailableError, ShreddedError):
                    continue
                if row is not None:
                    key_id = new if row.study_key_id == old else row.study_key_id
                    held |= self._rekey(ref, study_under(row, moved, key_id), moved)
        return held

    def _rekey(self, ref: Ref, row: StudyRow, moved: Mapping[int, Version]) -> set[int]:
        held: set[int] = set()
        self._tables.put(ref, row)
        self._catalogue.note(ref, row, row)
        for series_ref in (child(ref, number) for number in range(row.series)):
            series = self._tables.series(series_ref)
            if series is None:
                continue
            self._tables.put(series_ref, series_under(series, moved))
            for instance_ref in (child(series_ref, number) for number in range(series.instances)):
                instance = self._tables.instance(instance_ref)
                if instance is not None:
                    after = instance_under(instance, moved)
                    self._tables.put(instance_ref, after)
                    held.update(version.seq for version in after.versions)
        return held
