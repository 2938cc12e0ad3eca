"""The clocks: the one behind every timestamp, the one that leases are counted by, and how a wrong one is noticed.

Rule: the wall clock can be set, the machine's own count of time cannot: `ClockWatch` compares the two, and the wall
clock with the log. It judges; what a clock in doubt may no longer grant is decided above (`server.clock`).
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["LAST_MS", "TOLERANCE_MS", "ClockWatch", "Reading", "Sighting", "boot_seconds", "clock_ms", "reading"]

LAST_MS: Final = 253_402_300_799_000  # the end of the year 9999: later times cannot be shown
TOLERANCE_MS: Final = 300_000  # corrections of a clock that keeps time, and the times that a burst of records takes
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_STEADY_MS: Final = 1_000


def clock_ms() -> int:
    """Return milliseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1_000_000


def boot_seconds() -> float:
    """Return seconds since the machine started, also those in which it slept (CLOCK_BOOTTIME); nobody can set it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Reading(NamedTuple):
    """Both clocks at one moment: `wall_ms` since 1970 UTC, and `boot_ms` since the machine started, time asleep
    included (CLOCK_BOOTTIME); `boot` tells this start of the machine from others."""

    wall_ms: int
    boot_ms: int
    boot: str


def reading() -> Reading:
    """Read both clocks. A process that is halted in between reads them again."""
    while True:
        before, wall = _boot_ms(), max(0, clock_ms())
        if _boot_ms() - before < _STEADY_MS:
            return Reading(wall, before, _boot())


def _boot_ms() -> int:
    return int(boot_seconds() * 1000)


@cache
def _boot() -> str:
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:  # without /proc no other process can be compared with
        return os.urandom(16).hex()


class Sighting(NamedTuple):
    """A wall clock that cannot be right, or was not: what it showed, what it should have shown by the machine's count
    of time (None: unknown), and the time of the log's last record (None: unknown). All in ms since 1970 UTC."""

    wall_ms: int
    expected_ms: int | None
    last_record_ms: int | None

    @property
    def earliest_ms(self) -> int:
        """The earliest time that it may be: no later one has certainly come."""
        return self.wall_ms if self.expected_ms is None else min(self.wall_ms, self.expected_ms)

    @property
    def latest_ms(self) -> int:
        """The latest time that it may be."""
        return max(self.wall_ms, self.expected_ms or 0, self.last_record_ms or 0)


@dataclass(frozen=True, slots=True)
class ClockWatch:
    """Compares the wall clock with what it showed at one moment since the machine's start `boot`: then it was ahead of
    the machine's count of time by `offset_ms`. Small steps add up."""

    boot: str
    offset_ms: int

    @classmethod
    def begin(cls, now: Reading) -> ClockWatch:
        """Trust the wall clock as it is read now."""
        return cls(now.boot, now.wall_ms - now.boot_ms)

    def is_of(self, now: Reading) -> bool:
        """Whether the machine has not started again since. If it has, its count of time says nothing about before."""
        return now.boot == self.boot

    def look(self, now: Reading, last_record_ms: int | None = None) -> Sighting | None:
        """What is wrong with the wall clock: it moved by more than 5 minutes against the machine's count of time, or
        lies more than 5 minutes before the log's last record. None if it is neither."""
        expected = max(0, self.offset_ms + now.boot_ms) if self.is_of(now) else None
        has_moved = expected is not None and abs(now.wall_ms - expected) > TOLERANCE_MS
        is_behind = last_record_ms is not None and now.wall_ms < last_record_ms - TOLERANCE_MS
        return Sighting(now.wall_ms, expected, last_record_ms) if has_moved or is_behind else None
