"""The rows of the index after one object was added or removed.

Rule: pure, and independent of the order in which records arrive (`index.tables.rows`). Series and parts describe the
instances that are served: one that is served no longer is removed from every count and value.
"""

from __future__ import annotations

from typing import Final

import msgspec

from coffer.index.dicom.attributes import MODALITY, STUDY_DATE, Stored
from coffer.index.instance.entry import InstanceEntry
from coffer.index.instance.retention_day import retention_start
from coffer.index.tables.rows import InstanceRow, Merged, SeriesRow, StudyRow, Version

__all__ = ["series_with", "stored_in", "study_with", "with_version"]


_NOTHING: Final = Merged()


def with_version(old: InstanceRow | None, version: Version, entry: InstanceEntry) -> InstanceRow:
    """An instance's row with one more version; the best one describes it. `is_served` is not decided here."""
    versions = (version,) if old is None else tuple(sorted((*old.versions, version), key=lambda v: v.order))
    made = InstanceRow(entry.sop_instance, entry.sop_class, entry.study, entry.series, entry.image, versions)
    if old is None or made.best is version:
        return made
    return msgspec.structs.replace(old, versions=versions)


def series_with(series: SeriesRow, before: InstanceRow | None, after: InstanceRow | None) -> SeriesRow:
    """A series' row after one of its instances changed from `before` to `after`; None: absent."""
    count = series.instances + _shown(after) - _shown(before)
    attributes = _described(series.attributes, count, before, after, is_series=True)
    return SeriesRow(series.series_uid, attributes, series.numbered, count)


def study_with(  # both rows, before and after
    study: StudyRow,
    series_before: SeriesRow,
    series_after: SeriesRow,
    before: InstanceRow | None,
    after: InstanceRow | None,
) -> StudyRow:
    """A part's row after one of its instances, and with it the series, changed from `before` to `after`."""
    count = study.instances + _shown(after) - _shown(before)
    modalities, sop_classes = study.modalities, study.sop_classes
    if not _is_counted_alike(before, after):
        modalities, sop_classes = dict(modalities), dict(sop_classes)
        for row, sign in ((after, 1), (before, -1)):
            if row is not None and row.is_served:
                for value in _texts(row.series, MODALITY):
                    _count(modalities, value, sign)
                _count(sop_classes, row.sop_class, sign)
    attributes = _described(study.attributes, count, before, after, is_series=False)
    if series_after.attributes.stale and not attributes.stale:
        attributes = msgspec.structs.replace(attributes, stale=True)  # both are merged again together
    return msgspec.structs.replace(
        study,
        attributes=attributes,
        series=study.series + (series_after.instances > 0) - (series_before.instances > 0),
        instances=count,
        differing_series=study.differing_series
        + bool(series_after.attributes.differing)
        - bool(series_before.attributes.differing),
        modalities=modalities,
        sop_classes=sop_classes,
    )


def stored_in(study: StudyRow, version: Version, entry: InstanceEntry) -> StudyRow:
    """A part's row after one more version was stored in it, served or not."""
    start = retention_start(_texts(entry.study, STUDY_DATE), version.received_ms)
    return msgspec.structs.replace(
        study,
        versions=study.versions + 1,
        unindexed=study.unindexed + (version.flags != 0),
        data_bytes=study.data_bytes + version.dataset_length,
        latest_date=max(study.latest_date, start),
        received_ms=max(study.received_ms, version.received_ms),
        some_without_issuer=study.some_without_issuer or not entry.issuer,
    )


def _shown(row: InstanceRow | None) -> int:
    return int(row is not None and row.is_served)


def _described(
    merged: Merged, count: int, before: InstanceRow | None, after: InstanceRow | None, *, is_series: bool
) -> Merged:
    if not count:
        return _NOTHING
    if after is not None and after.is_served:
        merged = merged.merge(after.best.order, after.series if is_series else after.study)
    if before is not None and before.is_served:
        gone = before.best.order
        if after is None or not after.is_served or after.best.order != gone:
            merged = merged.without(gone)
    return merged


def _is_counted_alike(before: InstanceRow | None, after: InstanceRow | None) -> bool:
    if before is None or after is None:
        return not _shown(before) and not _shown(after)
    same = before.is_served == after.is_served and before.sop_class == after.sop_class
    return same and before.series.get(MODALITY) == after.series.get(MODALITY)


def _texts(values: Stored, tag: int) -> set[str]:
    return {value for value in values.get(tag, ()) if isinstance(value, str) and value}


def _count(counts: dict[str, int], value: str, sign: int) -> None:
    left = counts.get(value, 0) + sign
    if left:
        counts[value] = left
    else:
        counts.pop(value, None)
