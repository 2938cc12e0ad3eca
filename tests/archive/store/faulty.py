"""A store as it is seen over a bad connection: slow, in another order, and silent about what it has done."""

from collections.abc import Callable
from typing import TypeVar

from coffer.archive.store.segment_store import LogId, Receipt, SealedSegment, SegmentInfo, SegmentStore
from coffer.archive.store.source import FileSource, Source
from tests.lost_answers import LossyLine, until_answered

T = TypeVar("T")


def _close(found: object) -> None:
    if isinstance(found, FileSource):
        found.close()


class FaultySegments(SegmentStore):
    """Another store, over a line that is slow, reorders and loses answers."""

    def __init__(self, inner: SegmentStore, seed: int) -> None:
        self.inner = inner
        self._line = LossyLine(seed)

    @property
    def dropped(self) -> int:
        """How many answers were lost."""
        return self._line.dropped

    def _through(self, call: Callable[[], T]) -> T:
        return self._line.through(call, _close)

    def segments(self, log: LogId) -> list[SegmentInfo]:
        return self._through(lambda: self.inner.segments(log))

    def open(self, log: LogId, number: int) -> Source:
        return self._through(lambda: self.inner.open(log, number))

    def put(self, sealed: SealedSegment) -> Receipt:
        return self._through(lambda: self.inner.put(sealed))

    def replace(self, sealed: SealedSegment, kept: str) -> Receipt:
        return self._through(lambda: self.inner.replace(sealed, kept))

    def kept_as(self, log: LogId, number: int, wanted: str) -> str:
        return self._through(lambda: self.inner.kept_as(log, number, wanted))

    def was_replaced(self, log: LogId, number: int, kept: str) -> bool:
        return self._through(lambda: self.inner.was_replaced(log, number, kept))

    def set_aside(self, log: LogId, number: int, kept: str) -> None:
        self._through(lambda: self.inner.set_aside(log, number, kept))

    def release(self, log: LogId, number: int, proof: Receipt) -> None:
        self._through(lambda: self.inner.release(log, number, proof))

    def room(self) -> int | None:
        return self._through(self.inner.room)


class Patient(SegmentStore):
    """What a caller does with such a store: it asks again until an answer comes."""

    def __init__(self, inner: SegmentStore) -> None:
        self.inner = inner

    def segments(self, log: LogId) -> list[SegmentInfo]:
        return until_answered(lambda: self.inner.segments(log))

    def open(self, log: LogId, number: int) -> Source:
        return until_answered(lambda: self.inner.open(log, number))

    def put(self, sealed: SealedSegment) -> Receipt:
        return until_answered(lambda: self.inner.put(sealed))

    def replace(self, sealed: SealedSegment, kept: str) -> Receipt:
        return until_answered(lambda: self.inner.replace(sealed, kept))

    def kept_as(self, log: LogId, number: int, wanted: str) -> str:
        return until_answered(lambda: self.inner.kept_as(log, number, wanted))

    def was_replaced(self, log: LogId, number: int, kept: str) -> bool:
        return until_answered(lambda: self.inner.was_replaced(log, number, kept))

    def set_aside(self, log: LogId, number: int, kept: str) -> None:
        until_answered(lambda: self.inner.set_aside(log, number, kept))

    def release(self, log: LogId, number: int, proof: Receipt) -> None:
        until_answered(lambda: self.inner.release(log, number, proof))

    def room(self) -> int | None:
        return until_answered(self.inner.room)
