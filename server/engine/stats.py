"""Figures of an archive, for `coffer status` and the gauges."""

from dataclasses import dataclass

from coffer.archive.log import LogWriter
from coffer.archive.reader import LogReader
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.segment_store import LOG
from coffer.index.index import Index
from coffer.keys.clock import clock_ms
from coffer.keys.keyring.keyring import Keyring
from coffer.server.copies.register import stale_since

__all__ = ["ArchiveStats", "stats_of"]


@dataclass(frozen=True, slots=True)
class ArchiveStats:
    """What `coffer status` and the gauges show. `bytes_received` is of data sets, `bytes_stored` of the log."""

    studies: int
    series: int
    objects: int
    bytes_received: int
    bytes_stored: int
    segments: int
    segment_bytes: int
    records: int
    index_lag: int
    key_epoch: int
    key_epoch_age: float
    key_rotation_unfinished: bool
    key_copies_stale: bool
    conflicts: int
    shared_studies: int
    differing_studies: int
    differing_series: int
    without_study: int
    unindexed: int
    unreadable_studies: int
    key_trouble: int
    skipped: int

    @property
    def ratio(self) -> float:
        """Bytes stored per byte received; 0 for an empty archive."""
        return self.bytes_stored / self.bytes_received if self.bytes_received else 0.0


def stats_of(
    folder: ArchiveFolder, keyring: Keyring, index: Index, reader: LogReader, *, log: LogWriter | None, key_trouble: int
) -> ArchiveStats:
    """Current totals. Without the writer's `log`, records that are not in the index yet are counted."""
    seen = index.stats()
    sizes = [info.size for info in folder.segment_store().segments(LOG)]
    records = log.next_seq if log is not None else _count(reader, seen.applied_seq + 1)
    return ArchiveStats(
        studies=seen.studies,
        series=seen.series,
        objects=seen.instances + seen.conflicts,
        bytes_received=seen.data_bytes,
        bytes_stored=sum(sizes),
        segments=len(sizes),
        segment_bytes=sum(sizes),
        records=records,
        index_lag=records - 1 - (seen.applied_seq if log is not None else index.stored_seq),
        key_epoch=keyring.epoch,
        key_epoch_age=keyring.epoch_age_seconds(clock_ms()),
        key_rotation_unfinished=bool(keyring.partly_rotated()),
        key_copies_stale=bool(stale_since(keyring)),
        conflicts=seen.conflicts,
        shared_studies=seen.shared_studies,
        differing_studies=seen.differing_studies,
        differing_series=seen.differing_series,
        without_study=seen.without_study,
        unindexed=seen.unindexed,
        unreadable_studies=seen.unreadable_studies,
        key_trouble=key_trouble,
        skipped=seen.skipped,
    )


def _count(reader: LogReader, known: int) -> int:
    return known + sum(1 for _ in reader.records(known))
