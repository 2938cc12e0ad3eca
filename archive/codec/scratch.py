"""Memory that is used again for one frame after the other: fresh pages cost more than the arithmetic done in them.

Rule: what lies here is gone when the next frame comes; nothing that is returned to a caller may share it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

_ROOMS: Final = 3
_KEPT: Final = 8
_LINE: Final = 64  # bytes of the processor's cache lines: a vector that lies across two costs as much as two


class Scratch:
    """Rooms for arrays of up to `size` bytes each."""

    def __init__(self, size: int) -> None:
        rooms = [np.empty(size + _LINE, np.uint8) for _ in range(_ROOMS)]
        self._rooms = [room[-room.ctypes.data % _LINE :][:size] for room in rooms]

    def array(self, room: int, dtype: DTypeLike, count: int) -> NDArray[Any]:
        """Room number `room` for `count` items, with whatever lies in it."""
        kind = np.dtype(dtype)
        return self._rooms[room][: count * kind.itemsize].view(kind)


class Scratches:
    """As many scratches as are in use at once; some are kept for the next use. May be shared by threads."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._free: list[Scratch] = []

    @contextmanager
    def one(self) -> Iterator[Scratch]:
        """A scratch that nobody else has meanwhile."""
        try:
            scratch = self._free.pop()
        except IndexError:
            scratch = Scratch(self._size)
        try:
            yield scratch
        finally:
            if len(self._free) < _KEPT:
                self._free.append(scratch)
