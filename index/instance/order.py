"""Which of two stored objects is the newer one: the order of their first records, over all logs of an archive.

Rule: pure. Numbers of records say nothing across logs; times do, because whoever commits makes them rise in each log.
Equal times are told apart by log and number, so that every reader decides alike.
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["NEVER", "Order"]


class Order(NamedTuple):
    """The time in a record's header (ms since 1970 UTC), its log and its number: compared in this sequence."""

    time_ms: int
    log: int
    seq: int


NEVER: Final = Order(-1, 0, 0)  # before every record
