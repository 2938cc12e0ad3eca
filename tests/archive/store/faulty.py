"""A store as it is seen over a bad connection: slow, in another order, and silent about what it has done."""

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from coffer.archive.store.segment_store import LogId, Receipt, SealedSegment, SegmentInfo, SegmentStore
from coffer.archive.store.source import FileSource, Source
from coffer.keys.errors import UnavailableError

T = TypeVar("T")


class LostAnswerError(UnavailableError):
    """The call had its effect, and nobody was told."""


class FaultySegments(SegmentStore):
    """Another store, behind faults that are drawn from a seed: a call waits a moment before its effect, so that calls
    of several threads take another order, and every second answer is dropped after it."""

    def __init__(self, inner: SegmentStore, seed: int) -> None:
        self.inner = inner
        self.dropped = 0
        self._drawn = random.Random(seed)
        self._lock = threading.Lock()

    def _through(self, call: Callable[[], T]) -> T:
        with self._lock:
            wait, is_lost = self._drawn.random() * 0.002, self._drawn.random() < 0.5
            self.dropped += is_lost
        time.sleep(wait)
        found = call()
        if is_lost:
            if isinstance(found, FileSource):
                found.close()
            raise LostAnswerError("no answer came")
        return found

    def segments(self, log: LogId) -> list[SegmentInfo]:
        return self._through(lambda: self.inner.segments(log))

    def open(self, log: LogId, number: int) -> Source:
        return self._through(lambda: self.inner.open(log, number))

    def put(self, sealed: SealedSegment) -> Receipt:
        return self._through(lambda: self.inner.put(sealed))

    def replace(self, sealed: SealedSegment, kept: str) -> Receipt:
        return self._through(lambda: self.inner.replace(sealed, kept))

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

    @staticmethod
    def _until(call: Callable[[], T]) -> T:
        for _ in range(100):
            try:
                return call()
            except LostAnswerError:
                continue
        raise AssertionError("no answer ever comes")

    def segments(self, log: LogId) -> list[SegmentInfo]:
        return self._until(lambda: self.inner.segments(log))

    def open(self, log: LogId, number: int) -> Source:
        return self._until(lambda: self.inner.open(log, number))

    def put(self, sealed: SealedSegment) -> Receipt:
        return self._until(lambda: self.inner.put(sealed))

    def replace(self, sealed: SealedSegment, kept: str) -> Receipt:
        return self._until(lambda: self.inner.replace(sealed, kept))

    def was_replaced(self, log: LogId, number: int, kept: str) -> bool:
        return self._until(lambda: self.inner.was_replaced(log, number, kept))

    def set_aside(self, log: LogId, number: int, kept: str) -> None:
        self._until(lambda: self.inner.set_aside(log, number, kept))

    def release(self, log: LogId, number: int, proof: Receipt) -> None:
        self._until(lambda: self.inner.release(log, number, proof))

    def room(self) -> int | None:
        return self._until(self.inner.room)
