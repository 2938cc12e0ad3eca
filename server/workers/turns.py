"""Schedule the searches of all lines: they take turns, host by host, each for a slice of time.

Rule: a host gets as many turns as any other, however many of its searches wait; within a host every other turn is for a
search that has used little time so far, in order of arrival. A slice is measured in time, not in rows, so that a small
search waits for a few slices of others and never for their end. The scheduler does not know what the work is.
"""

import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final, Protocol

from coffer.server.observe.logs import get_logger

_log = get_logger()

__all__ = ["SLICE_SECONDS", "Turn", "Turns"]

SLICE_SECONDS: Final = 0.02
_LITTLE_SECONDS: Final = 0.05
_THREADS: Final = 2  # so that one waiting for the disk does not delay the other; Python runs one at a time
_PATIENCE_SECONDS: Final = 5.0
# How long Python lets a computing thread run while another one waits. That may be the committing thread, which waits
# several times for one object: the default of 5 ms would add up beside a costly query.
_SWITCH_SECONDS: Final = 0.0005


class Turn(Protocol):
    """A task that works in slices."""

    @property
    def host(self) -> str:
        """The host for which it works."""

    @property
    def spent_seconds(self) -> float:
        """Processor time that it has used."""

    def work(self, seconds: float) -> bool:
        """Work for about `seconds`; returns whether it needs another turn. Raises nothing."""


class _Host:
    """The waiting tasks of one host."""

    def __init__(self) -> None:
        self._small: deque[Turn] = deque()
        self._large: deque[Turn] = deque()
        self._was_small = False  # whether the last turn was for a small one

    def add(self, turn: Turn) -> None:
        (self._small if turn.spent_seconds < _LITTLE_SECONDS else self._large).append(turn)

    def next(self) -> Turn:
        self._was_small = bool(self._small) and not (self._was_small and self._large)
        return (self._small if self._was_small else self._large).popleft()

    def __bool__(self) -> bool:
        return bool(self._small or self._large)


class Turns:
    """The search threads and the tasks that wait for them. Thread-safe."""

    def __init__(self, delayed: Callable[[], None] = lambda: None) -> None:
        """`delayed` is called each time that a task goes behind those of another host."""
        self._delayed = delayed
        self._changed = threading.Condition()
        self._waiting: OrderedDict[str, _Host] = OrderedDict()
        self._is_over = False
        self._threads = [
            threading.Thread(target=self._run, name=f"query-{number}", daemon=True) for number in range(_THREADS)
        ]

    def start(self) -> None:
        """Start the threads."""
        sys.setswitchinterval(_SWITCH_SECONDS)
        for thread in self._threads:
            thread.start()

    def add(self, turn: Turn) -> None:
        """Queue a task for one turn. After `stop` it gets none."""
        with self._changed:
            self._waiting.setdefault(turn.host, _Host()).add(turn)
            self._changed.notify()

    def stop(self) -> bool:
        """End the threads, each after at most one more step; returns whether they ended in time."""
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
            name, host = self._waiting.popitem(last=False)
            turn = host.next()
            if host:
                self._waiting[name] = host  # behind all others
            return turn

    def _run(self) -> None:
        while (turn := self._next()) is not None:
            try:
                wants_more = turn.work(SLICE_SECONDS)
            except Exception:  # noqa: BLE001  # the thread serves all lines
                _log.exception("a query ended with an internal error", name="query.failed")
                continue
            if wants_more:
                if any(host != turn.host for host in list(self._waiting)):
                    self._delayed()
                self.add(turn)
