"""Metrics mean what they say, keep to closed sets of labels, and satisfy promtool."""

import shutil
import subprocess
from dataclasses import dataclass

import pytest

from coffer.keys.errors import UnavailableError
from coffer.server.observe.metrics import SERVICES, Metrics
from coffer.server.observe.reached import Rejected
from tests.conftest import absent


@dataclass
class Facts:
    """An archive's facts."""

    studies: int = 2
    series: int = 3
    objects: int = 40
    bytes_received: int = 4000
    bytes_stored: int = 1000
    segments: int = 1
    segment_bytes: int = 1200
    index_lag: int = 5
    key_epoch: int = 1
    key_copies_stale: bool = False
    key_epoch_age: float = 60.0
    key_rotation_unfinished: bool = False
    key_trouble: int = 0
    skipped: int = 0
    conflicts: int = 0
    shared_studies: int = 0
    differing_studies: int = 0
    differing_series: int = 0
    unindexed: int = 0


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


@pytest.fixture
def metrics() -> Metrics:
    """Metrics on a registry of their own."""
    return Metrics()


def test_a_store_counts_objects_and_bytes_only_on_success(metrics: Metrics) -> None:
    metrics.stored(0x0000, 1000, 0.02)
    metrics.stored(0x0000, 500, 0.02, duplicate=True)
    metrics.stored(0xA700, 700, 0.02)
    assert value(metrics, "coffer_objects_stored_total") == 1
    assert value(metrics, "coffer_stored_data_bytes_total") == 1000
    assert value(metrics, "coffer_objects_duplicate_total") == 1
    assert value(metrics, "coffer_failures_total", service="store", status="A700") == 1
    assert value(metrics, "coffer_request_duration_seconds_count", service="store") == 3
    assert value(metrics, "coffer_request_duration_seconds_bucket", service="store", le="0.01") == 0
    assert value(metrics, "coffer_request_duration_seconds_bucket", service="store", le="0.025") == 3


def test_a_cancel_is_no_failure_but_a_warning_is(metrics: Metrics) -> None:
    metrics.answered("find", 0xFE00, 1)
    metrics.answered("move", 0xB000, 1)
    metrics.answered("get", 0x0000, 1)
    assert value(metrics, "coffer_failures_total", service="find", status="FE00") is None
    assert value(metrics, "coffer_failures_total", service="move", status="B000") == 1


def test_associations(metrics: Metrics) -> None:
    metrics.association_opened()
    metrics.association_opened()
    metrics.association_closed()
    assert value(metrics, "coffer_open_associations") == 1
    assert value(metrics, "coffer_associations_total") == 2


def test_labels_stay_a_closed_set(metrics: Metrics) -> None:
    metrics.answered("DOE^JANE", 0, 0)
    metrics.sent("DOE^JANE", 1, 1)
    for count in (metrics.rejected, metrics.aborted, metrics.limited):
        with pytest.raises(ValueError, match="DOE"):
            count("DOE^JANE")
    assert "DOE" not in metrics.render().decode()


def test_the_archive_is_read_when_it_is_scraped(metrics: Metrics) -> None:
    assert value(metrics, "coffer_archive_up") == 0
    assert value(metrics, "coffer_objects") is None
    facts = Facts()
    metrics.attach(lambda: facts)
    facts.objects = 41
    assert value(metrics, "coffer_archive_up") == 1
    assert value(metrics, "coffer_objects") == 41
    assert value(metrics, "coffer_data_bytes") == 4000
    assert value(metrics, "coffer_stored_bytes") == 1000
    assert value(metrics, "coffer_segment_bytes") == 1200
    assert value(metrics, "coffer_index_lag_records") == 5
    assert value(metrics, "coffer_key_epoch") == 1
    metrics.attach(None)
    assert value(metrics, "coffer_archive_up") == 0


def test_an_archive_that_cannot_answer_does_not_break_the_page(metrics: Metrics) -> None:
    def broken() -> Facts:
        raise UnavailableError("the writer stopped")

    metrics.attach(broken)
    assert b"coffer_archive_up 0.0" in metrics.render()


def test_two_servers_in_one_process_do_not_mix() -> None:
    one, two = Metrics(), Metrics()
    one.stored(0, 1, 0)
    assert value(two, "coffer_objects_stored_total") == 0


def test_promtool_has_nothing_to_say(metrics: Metrics) -> None:
    promtool = shutil.which("promtool", path="/usr/bin:/usr/local/bin")
    if promtool is None:
        absent("promtool is not installed: apt install prometheus")
    metrics.attach(Facts)
    for service in SERVICES:
        metrics.answered(service, 0xC000, 0.1)
        metrics.sent(service, 2, 10)
    metrics.rejected(Rejected.LIMIT)
    done = subprocess.run([promtool, "check", "metrics"], input=metrics.render(), capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_every_metric_carries_our_prefix(metrics: Metrics) -> None:
    metrics.attach(Facts)
    names = {line.split()[2] for line in metrics.render().decode().splitlines() if line.startswith("# TYPE")}
    assert {n for n in names if not n.startswith(("coffer_", "process_"))} == set()
