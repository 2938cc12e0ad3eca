"""The rows of a study after its objects were sealed again under another key: other records, the same instances.

Rule: pure. The new records stand in the order of the old ones, so that what is newest stays newest, and the rows are
those that a rebuild from the new records gives.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from index.rows import InstanceRow, Merged, SeriesRow, StudyRow, Version

__all__ = ["instance_under", "series_under", "study_under"]

Moved = Mapping[int, Version]  # by the old record's number: the new record's place, content id and key


def instance_under(row: InstanceRow, moved: Moved) -> InstanceRow:
    """An instance with its versions at their new places."""
    versions = sorted((_version(version, moved) for version in row.versions), key=lambda version: version.seq)
    return InstanceRow(row.sop_instance, row.sop_class, row.attributes, tuple(versions))


def series_under(row: SeriesRow, moved: Moved) -> SeriesRow:
    """A series whose attributes come from the new records."""
    return SeriesRow(row.series_uid, _merged(row.attributes, moved), row.instances)


def study_under(row: StudyRow, moved: Moved, key_id: bytes) -> StudyRow:
    """A study under its new key."""
    return msgspec.structs.replace(row, study_key_id=key_id, attributes=_merged(row.attributes, moved))


def _version(version: Version, moved: Moved) -> Version:
    new = moved.get(version.seq)
    if new is None:
        return version
    return msgspec.structs.replace(
        version,
        seq=new.seq,
        segment=new.segment,
        offset=new.offset,
        body_len=new.body_len,
        content_id=new.content_id,
        study_key_id=new.study_key_id,
    )


def _merged(attributes: Merged, moved: Moved) -> Merged:
    def place(seq: int) -> int:
        return moved[seq].seq if seq in moved else seq

    own = {tag: place(seq) for tag, seq in attributes.own.items()}
    return Merged(attributes.values, own, place(attributes.all_since))
