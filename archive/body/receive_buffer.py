"""Bytes that have arrived and were not cut into frames yet, in one stretch of memory.

Rule: a byte is copied once on its way in, and moved only where a stretch ends in the middle of a frame. What was taken
stays as it is for as long as somebody holds it: room is made in a new stretch, never by moving an old one.
"""

from typing import Final

import numpy as np

from coffer.archive.codec.frames import FRAME_BYTES
from coffer.keys.buffer import Buffer

_STRETCH: Final = FRAME_BYTES + (256 << 10)  # a frame and what came with its end


class Inflow:
    """A queue of bytes: `add` at the end, `take` from the front. Used by one thread."""

    __slots__ = ("_end", "_memory", "_start")

    def __init__(self) -> None:
        self._memory = memoryview(bytearray())
        self._start = self._end = 0

    def __len__(self) -> int:
        return self._end - self._start

    def add(self, data: Buffer) -> None:
        """Append bytes."""
        end = self._end + len(data)
        if end > len(self._memory):
            # Twice the room each time, so that even a header of many MiB is copied twice at most.
            self.reserve(max(2 * len(self), len(self) + len(data)))
            end = self._end + len(data)
        self._memory[self._end : end] = data
        self._end = end

    def view(self, start: int, stop: int) -> memoryview:
        """Bytes [start, stop) of those that are here, fewer at the end, until the next call."""
        return self._memory[self._start + start : min(self._start + stop, self._end)]

    def take(self, length: int) -> memoryview:
        """Remove the first bytes and return them: the caller's alone from now on."""
        start, self._start = self._start, self._start + length
        return self._memory[start : self._start]

    def reserve(self, length: int) -> None:
        """Have room for so many bytes in a row: best asked for while few are here, for these are moved."""
        if self._start + length <= len(self._memory):
            return
        held = self._memory[self._start : self._end]
        # Not zeroed, as a bytearray would be: that costs as much as the copy.
        self._memory = np.empty(max(_STRETCH, length), np.uint8).data
        self._memory[: len(held)] = held
        self._start, self._end = 0, len(held)

    def clear(self) -> None:
        """Forget everything."""
        self._memory, self._start, self._end = memoryview(bytearray()), 0, 0
