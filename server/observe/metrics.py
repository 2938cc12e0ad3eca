"""What monitoring sees: counters, histograms and gauges under the prefix `coffer_`, on a registry of their own.

Rule: labels come from closed sets (services, DIMSE statuses, reasons), never from a message, so that no patient's name
gets in and no attacker can create a million series. Gauges are read at scrape time (`server.observe.collectors`).
"""

from collections.abc import Callable
from functools import partial

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

from coffer.server.observe.collectors import ArchiveCollector, ArchiveFacts, ScrubCollector, Vitals, VitalsCollector
from coffer.server.observe.reached import Abort, Limit, Rejected

__all__ = ["SERVICES", "Metrics"]

SERVICES = ("echo", "store", "find", "move", "get")
_OTHER = "other"
# From a cached duplicate (2 ms) to the retrieval of a long study (minutes), in steps of about 2.5.
_BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_SUCCESS, _PENDING, _CANCELLED = 0x0000, (0xFF00, 0xFF01), 0xFE00


class Metrics:
    """All metrics of one server. Every method is thread-safe and cheap."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = registry or CollectorRegistry()
        counter, gauge = partial(Counter, registry=registry), partial(Gauge, registry=registry)
        self._objects = counter("coffer_objects_stored", "Objects stored and acknowledged.")
        self._duplicates = counter(
            "coffer_objects_duplicate", "Objects acknowledged because the same bytes were stored already."
        )
        self._versions = counter(
            "coffer_object_versions",
            "Objects stored as a further version of an instance, by whether it is served instead of the previous one.",
            ["outcome"],
        )
        self._moved = counter(
            "coffer_objects_moved", "Objects stored as a version of an instance that belonged to another patient."
        )
        self._bytes = counter("coffer_stored_data_bytes", "Bytes of the data sets stored and acknowledged.")
        self._sent = counter("coffer_objects_sent", "Objects sent.", ["service"])
        self._sent_bytes = counter("coffer_sent_data_bytes", "Bytes of the data sets sent.", ["service"])
        self._failures = counter(
            "coffer_failures", "Requests that did not end in success, by DIMSE status.", ["service", "status"]
        )
        self._seconds = Histogram(
            "coffer_request_duration_seconds",
            "Time from the last received byte of a request (of a store: from the first) to its response.",
            ["service"],
            buckets=_BUCKETS,
            registry=registry,
        )
        self._open = gauge("coffer_open_associations", "Associations open now.")
        self._associations = counter("coffer_associations", "Associations accepted.")
        self._rejected = counter("coffer_associations_rejected", "Connections and associations rejected.", ["reason"])
        aborts = "Associations, and connections before there was one, that the server ended, by reason."
        self._aborts = counter("coffer_aborts", aborts, ["reason"])
        reached = "Times that something waited, was dropped or went another way at a limit."
        self._limits = counter("coffer_limits_reached", reached, ["limit"])
        self._archive, self._scrub, self._vitals = ArchiveCollector(), ScrubCollector(), VitalsCollector()
        for collector in (self._archive, self._scrub, self._vitals):
            registry.register(collector)
        self._keys = gauge("coffer_key_provider_up", "Whether the key provider opened the key in use when last asked.")
        self._rotations_failed = counter(
            "coffer_key_rotation_failures", "Times that the server tried to rotate the keys and failed."
        )
        self._clock = gauge("coffer_clock_in_doubt", "Whether the clock is in doubt: then it grants nothing.")
        self._clock_doubts = counter(
            "coffer_clock_doubts",
            "Times that the clock jumped, lay before the log's last record, or was in doubt at start.",
        )
        self._index_altered = gauge("coffer_index_altered", "Whether the last check found a wrong index.")
        self._identity_failed = counter("coffer_identity_failures", "Passwords and tokens that proved nobody.")
        self._open_role = gauge("coffer_open_role", "Whether there are no users: then everybody may do everything.")
        self._codec = gauge("coffer_codec_compiled", "Whether a compiled library codes pixels, and not numpy.")
        self._scrubbed = counter("coffer_scrub_records", "Records whose bodies the scrub has read.")
        self._scrubbed_bytes = counter("coffer_scrub_bytes", "Bytes of the bodies that the scrub has read.")
        ProcessCollector(registry=registry)
        self._show_zeros()

    def _show_zeros(self) -> None:
        """Let every label of the closed sets appear before it is counted."""
        for word in Rejected:
            self._rejected.labels(word)
        for reason in Abort:
            self._aborts.labels(reason)
        for limit in Limit:
            self._limits.labels(limit)
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
        """Read the state of the process from `source` at each scrape."""
        self._vitals.source = source

    def attach_scrub(self, source: Callable[[], tuple[float, int]] | None) -> None:
        """Read the scrub's gauges from `source` at each scrape: age in seconds, open findings. None: no scrub runs."""
        self._scrub.source = source

    def asked_for_keys(self, up: bool) -> None:
        """Record whether the key provider opened the key in use."""
        self._keys.set(float(up))

    def identity_failed(self) -> None:
        """Count a password or a token that proved nobody."""
        self._identity_failed.inc()

    def open_role(self, is_open: bool) -> None:
        """Record whether the open role is in force."""
        self._open_role.set(float(is_open))

    def codec_is(self, *, compiled: bool) -> None:
        """Record whether pixels are coded by the compiled library."""
        self._codec.set(float(compiled))

    def rotation_failed(self) -> None:
        """Count a failed attempt of the server to rotate the keys, or to finish a rotation."""
        self._rotations_failed.inc()

    def clock_doubted(self, in_doubt: bool) -> None:
        """Record that a doubt in the clock began, which is counted, or ended."""
        self._clock.set(float(in_doubt))
        if in_doubt:
            self._clock_doubts.inc()

    def index_checked(self, is_right: bool) -> None:
        """Record how a check of the whole index ended."""
        self._index_altered.set(float(not is_right))

    def scrubbed(self, records: int, size: int) -> None:
        """Count `records` bodies that the scrub has read, `size` bytes together."""
        self._scrubbed.inc(records)
        self._scrubbed_bytes.inc(size)

    def stored(self, status: int, size: int, seconds: float, duplicate: bool = False) -> None:
        """Count a C-STORE or put that ended with `status` after `seconds`; `size` is its data set's length in bytes."""
        self.answered("store", status, seconds)
        if status != _SUCCESS:
            return
        if duplicate:
            self._duplicates.inc()
        else:
            self._objects.inc()
            self._bytes.inc(size)

    def version_stored(self, *, replaces: bool, moved: bool) -> None:
        """Count a stored object that is a further version of an instance. `replaces`: it is served instead of the
        previous one; `moved`: it belongs to another patient than that one."""
        self._versions.labels("replaced" if replaces else "kept").inc()
        if moved:
            self._moved.inc()

    def answered(self, service: str, status: int, seconds: float) -> None:
        """Count a request of a service (`SERVICES`) that ended with its final `status` after `seconds`."""
        service = service if service in SERVICES else _OTHER
        self._seconds.labels(service).observe(max(0.0, seconds))
        if status not in (_SUCCESS, _CANCELLED, *_PENDING):
            self._failures.labels(service, f"{status & 0xFFFF:04X}").inc()

    def sent(self, service: str, objects: int, size: int) -> None:
        """Count objects, `size` bytes together, sent by C-MOVE, C-GET or `coffer get`."""
        service = service if service in SERVICES else _OTHER
        self._sent.labels(service).inc(objects)
        self._sent_bytes.labels(service).inc(size)

    def association_opened(self) -> None:
        """Count an accepted association."""
        self._associations.inc()
        self._open.inc()

    def association_closed(self) -> None:
        """Count the end of an accepted association, for whatever reason."""
        self._open.dec()

    def rejected(self, reason: str) -> None:
        """Count a rejected connection or association; `reason` is a `Rejected`."""
        self._rejected.labels(Rejected(reason)).inc()

    def aborted(self, reason: str) -> None:
        """Count an association that the server ended; `reason` is an `Abort`."""
        self._aborts.labels(Abort(reason)).inc()

    def limited(self, limit: str) -> None:
        """Count that a `Limit` was reached."""
        self._limits.labels(Limit(limit)).inc()

    def render(self) -> bytes:
        """The metrics in text exposition format 0.0.4, as /metrics answers them."""
        return generate_latest(self.registry)
