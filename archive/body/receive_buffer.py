"""Received bytes that are not cut into frames yet, in one contiguous block of memory.

Rule: a byte is copied once on its way in, and moved only if a block ends in the middle of a frame. Bytes that were
taken stay valid for as long as anyone holds them: space is made in a new block, never by moving bytes in an old one.
"""

from typing import Final

from coffer.archive.codec.frames import FRAME_BYTES
from coffer.keys.buffer import Buffer

_BLOCK_BYTES: Final = FRAME_BYTES + (256 << 10)  # a frame, and what arrives together with its end


class ReceiveBuffer:
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
            # Doubling the space each time copies even a header of many MiB at most twice.
            self.reserve(max(2 * len(self), len(self) + len(data)))
            end = self._end + len(data)
        self._memory[self._end : end] = data
        self._end = end

    def view(self, start: int, stop: int) -> memoryview:
        """Bytes [start, stop) of the buffered ones, fewer at the end; valid until the next call."""
        return self._memory[self._start + start : min(self._start + stop, self._end)]

    def take(self, length: int) -> memoryview:
        """Remove the first `length` bytes and return them; they belong to the caller."""
        start, self._start = self._start, self._start + length
        return self._memory[start : self._start]

    def reserve(self, length: int) -> None:
        """Make space for this many contiguous bytes. Call it while few are buffered, because these are moved."""
        if self._start + length <= len(self._memory):
            return
        import numpy as np  # here: a process that receives nothing does without

        held = self._memory[self._start : self._end]
        # Unlike a bytearray, this is not zeroed, which would cost as much as the copy.
        self._memory = np.empty(max(_BLOCK_BYTES, length), np.uint8).data
        self._memory[: len(held)] = held
        self._start, self._end = 0, len(held)

    def clear(self) -> None:
        """Drop everything."""
        self._memory, self._start, self._end = memoryview(bytearray()), 0, 0
