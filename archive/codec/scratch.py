"""Memory that is reused from frame to frame: fresh pages cost more than the arithmetic done in them.

Rule: the next frame overwrites what is here, so nothing that is returned to a caller may share this memory.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

_SLOTS: Final = 3
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
