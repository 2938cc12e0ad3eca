"""HMAC-SHA-256 of many short texts under one key, as numbers to be added up.

Rule: for one batch at a time. The states of the two hashes are made once, but they are not locked in memory as the key
is, so nothing keeps them.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Final

from coffer.keys.memory.secret import Secret

__all__ = ["keyed_hash"]

_BLOCK: Final = 64  # bytes, of SHA-256


def keyed_hash(key: Secret) -> Callable[[bytes], int]:
    """Return a function of a text to its HMAC-SHA-256 (FIPS 198-1), big endian, under a key of at most 64 bytes.

    It takes 2 us for 200 bytes; one call of `hmac` takes 5 to 7.
    """
    block = key.reveal().ljust(_BLOCK, b"\0")
    inner, outer = (sha256(bytes(byte ^ pad for byte in block)) for pad in (0x36, 0x5C))

    def hashed(text: bytes) -> int:
        first, second = inner.copy(), outer.copy()
        first.update(text)
        second.update(first.digest())
        return int.from_bytes(second.digest(), "big")

    return hashed
