"""A key in memory that cannot be printed, compared with ==, hashed, copied or pickled by accident.

Rule: key bytes live in a `Secret` everywhere except in the one expression that hands them to a cipher.
It does not promise that memory is clean afterwards: `reveal()` makes a `bytes` that Python cannot overwrite
(facts: threat T11); `wipe()` clears the copy this object owns.
"""

from __future__ import annotations

import hmac
from typing import NoReturn, SupportsIndex

__all__ = ["Secret"]


class Secret:
    """Owns a private copy of key bytes. Thread-safe to read; `wipe()` must not race with users of the same object."""

    __slots__ = ("_bytes",)

    def __init__(self, value: bytes | bytearray) -> None:
        if not isinstance(value, bytes | bytearray):
            raise TypeError("a Secret is made of bytes or bytearray")
        self._bytes = bytearray(value)

    def reveal(self) -> bytes:
        """Return the key bytes. Raises ValueError after `wipe()`. Use the result in one expression, never store it."""
        if not self._bytes:
            raise ValueError("this secret is empty or was wiped")
        return bytes(self._bytes)

    def wipe(self) -> None:
        """Overwrite this object's copy with zeros and drop it; every later `reveal()` fails."""
        self._bytes[:] = bytes(len(self._bytes))
        self._bytes = bytearray()

    def matches(self, other: Secret | bytes) -> bool:
        """Compare in constant time (for equal lengths); this is the only comparison there is."""
        return hmac.compare_digest(self._bytes, other.reveal() if isinstance(other, Secret) else other)

    def __len__(self) -> int:
        return len(self._bytes)

    def __repr__(self) -> str:
        return f"<Secret of {len(self._bytes)} bytes>"

    __str__ = __repr__

    def __eq__(self, other: object) -> NoReturn:
        raise TypeError("compare secrets with .matches(), which takes constant time")

    __hash__ = None  # type: ignore[assignment]  # a hash table of keys would leak them through timing

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("a Secret is never pickled or copied")
