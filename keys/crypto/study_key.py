"""One study's key in memory, and the keys derived from it for each use.

Rule: data is sealed under the key derived for its use, never under the DEK itself. It does not know where the DEK is
stored or what wraps it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

from coffer.keys.crypto import derive
from coffer.keys.memory.secret import Secret

__all__ = ["KCV_BYTES", "StudyKey"]

KCV_BYTES: Final = 16


@dataclass(frozen=True, eq=False)
class StudyKey:
    """One study's key, and the keys derived from it on first use, about 4 us each."""

    key_id: bytes
    dek: Secret

    @cached_property
    def blob(self) -> Secret:
        """The key that seals objects (HKDF label blob)."""
        return derive.derive(self.dek, derive.BLOB)

    @cached_property
    def cid(self) -> Secret:
        """The key of content ids (HKDF label cid)."""
        return derive.derive(self.dek, derive.CID)

    @cached_property
    def row(self) -> Secret:
        """The key that seals index rows (HKDF label row)."""
        return derive.derive(self.dek, derive.ROW)

    def hidden(self, token: bytes) -> bytes:
        """Return a token of 16 bytes hidden under this key, for the log, or the token that was hidden. When the key is
        destroyed nobody can compare the result with anything."""
        pad = derive.derive(self.dek, derive.ERASED_NAME, len(token)).reveal()
        return bytes(left ^ right for left, right in zip(token, pad, strict=True))

    @cached_property
    def kcv(self) -> bytes:
        """The 16-byte key-check value, which identifies the key without revealing it."""
        return derive.derive(self.dek, derive.KCV, KCV_BYTES).reveal()
