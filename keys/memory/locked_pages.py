"""The memory that holds secrets: dedicated pages, locked and excluded from dumps where the system allows it.

Rule: a slot belongs to one secret for that secret's lifetime, and is all zeros before and after. Blocks live as long as
the process. Taking and releasing a slot are single list operations, so a finalizer may run at any point in any thread.
A fork without exec would carry an unlocked copy along; the product never does that.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import Final

from coffer.keys.errors import UnavailableError
from coffer.keys.memory import hardening

__all__ = ["Slot", "take"]

_BLOCK: Final = 16384
_GRAIN: Final = 32  # nearly every secret is a key of 256 bits
_blocks: list[mmap.mmap] = []
_free: dict[int, list[Slot]] = {}


@dataclass(slots=True, eq=False, repr=False)
class Slot:
    """A place in a block. `home` is the free list that it returns to."""

    block: mmap.mmap
    at: int
    home: list[Slot]

    def release(self) -> None:
        """Make the slot available to another secret. Its bytes must be zeros, and the caller must not use it again."""
        self.home.append(self)


def take(size: int) -> Slot:
    """Return a slot of at least `size` bytes, all zeros. Raises UnavailableError where there is no memory."""
    room = max(1, -(-size // _GRAIN)) * _GRAIN
    try:
        return _free[room].pop()
    except (KeyError, IndexError):
        return _grow(room)


def _grow(room: int) -> Slot:
    size = max(_BLOCK, -(-room // mmap.PAGESIZE) * mmap.PAGESIZE)
    try:
        block = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise UnavailableError("there is no memory for keys", hint="stop something else on this machine") from error
    hardening.lock(block)
    _blocks.append(block)
    home = _free.setdefault(room, [])
    first, *others = (Slot(block, at, home) for at in range(0, size - room + 1, room))
    home.extend(others)
    return first
