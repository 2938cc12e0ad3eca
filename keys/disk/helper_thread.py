"""A thread that does what may never end, so that whoever wants it done waits for a bounded time.

Rule: a wait inside a library cannot be cut short. It is left behind in its thread, which keeps no process from ending,
and what it would have done is not done when it comes back after all. What is done in such a thread is one thing at a
time, in order.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final, TypeVar

__all__ = ["HelperThread"]

T = TypeVar("T")


class _TooLateError(Exception):
    """Nobody waits any more."""


class _Task:
    def __init__(self, work: Callable[[Callable[[], None]], Any]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._is_abandoned = False
        self._begun = threading.Event()
        self._done = threading.Event()
        self._result: Any = None
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._result = self._work(self._begin)
        except BaseException as error:  # noqa: BLE001  it is raised where it is waited for
            self._error = error

    def tell(self) -> None:
        self._begun.set()
        self._done.set()

    def _begin(self) -> None:
        with self._lock:
            if self._is_abandoned:
                raise _TooLateError
            self._begun.set()

    def outcome(self, seconds: float) -> Any:
        if not self._begun.wait(seconds):
            with self._lock:
                self._is_abandoned = not self._begun.is_set()
            if self._is_abandoned:
                raise TimeoutError
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._result


class HelperThread:
    """One such thread, begun with the first task. Thread-safe."""

    def __init__(self, name: str) -> None:
        self._name: Final = name
        self._tasks: SimpleQueue[_Task | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._waiting = 0  # tasks that are not done

    @property
    def is_busy(self) -> bool:
        """Whether there is a task that is not done."""
        return self._waiting > 0

    def do(self, work: Callable[[Callable[[], None]], T], seconds: float) -> T:
        """Return what `work` returns, or raise what it raises. It calls what it is given when it waits no more; until
        then TimeoutError is raised after so many seconds, and the call raises, where it comes later."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._waiting += 1
        task = _Task(work)
        self._tasks.put(task)
        result: T = task.outcome(seconds)
        return result

    def rest(self) -> None:
        """Return once the thread has ended, after the tasks that it has; the next one begins another thread. Used by
        nobody else meanwhile."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._tasks.put(None)
            thread.join()

    def end(self) -> None:
        """Let the thread end after the tasks that it has. Harmless when repeated."""
        self._tasks.put(None)

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            task.run()
            with self._lock:
                self._waiting -= 1
            task.tell()
            del task  # what it did holds transactions
