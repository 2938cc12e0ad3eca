"""Calls over a bad connection, and a caller who is not discouraged: what the wrappers of the contract suites have in
common."""

import random
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from coffer.keys.errors import UnavailableError

__all__ = ["LossyLine", "LostAnswerError", "until_answered"]

T = TypeVar("T")


class LostAnswerError(UnavailableError):
    """The call had its effect, and nobody was told."""


class LossyLine:
    """Makes calls that wait a moment before their effect, so that those of several threads take another order, and
    drops every second answer after it, as a seed draws it."""

    def __init__(self, seed: int) -> None:
        self.dropped = 0
        self._drawn = random.Random(seed)
        self._lock = threading.Lock()

    def through(self, call: Callable[[], T], unseen: Callable[[T], None] = lambda _: None) -> T:
        """Make a call; `unseen` gets what it returned where the answer is dropped. Raises LostAnswerError."""
        with self._lock:
            wait, is_lost = self._drawn.random() * 0.002, self._drawn.random() < 0.5
            self.dropped += is_lost
        time.sleep(wait)
        found = call()
        if is_lost:
            unseen(found)
            raise LostAnswerError("no answer came")
        return found


def until_answered(call: Callable[[], T]) -> T:
    """Make a call again and again until an answer comes."""
    for _ in range(100):
        try:
            return call()
        except LostAnswerError:
            continue
    raise AssertionError("no answer ever comes")
