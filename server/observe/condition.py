"""Gauges of the server's condition: whether it works and stores, what room it has, who is waited for, what it runs on.

Rule: read at scrape time from a `Condition`; labels come from closed sets. What cannot be told now is missing.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

__all__ = ["Condition", "ConditionCollector", "Refusal"]

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class Refusal(StrEnum):
    """Why no object is stored."""

    STARTING = "starting"
    SPACE = "space"
    HISTORY = "history"
    INTEGRITY = "integrity"
    KEY = "key"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Condition:
    """How the server is: ready, why it stores nothing (None: it does), bytes free on the archive's volume and kept in
    reserve, records without a signed checkpoint, what waits for people, and its processes, by name."""

    is_ready: bool
    refusal: Refusal | None
    reserve_bytes: int
    free_bytes: int | None = None
    unsigned_records: int | None = None
    waiting: Mapping[str, int] = field(default_factory=dict)
    processes: Mapping[str, Iterable[int]] = field(default_factory=dict)
    build: Mapping[str, str] = field(default_factory=dict)


class ConditionCollector(Collector):
    """Asks for the condition at scrape time."""

    def __init__(self, source: Callable[[], Condition]) -> None:
        self._source = source

    def collect(self) -> Iterable[Metric]:
        """The gauges `coffer_ready`, `coffer_accepts_stores` and those below them in docs/operations/monitoring.md."""
        now = self._source()
        yield GaugeMetricFamily("coffer_ready", "Whether the server can do its work, as /readyz says.", now.is_ready)
        yield GaugeMetricFamily("coffer_accepts_stores", "Whether objects are stored.", now.refusal is None)
        why = GaugeMetricFamily(
            "coffer_refuses_stores", "Whether nothing is stored for this reason.", labels=["reason"]
        )
        for reason in Refusal:
            why.add_metric([reason], float(now.refusal is reason))
        yield why
        reserve = "Bytes of the archive's volume that are kept free: below them nothing is stored."
        yield GaugeMetricFamily("coffer_volume_reserve_bytes", reserve, now.reserve_bytes)
        if now.free_bytes is not None:
            yield GaugeMetricFamily("coffer_volume_free_bytes", "Bytes free on the archive's volume.", now.free_bytes)
        if now.unsigned_records is not None:
            unsigned = "Records that no signed checkpoint covers yet."
            yield GaugeMetricFamily("coffer_unsigned_records", unsigned, now.unsigned_records)
        waits = GaugeMetricFamily("coffer_waiting", "What waits for a person.", labels=["what"])
        for what, count in now.waiting.items():
            waits.add_metric([what], count)
        yield waits
        yield from _of_processes(now.processes)
        yield InfoMetricFamily("coffer_build", "What runs: versions, and who codes pixels.", value=dict(now.build))


def _of_processes(processes: Mapping[str, Iterable[int]]) -> Iterable[Metric]:
    spent = CounterMetricFamily(
        "coffer_process_cpu_seconds", "CPU time of the processes of the server that live now.", labels=["process"]
    )
    held = GaugeMetricFamily(
        "coffer_process_resident_bytes", "Resident memory of the server's processes.", labels=["process"]
    )
    for name, pids in processes.items():
        costs = [_cost(pid) for pid in pids]
        spent.add_metric([name], sum(cpu for cpu, _ in costs))
        held.add_metric([name], sum(memory for _, memory in costs))
    yield spent
    yield held


def _cost(pid: int) -> tuple[float, int]:
    """CPU seconds and resident bytes of a process (proc(5)); nothing of one that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0, 0
    return (int(fields[11]) + int(fields[12])) / _TICKS, int(fields[21]) * _PAGE
