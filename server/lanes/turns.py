"""Who may work next: the searches of all lines take turns, host by host, each for a slice of time.

Rule: a host has as many turns as any other, however many of its searches wait; within a host they go round in the order
in which they came. A slice is counted in time, not in rows, so that whoever asks for little waits for a few slices of
others and never for their end. It knows nothing of what the work is.
"""

import threading
import time
from collections import OrderedDict, deque
from typing import Final, Protocol

import structlog

_log = structlog.get_logger(__name__)

__all__ = ["SLICE_SECONDS", "Turn", "Turns"]

SLICE_SECONDS: Final = 0.02
_THREADS: Final = 2  # so that one which waits for the disk does not hold up the other; Python runs one at a time
_PATIENCE_SECONDS: Final = 5.0


class Turn(Protocol):
    """Something that works in slices."""

    @property
    def host(self) -> str:
        """For whom it works."""

    def work(self, seconds: float) -> bool:
        """Work for about so long; whether another turn is wanted. Raises nothing."""


class Turns:
    """The threads that work and those who wait for them. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: OrderedDict[str, deque[Turn]] = OrderedDict()
        self._is_over = False
        self._threads = [
            threading.Thread(target=self._run, name=f"query-{number}", daemon=True) for number in range(_THREADS)
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def add(self, turn: Turn) -> None:
        """Let it have a turn, behind the others of its host. What is added after `stop` has none."""
        with self._changed:
            self._waiting.setdefault(turn.host, deque()).append(turn)
            self._changed.notify()

    def stop(self) -> bool:
        """End the threads; whether they did, each in the middle of at most one step."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        deadline = time.monotonic() + _PATIENCE_SECONDS
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _next(self) -> Turn | None:
        with self._changed:
            while not self._waiting and not self._is_over:
                self._changed.wait()
            if self._is_over:
                return None
            host, turns = self._waiting.popitem(last=False)
            turn = turns.popleft()
            if turns:
                self._waiting[host] = turns  # behind all others
            return turn

    def _run(self) -> None:
        while (turn := self._next()) is not None:
            try:
                wants_more = turn.work(SLICE_SECONDS)
            except Exception:  # noqa: BLE001  # the thread serves everybody
                _log.exception("a search ended with a fault of ours")
                continue
            if wants_more:
                self.add(turn)
