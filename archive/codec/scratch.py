"""Memory that is reused from frame to frame: fresh pages cost more than the arithmetic done in them.

Rule: the next frame overwrites what is here, so nothing that is returned to a caller may share this memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

_SLOTS: Final = 3
_KEPT: Final = 8
_LINE: Final = 64  # bytes in a cache line of the processor: a vector that straddles two lines costs as much as two


class Scratch:
    """Slots for arrays of up to `size` bytes each."""

    def __init__(self, size: int) -> None:
        slots = [np.empty(size + _LINE, np.uint8) for _ in range(_SLOTS)]
        self._slots = [slot[-slot.ctypes.data % _LINE :][:size] for slot in slots]

    def array(self, slot: int, dtype: DTypeLike, count: int) -> NDArray[Any]:
        """An uninitialized array of `count` items in slot `slot`."""
        kind = np.dtype(dtype)
        return self._slots[slot][: count * kind.itemsize].view(kind)


class Scratches:
    """A pool of scratches: it grows to as many as are used at once and keeps some. Thread-safe."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._free: list[Scratch] = []

    @contextmanager
    def one(self) -> Iterator[Scratch]:
        """Lend one scratch to this caller alone while the block runs."""
        try:
            scratch = self._free.pop()
        except IndexError:
            scratch = Scratch(self._size)
        try:
            yield scratch
        finally:
            if len(self._free) < _KEPT:
                self._free.append(scratch)
