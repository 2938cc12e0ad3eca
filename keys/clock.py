"""The clocks: the one behind every timestamp in rows, records and log lines, and the one that leases are counted by."""

from __future__ import annotations

import time

__all__ = ["boot_seconds", "clock_ms"]


def clock_ms() -> int:
    """Return milliseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1_000_000


def boot_seconds() -> float:
    """Return seconds since the machine started, also those in which it slept (CLOCK_BOOTTIME); nobody can set it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
