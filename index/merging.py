"""The rows of the index with one more object in them.

Rule: pure, and independent of the order in which records arrive, as `index.rows` says.
"""

from __future__ import annotations

from index.attributes import MODALITY
from index.entry import InstanceEntry
from index.rows import InstanceRow, StudyRow, Version

__all__ = ["study_with", "with_version"]


def with_version(old: InstanceRow | None, version: Version, entry: InstanceEntry) -> InstanceRow:
    """An instance's row with one more version; the newest one describes it."""
    if old is None:
        return InstanceRow(entry.sop_instance, entry.sop_class, entry.image, (version,))
    versions = tuple(sorted((*old.versions, version), key=lambda v: v.seq))
    if versions[-1] is version:
        return InstanceRow(entry.sop_instance, entry.sop_class, entry.image, versions)
    return InstanceRow(old.sop_instance, old.sop_class, old.attributes, versions)


def study_with(
    study: StudyRow,
    version: Version,
    entry: InstanceEntry,
    *,
    fresh_series: bool,
    old: InstanceRow | None,
    new: InstanceRow,
) -> StudyRow:
    """A study's row after an instance's went from `old` (None: it is new) to `new`."""
    return StudyRow(
        study.study_uid,
        study.study_key_id,
        study.attributes.merge(version.seq, entry.study),
        study.series + fresh_series,
        study.instances + (old is None),
        _union(study.modalities, entry.series.get(MODALITY, ())),
        _union(study.sop_classes, (entry.sop_class,)),
        study.conflicts + new.contents - (old.contents if old else 1),
        study.unindexed + (version.flags != 0),
        study.data_bytes + version.dataset_length,
    )


def _union(known: tuple[str, ...], more: tuple[object, ...]) -> tuple[str, ...]:
    new = {value for value in more if isinstance(value, str) and value} - set(known)
    return tuple(sorted({*known, *new})) if new else known
