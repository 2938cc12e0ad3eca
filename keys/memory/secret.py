"""A key in memory that cannot be printed, compared with ==, hashed, copied or pickled by accident.

Rule: key bytes live in a `Secret` everywhere except in the one expression that hands them to a cipher. Its copy lies in
`keys.memory.locked_pages` and is overwritten when the last reference goes away: dropping a secret wipes it, and any
other holder of a reference keeps it intact. `use` and `filled` hand this place itself to a cipher and leave no copy
elsewhere; `reveal()` makes a `bytes` that Python cannot overwrite (threat model, 11).
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import NoReturn, SupportsIndex, TypeVar

from coffer.keys.memory import locked_pages

__all__ = ["Secret"]

T = TypeVar("T")


class Secret:
    """Owns a private copy of key bytes. Thread-safe; about a microsecond to make."""

    __slots__ = ("_size", "_slot")

    def __init__(self, value: bytes | bytearray) -> None:
        if not isinstance(value, bytes | bytearray):
            raise TypeError("a Secret is made of bytes or bytearray")
        size = len(value)
        self._slot = slot = locked_pages.take(size)
        slot.block[slot.at : slot.at + size] = value
        self._size = size

    @classmethod
    def filled(cls, size: int, fill: Callable[[memoryview], object]) -> Secret:
        """Return a secret whose `size` bytes `fill` writes into its place. What `fill` raises leaves zeros."""
        made = cls(bytes(size))
        with memoryview(made._slot.block) as block, block[made._slot.at : made._slot.at + size] as place:
            fill(place)
        return made

    def __del__(self) -> None:
        try:
            self.wipe()
            self._slot.release()  # only here: while the object lives, no other secret may get its slot
        except AttributeError:
            return  # __init__ failed

    def _read(self) -> bytes:
        slot, size = self._slot, self._size
        value = slot.block[slot.at : slot.at + size]
        return value if self._size else b""  # read again: if it was wiped meanwhile, the bytes are zeros and no key

    def reveal(self) -> bytes:
        """Return the key bytes. Raises ValueError after `wipe()`. Use the result in one expression, never store it."""
        value = self._read()
        if not value:
            raise ValueError("this secret is empty or was wiped")
        return value

    def use(self, work: Callable[[memoryview], T]) -> T:
        """Return what `work` makes of the key bytes, which it reads where they are and must not keep.

        Raises ValueError after `wipe()`, also if it came while `work` ran: that may have read zeros.
        """
        slot, size = self._slot, self._size
        with memoryview(slot.block) as block, block[slot.at : slot.at + size] as place, place.toreadonly() as key:
            made = work(key)
        if not self._size:
            raise ValueError("this secret is empty or was wiped")
        return made

    def wipe(self) -> None:
        """Overwrite the key bytes with zeros, even while others hold a reference: their `reveal()` then fails."""
        slot, size = self._slot, self._size
        self._size = 0
        slot.block[slot.at : slot.at + size] = bytes(size)

    def matches(self, other: Secret | bytes) -> bool:
        """Compare in constant time (for equal lengths); there is no other comparison."""
        return hmac.compare_digest(self._read(), other.reveal() if isinstance(other, Secret) else other)

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        return f"<Secret of {self._size} bytes>"

    __str__ = __repr__

    def __eq__(self, other: object) -> NoReturn:
        raise TypeError("compare secrets with .matches(), which takes constant time")

    __hash__ = None  # type: ignore[assignment]  # a hash table of keys would leak them through timing

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("a Secret is never pickled or copied")
