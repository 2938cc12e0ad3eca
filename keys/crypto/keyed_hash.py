"""HMAC-SHA-256 of many short texts under one key, as numbers to be added up.

Rule: for one batch at a time. The states of the two hashes are made once, but they are not locked in memory as the key
is, so nothing keeps them.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from coffer.keys.memory.secret import Secret

if TYPE_CHECKING:
    from _hashlib import HASH

__all__ = ["keyed_hash"]

_BLOCK: Final = 64  # bytes, of SHA-256


def _keyed(key: Secret, pad: int) -> HASH:
    block = bytearray([pad]) * _BLOCK

    def mix(bytes_: memoryview) -> HASH:
        for at, byte in enumerate(bytes_):
            block[at] ^= byte
        return sha256(block)

    made = key.use(mix)
    block[:] = bytes(_BLOCK)
    return made


def keyed_hash(key: Secret) -> Callable[[bytes], int]:
    """Return a function of a text to its HMAC-SHA-256 (FIPS 198-1), big endian, under a key of at most 64 bytes.

    It takes 2 us for 200 bytes; one call of `hmac` takes 5 to 7.
    """
    inner, outer = (_keyed(key, pad) for pad in (0x36, 0x5C))

    def hashed(text: bytes) -> int:
        first, second = inner.copy(), outer.copy()
        first.update(text)
        second.update(first.digest())
        return int.from_bytes(second.digest(), "big")

    return hashed
