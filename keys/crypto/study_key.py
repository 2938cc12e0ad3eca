"""One study's key in memory, and the keys that are derived from it for each use.

Rule: whoever seals with it takes the key derived for that use, and never the DEK itself. It does not know where it is
kept, nor under what it is wrapped.
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
    """One study's key, and what is derived from it when it is first asked for, about 4 us each."""

    key_id: bytes
    dek: Secret

    @cached_property
    def blob(self) -> Secret:
        """What objects are sealed under (HKDF label blob)."""
        return derive.derive(self.dek, derive.BLOB)

    @cached_property
    def cid(self) -> Secret:
        """What content ids are made with (HKDF label cid)."""
        return derive.derive(self.dek, derive.CID)

    @cached_property
    def row(self) -> Secret:
        """What index rows are sealed under (HKDF label row)."""
        return derive.derive(self.dek, derive.ROW)

    @cached_property
    def kcv(self) -> bytes:
        """16 bytes by which the key is told from any other."""
        return derive.hmac_sha256(self.dek, derive.KCV)[:KCV_BYTES]
