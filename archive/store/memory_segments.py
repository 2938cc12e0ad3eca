"""Segments in memory, as a store: for tests, and for what need not outlive the process.

Rule: it keeps the contract of `SegmentStore` but for durability, which ends with the process.
"""

import threading

from coffer.archive.store.segment_files import SegmentFiles
from coffer.archive.store.segment_store import (
    LogId,
    Receipt,
    SealedSegment,
    SegmentInfo,
    SegmentStore,
    pieces,
    require_log,
    sha256_of,
)
from coffer.archive.store.source import MemorySource
from coffer.keys.errors import HistoryError, IntegrityError, NotFoundError, UnavailableError

__all__ = ["MemorySegments"]


class MemorySegments(SegmentStore):
    """The segments of one log. `lost_and_found` is what was set aside, by name."""

    def __init__(self, most_bytes: int | None = None) -> None:
        """`most_bytes`: how much may be held in all, what was set aside included."""
        self.lost_and_found: dict[str, bytes] = {}
        self._held: dict[int, bytes] = {}
        self._most_bytes = most_bytes
        self._lock = threading.Lock()

    def segments(self, log: LogId) -> list[SegmentInfo]:
        """As the contract says."""
        require_log(log)
        with self._lock:
            return [SegmentInfo(number, len(data)) for number, data in sorted(self._held.items())]

    def open(self, log: LogId, number: int) -> MemorySource:
        """As the contract says: no copy."""
        require_log(log)
        with self._lock:
            if number not in self._held:
                raise NotFoundError(f"segment {number} does not exist")
            return MemorySource(self._held[number])

    def put(self, sealed: SealedSegment) -> Receipt:
        """As the contract says."""
        require_log(sealed.log)
        data = self._taken(sealed)
        with self._lock:
            if self._held.setdefault(sealed.number, data) == data:
                return sealed.receipt
            kept = f"{SegmentFiles.name(sealed.number)}-refused-{sealed.sha256.hex()[:16]}"
            self.lost_and_found[kept] = data
        raise HistoryError(
            f"segment {sealed.number} is there already, and differs from the one that was given",
            hint=f"nothing was changed; the other one is kept as lost+found/{kept}",
        )

    def replace(self, sealed: SealedSegment, kept: str) -> Receipt:
        """As the contract says."""
        require_log(sealed.log)
        if not kept:
            return self.put(sealed)
        data = self._taken(sealed)
        with self._lock:
            before = self._held.get(sealed.number)
            if before is not None and before != data:
                self._keep(kept, before)
            self._held[sealed.number] = data
        return sealed.receipt

    def was_replaced(self, log: LogId, number: int, kept: str) -> bool:
        """As the contract says."""
        require_log(log)
        with self._lock:
            if number not in self._held:
                return False
            return not kept or self.lost_and_found.get(kept, self._held[number]) != self._held[number]

    def set_aside(self, log: LogId, number: int, kept: str) -> None:
        """As the contract says."""
        require_log(log)
        with self._lock:
            if number in self._held:
                self._keep(kept, self._held[number])
                del self._held[number]
            elif kept not in self.lost_and_found:
                raise NotFoundError(f"segment {number} does not exist")

    def release(self, log: LogId, number: int, proof: Receipt) -> None:
        """As the contract says."""
        require_log(log)
        with self._lock:
            if number not in self._held:
                return
            source = MemorySource(self._held[number])
            if proof != Receipt(log, number, source.size, sha256_of(source)):
                raise HistoryError(f"segment {number} stays: what was proved to lie elsewhere are other bytes")
            if number == max(self._held):
                raise HistoryError(f"segment {number} stays: it is the last one of the log")
            del self._held[number]

    def room(self) -> int | None:
        """What is left of `most_bytes`."""
        with self._lock:
            used = sum(map(len, (*self._held.values(), *self.lost_and_found.values())))
        return None if self._most_bytes is None else max(self._most_bytes - used, 0)

    def _taken(self, sealed: SealedSegment) -> bytes:
        """The bytes that are put: those that `sealed` names, and no others."""
        room = self.room()
        if room is not None and room < sealed.size and not self._has(sealed):
            raise UnavailableError("there is no room for the segment", hint="free or add space")
        with sealed.open() as source:
            data = b"".join(pieces(source))
        if (len(data), sha256_of(MemorySource(data))) != (sealed.size, sealed.sha256):
            raise IntegrityError(f"segment {sealed.number} was not given as it was named")
        return data

    def _has(self, sealed: SealedSegment) -> bool:
        with self._lock:
            held = self._held.get(sealed.number)
        return held is not None and sha256_of(MemorySource(held)) == sealed.sha256

    def _keep(self, kept: str, data: bytes) -> None:
        if self.lost_and_found.setdefault(kept, data) != data:
            raise HistoryError(
                f"lost+found/{kept} exists and is another segment", hint="move it away, and run the command again"
            )
