"""A log as it is seen over a bad connection: slow, in another order, and silent about what it has done."""

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from coffer.archive.commit.commit_log import CommitLog, Group, LogEnd, Loss, Taken
from coffer.archive.tree.checkpoint import Checkpoint
from coffer.archive.tree.mark import Mark
from coffer.keys.errors import OutcomeUnknownError, UnavailableError
from coffer.keys.lease.epoch_authority import Lease

T = TypeVar("T")


class LostAnswerError(OutcomeUnknownError):
    """The call had its effect, or never arrived, and nobody was told."""


class NoAnswerError(UnavailableError):
    """A question was not answered."""


class FaultyLog(CommitLog):
    """Another log, behind faults. `loses` says of each call, by its name, whether it is lost: "before" its effect,
    "after" it, or not at all (""); `delay` waits before the effect, so that calls of several threads take another
    order."""

    def __init__(self, inner: CommitLog, loses: Callable[[str], str], delay: Callable[[], float] = lambda: 0.0) -> None:
        self.inner = inner
        self.loses = loses
        self._delay = delay

    def _through(self, name: str, call: Callable[[], T]) -> T:
        fault, lost = self.loses(name), NoAnswerError if name == "outcome" else LostAnswerError
        time.sleep(self._delay())
        if fault == "before":
            raise lost("no answer came")
        found = call()
        if fault == "after":
            raise lost("no answer came")
        return found

    def take(
        self,
        lease: Lease,
        told: Callable[[], Sequence[Checkpoint]] = tuple,
        accept: Callable[[LogEnd], None] | None = None,
        outside: Mark | None = None,
    ) -> Taken:
        return self._through("take", lambda: self.inner.take(lease, told, accept, outside))

    def append(self, lease: Lease, at: LogEnd, group: Group) -> LogEnd:
        return self._through("append", lambda: self.inner.append(lease, at, group))

    def seal(self, lease: Lease, at: LogEnd, epoch: int | None = None) -> LogEnd:
        return self._through("seal", lambda: self.inner.seal(lease, at, epoch))

    def outcome(self, lease: Lease, head: bytes) -> LogEnd | None:
        return self._through("outcome", lambda: self.inner.outcome(lease, head))

    def tail(self, from_seq: int = 0) -> Iterator[Group]:
        return self.inner.tail(from_seq)

    def lost(self, begin: LogEnd, end: LogEnd) -> Loss | None:
        return self.inner.lost(begin, end)

    def close(self) -> None:
        self.inner.close()


def drawn(inner: CommitLog, seed: int) -> FaultyLog:
    """A log that loses half of the calls, before or after their effect."""
    choice, lock = random.Random(seed), threading.Lock()

    def loses(_: str) -> str:
        with lock:
            return choice.choice(["before", "after", "", ""])

    def delay() -> float:
        with lock:
            return choice.random() * 0.002

    return FaultyLog(inner, loses, delay)


class Patient(CommitLog):
    """What a caller does with such a log, by nothing but the contract: it asks, and appends nothing before it knows."""

    def __init__(self, inner: CommitLog) -> None:
        self.inner = inner

    @staticmethod
    def _until(call: Callable[[], T]) -> T:
        for _ in range(200):
            try:
                return call()
            except (LostAnswerError, NoAnswerError):
                continue
        raise AssertionError("no answer ever comes")

    def take(
        self,
        lease: Lease,
        told: Callable[[], Sequence[Checkpoint]] = tuple,
        accept: Callable[[LogEnd], None] | None = None,
        outside: Mark | None = None,
    ) -> Taken:
        return self._until(lambda: self.inner.take(lease, told, accept, outside))

    def append(self, lease: Lease, at: LogEnd, group: Group) -> LogEnd:
        while True:
            try:
                return self.inner.append(lease, at, group)
            except LostAnswerError:
                found = self.outcome(lease, group.head)
                if found is not None:
                    return found

    def seal(self, lease: Lease, at: LogEnd, epoch: int | None = None) -> LogEnd:
        while True:
            try:
                return self.inner.seal(lease, at, epoch)
            except LostAnswerError:
                found = self.outcome(lease, at.chain.head)
                if found is not None and (found.segment, found.epoch) != (at.segment, at.epoch):
                    return found

    def outcome(self, lease: Lease, head: bytes) -> LogEnd | None:
        return self._until(lambda: self.inner.outcome(lease, head))

    def tail(self, from_seq: int = 0) -> Iterator[Group]:
        return self.inner.tail(from_seq)

    def lost(self, begin: LogEnd, end: LogEnd) -> Loss | None:
        return self.inner.lost(begin, end)

    def close(self) -> None:
        self.inner.close()
