"""Sums of rows' hashes as they are stored: one under a key, hidden by a mask, and one against accidents (pure).

Rule: the mask belongs to one state of the rows and is never used again: two sums under equal masks would show the hash
of the row between them. Who makes it, and what is added up, is known above.
"""

from __future__ import annotations

import hmac
from hashlib import sha256
from typing import Final

__all__ = [
    "KEYED_BYTES",
    "PLAIN_BYTES",
    "guarded",
    "is_masked",
    "is_plain",
    "masked",
    "plain_hash",
    "plain_in",
    "unmasked",
]

KEYED_BYTES: Final = 32
PLAIN_BYTES: Final = 8  # enough against accidents
_KEYED_RANGE: Final = 1 << 8 * KEYED_BYTES
_PLAIN_RANGE: Final = 1 << 8 * PLAIN_BYTES


def masked(total: int, mask: int) -> bytes:
    """Return the sum of keyed hashes as it is stored, 32 bytes, big endian."""
    return ((total + mask) % _KEYED_RANGE).to_bytes(KEYED_BYTES, "big")


def unmasked(stored: bytes, mask: int) -> int:
    """Return a number that equals the sum modulo 2^256: `masked` takes it as it is, or grown by further hashes."""
    return int.from_bytes(stored, "big") - mask


def is_masked(stored: bytes, total: int, mask: int) -> bool:
    """Whether this is what `masked` returns, compared in constant time."""
    return hmac.compare_digest(stored, masked(total, mask))


def plain_hash(text: bytes) -> int:
    """Return the hash that finds accidents: the first 8 bytes of SHA-256, big endian."""
    return int.from_bytes(sha256(text).digest()[:PLAIN_BYTES], "big")


def guarded(head: bytes, plain: int) -> bytes:
    """Return stored fields followed by the accident sum of the rows and of these fields, 8 bytes."""
    return head + ((plain + plain_hash(head)) % _PLAIN_RANGE).to_bytes(PLAIN_BYTES, "big")


def plain_in(stored: bytes) -> int:
    """Return the accident sum of the rows, modulo 2^64, from what `guarded` returned."""
    head, tail = stored[:-PLAIN_BYTES], stored[-PLAIN_BYTES:]
    return (int.from_bytes(tail, "big") - plain_hash(head)) % _PLAIN_RANGE


def is_plain(stored: int, total: int) -> bool:
    """Whether `plain_in` and the sum of hashes are the same modulo 2^64."""
    return stored == total % _PLAIN_RANGE
