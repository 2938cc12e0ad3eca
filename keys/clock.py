"""The clock behind every timestamp in rows, records and log lines."""

from __future__ import annotations

import time

__all__ = ["clock_ms"]


def clock_ms() -> int:
    """Return milliseconds since 1970-01-01 UTC."""
    return time.time_ns() // 1_000_000
