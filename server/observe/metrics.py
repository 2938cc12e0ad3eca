"""What monitoring sees: counters, histograms and gauges under the prefix `coffer_`, on a registry of their own.

Rule: labels come from closed sets (services, DIMSE statuses, reasons), never from a message, so neither a patient nor
an attacker can put a name or a million series here. Gauges of the archive are read when they are scraped.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from coffer.keys.errors import CofferError

__all__ = ["SERVICES", "ArchiveFacts", "Metrics", "Vitals"]

SERVICES = ("echo", "store", "find", "move", "get")
_OTHER = "other"
# From a cached duplicate (2 ms) to a retrieval of a long study (minutes); a bucket each factor of about 2.5.
_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_SUCCESS, _PENDING, _CANCELLED = 0x0000, (0xFF00, 0xFF01), 0xFE00


class ArchiveFacts(Protocol):
    """The facts about an archive that are gauges; `server.engine.stats.ArchiveStats` has them and more."""

    @property
    def studies(self) -> int: ...
    @property
    def series(self) -> int: ...
    @property
    def objects(self) -> int: ...
    @property
    def bytes_received(self) -> int: ...
    @property
    def bytes_stored(self) -> int: ...
    @property
    def segments(self) -> int: ...
    @property
    def segment_bytes(self) -> int: ...
    @property
    def index_lag(self) -> int: ...
    @property
    def key_epoch(self) -> int: ...
    @property
    def key_epoch_age(self) -> float: ...
    @property
    def key_rotation_unfinished(self) -> bool: ...
    @property
    def key_trouble(self) -> int: ...
    @property
    def skipped(self) -> int: ...
    @property
    def conflicts(self) -> int: ...
    @property
    def shared_studies(self) -> int: ...
    @property
    def differing_studies(self) -> int: ...
    @property
    def differing_series(self) -> int: ...
    @property
    def unindexed(self) -> int: ...


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
    ("key_trouble", "coffer_keyring_findings", "What the start found wrong with the keyring: coffer keys audit."),
    ("key_epoch_age", "coffer_key_epoch_age_seconds", "Age of the key epoch in use."),
    ("key_rotation_unfinished", "coffer_key_rotation_unfinished", "Whether a rotation runs, or was stopped half done."),
    ("conflicts", "coffer_conflicts", "Stored versions of instances that are not served, because another one is."),
    ("skipped", "coffer_skipped_objects", "Objects stored that no query finds: they cannot be read or opened now."),
    ("shared_studies", "coffer_shared_studies", "Study Instance UIDs under which objects of several patients stand."),
    ("differing_studies", "coffer_differing_studies", "Studies whose objects contradict each other about the study."),
    ("differing_series", "coffer_differing_series", "Series whose objects contradict each other about the series."),
    ("unindexed", "coffer_unindexed_objects", "Objects stored as received because their header could not be read."),
)


class _ArchiveCollector(Collector):
    """Asks the archive at scrape time. An archive that cannot answer shows as coffer_archive_up 0, not as an error."""

    def __init__(self) -> None:
        self.source: Callable[[], ArchiveFacts] | None = None

    def collect(self) -> Iterable[GaugeMetricFamily]:
        facts: ArchiveFacts | None = None
        if self.source is not None:
            try:
                facts = self.source()
            except CofferError:
                facts = None
        up = "Whether the archive is open and answers for its figures."
        yield GaugeMetricFamily("coffer_archive_up", up, value=float(facts is not None))
        if facts is not None:
            for field, name, documentation in _GAUGES:
                yield GaugeMetricFamily(name, documentation, value=float(getattr(facts, field)))


class _ScrubCollector(Collector):
    """Asks the scrub at scrape time; shows nothing where none runs."""

    def __init__(self) -> None:
        self.source: Callable[[], tuple[float, int]] | None = None

    def collect(self) -> Iterable[GaugeMetricFamily]:
        try:
            facts = self.source() if self.source is not None else None
        except (CofferError, OSError):
            facts = None
        if facts is not None:
            age = "Age of the oldest data that no scrub has read since: its last reading, or else its storing."
            yield GaugeMetricFamily("coffer_scrub_oldest_unverified_seconds", age, value=round(facts[0], 1))
            waiting = "Findings of the scrub that nobody has acknowledged or mended."
            yield GaugeMetricFamily("coffer_scrub_findings", waiting, value=float(facts[1]))


@dataclass(frozen=True, slots=True)
class Vitals:
    """How the process itself is: log lines lost since it began, how often which of its parts was started again, and
    what it is short of now."""

    log_lines_lost: int
    restarts: Mapping[str, int]
    short_of: Mapping[str, bool]


class _VitalsCollector(Collector):
    """Asks the running server at scrape time."""

    def __init__(self) -> None:
        self.source: Callable[[], Vitals] | None = None

    def collect(self) -> Iterable[Metric]:
        if self.source is None:
            return
        vitals = self.source()
        lost = "Log lines that could not be written."
        yield CounterMetricFamily("coffer_log_lines_lost", lost, value=vitals.log_lines_lost)
        again = "Threads and processes of the server that died and were started again."
        restarts = CounterMetricFamily("coffer_restarts", again, labels=["what"])
        for what, count in vitals.restarts.items():
            restarts.add_metric([what], count)
        yield restarts
        short = GaugeMetricFamily(
            "coffer_short_of", "Whether associations are refused because this ran out.", labels=["what"]
        )
        for what, is_short in vitals.short_of.items():
            short.add_metric([what], float(is_short))
        yield short


class Metrics:
    """All metrics of one server. Every method is thread-safe and cheap."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = registry or CollectorRegistry()
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        self._objects = counter("coffer_objects_stored", "Objects stored and acknowledged.")
        self._duplicates = counter(
            "coffer_objects_duplicate", "Objects acknowledged because the same bytes are stored already."
        )
        self._versions = counter(
            "coffer_object_versions",
            "Objects stored as a further version of an instance, by whether it is served instead of the one before.",
            ["outcome"],
        )
        self._moved = counter(
            "coffer_objects_moved", "Objects stored as a version of an instance that was another patient's before."
        )
        self._bytes = counter("coffer_stored_data_bytes", "Bytes of the data sets stored and acknowledged.")
        self._sent = counter("coffer_objects_sent", "Objects handed out.", ["service"])
        self._sent_bytes = counter("coffer_sent_data_bytes", "Bytes of the data sets handed out.", ["service"])
        self._failures = counter(
            "coffer_failures", "Requests that did not end in success, by DIMSE status.", ["service", "status"]
        )
        self._seconds = Histogram(
            "coffer_request_duration_seconds",
            "Time from a request's last byte received, for a store from its first, to the answer.",
            ["service"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self._open = gauge("coffer_open_associations", "Associations open now.")
        self._associations = counter("coffer_associations", "Associations accepted.")
        self._rejected = counter(
            "coffer_associations_rejected", "Connections and associations turned away.", ["reason"]
        )
        self._reasons: set[str] = set()
        self._lock = threading.Lock()
        self._archive, self._scrub, self._vitals = _ArchiveCollector(), _ScrubCollector(), _VitalsCollector()
        for collector in (self._archive, self._scrub, self._vitals):
            registry.register(collector)
        self._keys = gauge(
            "coffer_key_provider_up", "Whether the key provider, when it was last asked, opened the key in use."
        )
        self._rotations_failed = counter(
            "coffer_key_rotation_failures", "Times that the server tried to rotate the keys and failed."
        )
        self._scrubbed = counter("coffer_scrub_records", "Records whose body the scrub has read.")
        self._scrubbed_bytes = counter("coffer_scrub_bytes", "Bytes of bodies the scrub has read.")
        ProcessCollector(registry=registry)
        for outcome in ("replaced", "kept"):
            self._versions.labels(outcome)
        for service in SERVICES:
            self._seconds.labels(service)
        for service in ("move", "get"):
            self._sent.labels(service)
            self._sent_bytes.labels(service)

    def attach(self, source: Callable[[], ArchiveFacts] | None) -> None:
        """Read the archive's gauges from `source` at each scrape; None once the archive is closed."""
        self._archive.source = source

    def attach_vitals(self, source: Callable[[], Vitals] | None) -> None:
        """Read how the process is from `source` at each scrape."""
        self._vitals.source = source

    def attach_scrub(self, source: Callable[[], tuple[float, int]] | None) -> None:
        """Read the scrub's gauges from `source` at each scrape: seconds, open findings. None: no scrub runs."""
        self._scrub.source = source

    def asked_for_keys(self, up: bool) -> None:
        """The key provider was asked for the key in use and opened it, or did not."""
        self._keys.set(float(up))

    def rotation_failed(self) -> None:
        """The server tried to rotate the keys, or to finish a rotation, and could not."""
        self._rotations_failed.inc()

    def scrubbed(self, records: int, size: int) -> None:
        """The scrub has read so many bodies of together `size` bytes."""
        self._scrubbed.inc(records)
        self._scrubbed_bytes.inc(size)

    def stored(self, status: int, size: int, seconds: float, duplicate: bool = False) -> None:
        """One C-STORE or put ended with `status` after `seconds`; `size` is its data set's length in bytes."""
        self.answered("store", status, seconds)
        if status != _SUCCESS:
            return
        if duplicate:
            self._duplicates.inc()
        else:
            self._objects.inc()
            self._bytes.inc(size)

    def version_stored(self, *, replaces: bool, moved: bool) -> None:
        """A stored object was a further version of an instance: served instead of the one before it, or not; `moved`:
        it is another patient's than that one."""
        self._versions.labels("replaced" if replaces else "kept").inc()
        if moved:
            self._moved.inc()

    def answered(self, service: str, status: int, seconds: float) -> None:
        """One request of a service (`SERVICES`) ended with its final `status` after `seconds`."""
        service = service if service in SERVICES else _OTHER
        self._seconds.labels(service).observe(max(0.0, seconds))
        if status not in (_SUCCESS, _CANCELLED, *_PENDING):
            self._failures.labels(service, f"{status & 0xFFFF:04X}").inc()

    def sent(self, service: str, objects: int, size: int) -> None:
        """So many objects, of `size` bytes together, left by C-MOVE, C-GET or `coffer get`."""
        service = service if service in SERVICES else _OTHER
        self._sent.labels(service).inc(objects)
        self._sent_bytes.labels(service).inc(size)

    def association_opened(self) -> None:
        """An association was accepted."""
        self._associations.inc()
        self._open.inc()

    def association_closed(self) -> None:
        """An accepted association ended, however it did."""
        self._open.dec()

    def rejected(self, reason: str) -> None:
        """A connection or association was turned away; `reason` is a word of the code, at most 32 of them are kept."""
        with self._lock:
            if len(self._reasons) < 32:
                self._reasons.add(reason)
            known = reason if reason in self._reasons else _OTHER
        self._rejected.labels(known).inc()

    def render(self) -> bytes:
        """The text exposition format 0.0.4, as /metrics answers it."""
        return generate_latest(self.registry)
