"""Slow down whoever fails to prove who they are: by user and by address, longer each time.

Rule: during a wait nothing is checked at all, so that guessing costs the guesser and not this machine. Somebody else
can make a user wait, so a wait is never long. It remembers a bounded number of names, the latest.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

__all__ = ["Throttle"]

_FREE: Final = 5  # failures that cost nothing: mistakes
_LONGEST_SECONDS: Final = 60.0
_FORGOTTEN_SECONDS: Final = 900.0
_MOST: Final = 4096


class Throttle:
    """Counts failures. Thread-safe. Names are of any kind the caller chooses, as `user anna`."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._lock = threading.Lock()
        self._failed: OrderedDict[str, tuple[int, float]] = OrderedDict()  # how often, and when last

    def waits(self, names: Iterable[str]) -> bool:
        """Whether any of the names has to wait."""
        now = self._now()
        with self._lock:
            return any(now < self._until(self._failed.get(name)) for name in names)

    @staticmethod
    def _until(failed: tuple[int, float] | None) -> float:
        if failed is None or failed[0] < _FREE:
            return 0.0
        count, last = failed
        return last + min(_LONGEST_SECONDS, 2.0 ** min(count - _FREE, 10))

    def failed(self, names: Iterable[str]) -> None:
        """Count one failure for each name."""
        now = self._now()
        with self._lock:
            for name in names:
                count, last = self._failed.pop(name, (0, now))
                self._failed[name] = (1 if now - last > _FORGOTTEN_SECONDS else count + 1, now)
            while len(self._failed) > _MOST:
                self._failed.popitem(last=False)

    def succeeded(self, name: str) -> None:
        """Forget the failures of a user; those of the address stay, because it may be shared."""
        with self._lock:
            self._failed.pop(name, None)
