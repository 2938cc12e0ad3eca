"""Salts, nonces and new keys that differ where their content does, even when the source of randomness repeats itself.

A machine that is cloned, or put back to a snapshot, may draw the same random bytes twice. So nothing here is the
random bytes themselves: they go through a keyed hash, together with what the result is for (after RFC 8937 section 3):

    HKDF-Expand-SHA-512(prk = key, info = label || 0x00 || random(32) || for each part: length (u64) || part)

Rule: this is the only place that turns randomness into a salt, a nonce or a key below another key. With good randomness
the result is as random as that; without any, it repeats only for the same key, label and parts, for which it may.
Readers do not depend on it: salts and nonces are stored.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from coffer.keys.buffer import Buffer
from coffer.keys.crypto import derive
from coffer.keys.memory.secret import Secret

__all__ = ["Random", "first_key", "hedged", "new_key"]

Random: TypeAlias = Callable[[int], bytes]  # returns this many random bytes
_ENTROPY: Final = 32
_KEY: Final = 32
_MOST: Final = 64  # bytes: one block of the hash, so the expansion is one HMAC


def hedged(key: Secret, label: bytes, random: Random, size: int, *parts: Buffer) -> bytes:
    """Return `size` bytes, at most 64, for this label and these parts; about 5 us, and 2 us for each KiB of them.

    `key` is a sealing key with the label SALT, or one that `derive` made with the label HEDGE.
    """
    assert 0 < size <= _MOST, "one block"
    info = _info(label, random, parts)
    info += b"\1"
    try:
        return key.use(lambda bytes_: hmac.digest(bytes_, info, "sha512"))[:size]
    finally:
        info[:] = bytes(len(info))  # a part may be a key that is to be wrapped


def _info(label: bytes, random: Random, parts: Iterable[Buffer]) -> bytearray:
    info = bytearray(label + b"\0" + random(_ENTROPY))
    for part in parts:
        info += len(part).to_bytes(8, "big")
        info += part
    return info


def new_key(key: Secret, random: Random, *parts: Buffer) -> Secret:
    """Return a new 32-byte key, another one for other parts. `key` is one that `derive` made with the label HEDGE."""
    expand = HKDFExpand(algorithm=SHA512(), length=_KEY, info=bytes(_info(derive.NEW_KEY, random, parts)))
    return Secret.filled(_KEY, lambda out: key.use(lambda bytes_: expand.derive_into(bytes_, out)))


def first_key(random: Random, *parts: Buffer) -> Secret:
    """Return a new 32-byte key, another one for other parts, where no key is known yet that could hedge it."""
    return new_key(Secret(random(_KEY)), random, *parts)
