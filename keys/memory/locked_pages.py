"""The memory that secrets live in: pages of their own, locked and kept out of dumps where the system allows.

Rule: a slot belongs to one secret until that secret is gone, and is zeros before and after. Blocks stay for the life of
the process. Taking and giving back are single list operations, so that a finalizer may run at any point of any thread.
A process that forks without exec takes an unlocked copy along; nothing of the product does.
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
    """A place in a block. `home` is the list it is given back to."""

    block: mmap.mmap
    at: int
    home: list[Slot]

    def give_back(self) -> None:
        """Let another secret have it; the bytes must be zeros, and nobody may use it any more."""
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
        raise UnavailableError("there is no memory for keys", hint="end something else on this machine") from error
    hardening.lock(block)
    _blocks.append(block)
    home = _free.setdefault(room, [])
    first, *others = (Slot(block, at, home) for at in range(0, size - room + 1, room))
    home.extend(others)
    return first
