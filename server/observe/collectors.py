"""Gauges that are read at scrape time: the archive's figures, the scrub's, and the state of the process.

Rule: a source that cannot answer never makes the scrape fail; its gauges are missing from it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from coffer.keys.errors import CofferError

__all__ = ["ArchiveCollector", "ArchiveFacts", "ScrubCollector", "Vitals", "VitalsCollector"]


class ArchiveFacts(Protocol):
    """The figures of an archive that are gauges; `server.engine.stats.ArchiveStats` has them and more."""

    @property
    def studies(self) -> int:
        """Studies that queries show, each patient's counted separately."""

    @property
    def series(self) -> int:
        """Series that queries show."""

    @property
    def objects(self) -> int:
        """Stored objects, every version counted."""

    @property
    def bytes_received(self) -> int:
        """Bytes of all stored data sets as they were received."""

    @property
    def bytes_stored(self) -> int:
        """Bytes that the sealed objects take in the log."""

    @property
    def segments(self) -> int:
        """Segment files of the log."""

    @property
    def segment_bytes(self) -> int:
        """Bytes of all segment files."""

    @property
    def index_lag(self) -> int:
        """Records of the log that the index on disk does not hold yet."""

    @property
    def key_epoch(self) -> int:
        """Number of the key epoch in use."""

    @property
    def key_epoch_age(self) -> float:
        """Age of the key epoch in use, in seconds."""

    @property
    def key_rotation_unfinished(self) -> bool:
        """Whether a rotation is running, or was stopped before its end."""

    @property
    def key_copies_stale(self) -> bool:
        """Whether no copy of the keyring, or of what opens it, was registered since the last rotation."""

    @property
    def key_trouble(self) -> int:
        """Findings about the keyring at start."""

    @property
    def skipped(self) -> int:
        """Objects that no query finds, because they cannot be read or opened now."""

    @property
    def conflicts(self) -> int:
        """Stored versions that are not served, because another one is."""

    @property
    def shared_studies(self) -> int:
        """Study Instance UIDs under which objects of several patients are stored."""

    @property
    def differing_studies(self) -> int:
        """Studies whose objects contradict each other about the study."""

    @property
    def differing_series(self) -> int:
        """Series whose objects contradict each other about the series."""

    @property
    def unindexed(self) -> int:
        """Objects stored as received because their header could not be read completely."""


_GAUGES = (
    ("studies", "coffer_studies", "Studies in the archive."),
    ("series", "coffer_series", "Series in the archive."),
    ("objects", "coffer_objects", "Stored objects in the archive, every version counted."),
    ("bytes_received", "coffer_data_bytes", "Bytes of all stored data sets as they were received."),
    ("bytes_stored", "coffer_stored_bytes", "Bytes that the sealed objects take in the log."),
    ("segments", "coffer_segments", "Segment files of the log."),
    ("segment_bytes", "coffer_segment_bytes", "Bytes of all segment files of the log."),
    ("index_lag", "coffer_index_lag_records", "Records of the log that the index on disk does not hold yet."),
    ("key_epoch", "coffer_key_epoch", "Number of the key epoch in use."),
    ("key_trouble", "coffer_keyring_findings", "Findings about the keyring at start: run coffer keys audit."),
    ("key_epoch_age", "coffer_key_epoch_age_seconds", "Age of the key epoch in use."),
    (
        "key_rotation_unfinished",
        "coffer_key_rotation_unfinished",
        "Whether a rotation is running, or was stopped before its end.",
    ),
    (
        "key_copies_stale",
        "coffer_key_copies_stale",
        "Whether no copy of the keyring, or of what opens it, was registered since the last rotation.",
    ),
    ("conflicts", "coffer_conflicts", "Stored versions of instances that are not served, because another one is."),
    ("skipped", "coffer_skipped_objects", "Stored objects that no query finds: they cannot be read or opened now."),
    (
        "shared_studies",
        "coffer_shared_studies",
        "Study Instance UIDs under which objects of several patients are stored.",
    ),
    ("differing_studies", "coffer_differing_studies", "Studies whose objects contradict each other about the study."),
    ("differing_series", "coffer_differing_series", "Series whose objects contradict each other about the series."),
    ("unindexed", "coffer_unindexed_objects", "Objects stored as received because their header could not be read."),
)


class ArchiveCollector(Collector):
    """Reads the archive at scrape time. An archive that cannot answer shows as coffer_archive_up 0, not as an error."""

    def __init__(self) -> None:
        self.source: Callable[[], ArchiveFacts] | None = None

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The archive's gauges; coffer_archive_up alone if it cannot answer."""
        facts: ArchiveFacts | None = None
        if self.source is not None:
            try:
                facts = self.source()
            except CofferError:
                facts = None
        up = "Whether the archive is open and can report its figures."
        yield GaugeMetricFamily("coffer_archive_up", up, value=float(facts is not None))
        if facts is not None:
            for field, name, documentation in _GAUGES:
                yield GaugeMetricFamily(name, documentation, value=float(getattr(facts, field)))


class ScrubCollector(Collector):
    """Reads the scrub at scrape time; shows nothing if none runs."""

    def __init__(self) -> None:
        self.source: Callable[[], tuple[float, int]] | None = None

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """The scrub's gauges; none if no scrub runs or it cannot answer."""
        try:
            facts = self.source() if self.source is not None else None
        except (CofferError, OSError):
            facts = None
        if facts is not None:
            age = "Time since the scrub last read the data that it has not read for longest, or since it was stored."
            yield GaugeMetricFamily("coffer_scrub_oldest_unverified_seconds", age, value=round(facts[0], 1))
            waiting = "Open findings of the scrub: neither acknowledged nor repaired."
            yield GaugeMetricFamily("coffer_scrub_findings", waiting, value=float(facts[1]))


@dataclass(frozen=True, slots=True)
class Vitals:
    """The state of the process: log lines lost since it started, how often each of its parts was restarted, what it is
    short of now, and for how long the oldest record without a signed checkpoint has waited for one."""

    log_lines_lost: int
    restarts: Mapping[str, int]
    short_of: Mapping[str, bool]
    unsigned_seconds: float


class VitalsCollector(Collector):
    """Reads the running server at scrape time."""

    def __init__(self) -> None:
        self.source: Callable[[], Vitals] | None = None

    def collect(self) -> Iterable[Metric]:
        """The state of the process; nothing before the server runs."""
        if self.source is None:
            return
        vitals = self.source()
        lost = "Log lines that could not be written."
        yield CounterMetricFamily("coffer_log_lines_lost", lost, value=vitals.log_lines_lost)
        died = "Threads and processes of the server that died and were restarted."
        restarts = CounterMetricFamily("coffer_restarts", died, labels=["what"])
        for what, count in vitals.restarts.items():
            restarts.add_metric([what], count)
        yield restarts
        short = GaugeMetricFamily(
            "coffer_short_of", "Whether associations are refused because this ran out.", labels=["what"]
        )
        for what, is_short in vitals.short_of.items():
            short.add_metric([what], float(is_short))
        yield short
        waits = "Time that the oldest record without a signed checkpoint has waited for one."
        yield GaugeMetricFamily("coffer_unsigned_seconds", waits, value=round(vitals.unsigned_seconds, 1))
