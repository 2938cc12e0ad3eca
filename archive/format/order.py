"""What the record before says of the next one's time and group.

Rule: pure. Times of one epoch of the log grow from record to record; only the record that begins an epoch may go back,
because an epoch may begin where a wrong clock was put right. A group is a run of records that ends with the one that
carries its tag.
"""

from dataclasses import dataclass
from typing import Final

from coffer.archive.format.record import NO_TAG, Kind, RecordHeader

__all__ = ["CLOSED", "UNKNOWN", "Order"]

CLOSED: Final = -1  # the record before ends its group
UNKNOWN: Final = -2  # the record before could not be read


@dataclass(slots=True)
class Order:
    """Time of the record before (ms since 1970, or UNKNOWN), and the group that it leaves open (or CLOSED, UNKNOWN)."""

    time_ms: int = UNKNOWN
    group: int = CLOSED

    def complaint(self, header: RecordHeader) -> str | None:
        """Why this record cannot follow; None if it can."""
        wanted = header.seq if self.group == CLOSED else self.group
        if header.group > header.seq or (self.group != UNKNOWN and header.group != wanted):
            return f"record {header.seq} belongs to another group than the record before says"
        if header.time_ms <= self.time_ms and header.kind != Kind.LOG_EPOCH:
            return f"record {header.seq} is not later than the record before it"
        return None

    def follow(self, raw: bytes, tag: bytes) -> None:
        """Go on to the record with these 160 header bytes and this tag (80 bytes, zeros: none)."""
        self.time_ms = int.from_bytes(raw[16:24], "big")
        self.group = int.from_bytes(raw[148:156], "big") if tag == NO_TAG else CLOSED

    def copy(self) -> "Order":
        """An independent copy."""
        return Order(self.time_ms, self.group)
