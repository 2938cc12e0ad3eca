"""Segments in memory, as a store: for tests, and for what need not outlive the process.

Rule: it keeps the contract of `SegmentStore` but for durability, which ends with the process. Only the end of a log
(`archive.commit.memory_log`) begins, grows and cuts a segment.
"""

import os
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
from coffer.archive.store.source import MemorySource, Source
from coffer.keys.errors import FormatError, HistoryError, IntegrityError, NotFoundError, UnavailableError

__all__ = ["MemorySegments"]


class _Held:
    """The bytes of one segment; whoever has opened it sees it grow, and not what takes its place."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


class _HeldSource(Source):
    """A segment, open for reading."""

    __slots__ = ("_held",)

    def __init__(self, held: _Held) -> None:
        self._held = held

    @property
    def size(self) -> int:
        """What it has now."""
        return len(self._held.data)

    def read(self, offset: int, length: int) -> bytes:
        """A copy of the bytes."""
        data = self._held.data[offset : offset + length]
        if len(data) != length:
            raise FormatError(f"the segment ends {length - len(data)} bytes too early")
        return data


class MemorySegments(SegmentStore):
    """The segments of one log. `lost_and_found` is what was set aside, by name."""

    def __init__(self, most_bytes: int | None = None) -> None:
        """`most_bytes`: how much may be held in all, what was set aside included."""
        self.lost_and_found: dict[str, bytes] = {}
        self._held: dict[int, _Held] = {}
        self._most_bytes = most_bytes
        self._lock = threading.Lock()

    def segments(self, log: LogId) -> list[SegmentInfo]:
        """As the contract says."""
        require_log(log)
        with self._lock:
            return [SegmentInfo(number, len(held.data)) for number, held in sorted(self._held.items())]

    def open(self, log: LogId, number: int) -> Source:
        """As the contract says: no copy."""
        require_log(log)
        with self._lock:
            if number not in self._held:
                raise NotFoundError(f"segment {number} does not exist")
            return _HeldSource(self._held[number])

    def put(self, sealed: SealedSegment) -> Receipt:
        """As the contract says."""
        require_log(sealed.log)
        data = self._taken(sealed)
        with self._lock:
            if self._held.setdefault(sealed.number, _Held(data)).data == data:
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
            if before is not None and before.data != data:
                self._keep(kept, before.data)
            self._held[sealed.number] = _Held(data)
        return sealed.receipt

    def was_replaced(self, log: LogId, number: int, kept: str) -> bool:
        """As the contract says."""
        require_log(log)
        with self._lock:
            if number not in self._held:
                return False
            data = self._held[number].data
            return not kept or self.lost_and_found.get(kept, data) != data

    def kept_as(self, log: LogId, number: int, wanted: str) -> str:
        """As the contract says."""
        require_log(log)
        with self._lock:
            held, other = self._held.get(number), self.lost_and_found.get(wanted)
        is_free = other is None or (held is not None and held.data == other)
        return wanted if is_free else f"{wanted}-{os.urandom(4).hex()}"

    def set_aside(self, log: LogId, number: int, kept: str) -> None:
        """As the contract says."""
        require_log(log)
        with self._lock:
            if number in self._held:
                self._keep(kept, self._held[number].data)
                del self._held[number]
            elif kept not in self.lost_and_found:
                raise NotFoundError(f"segment {number} does not exist")

    def release(self, log: LogId, number: int, proof: Receipt) -> None:
        """As the contract says."""
        require_log(log)
        with self._lock:
            if number not in self._held:
                return
            source = MemorySource(self._held[number].data)
            if proof != Receipt(log, number, source.size, sha256_of(source)):
                raise HistoryError(f"segment {number} stays: what was proved to lie elsewhere are other bytes")
            if number == max(self._held):
                raise HistoryError(f"segment {number} stays: it is the last one of the log")
            del self._held[number]

    def room(self) -> int | None:
        """What is left of `most_bytes`."""
        with self._lock:
            used = sum(len(held.data) for held in self._held.values()) + sum(map(len, self.lost_and_found.values()))
        return None if self._most_bytes is None else max(self._most_bytes - used, 0)

    def begin(self, number: int, data: bytes) -> None:
        """Begin a segment with its first bytes, in place of one that holds no record."""
        with self._lock:
            self._held[number] = _Held(data)

    def grow(self, number: int, data: bytes) -> None:
        """Append to a segment."""
        with self._lock:
            self._held[number].data += data

    def cut(self, number: int, size: int, kept: str) -> None:
        """Cut a segment to `size` bytes, and keep the rest in lost+found as `kept` ("": do not keep it)."""
        with self._lock:
            held = self._held[number]
            if kept:
                self._keep(kept, held.data[size:])
            held.data = held.data[:size]

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
        return held is not None and sha256_of(MemorySource(held.data)) == sealed.sha256

    def _keep(self, kept: str, data: bytes) -> None:
        if self.lost_and_found.setdefault(kept, data) != data:
            raise HistoryError(
                f"lost+found/{kept} exists and is another segment", hint="move it away, and run the command again"
            )
