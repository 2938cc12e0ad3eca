"""The sum over the index's rows, which shows whether they are those that were written (pure). See FORMAT.md, "meta".

Rule: it is kept twice: under a key, which nobody without it can imitate, and without, for whoever looks for accidents
and has no key (LMDB has no checksums). One writer writes it with every change; what rows mean is not known here.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from coffer.index.backends.row_store import TABLES
from coffer.keys.crypto.derive import hmac_sha256
from coffer.keys.crypto.keyed_hash import keyed_hash
from coffer.keys.memory.secret import Secret

__all__ = ["RowSum", "Total"]

_NONCE: Final = 16
_KEYED: Final = 32
_PLAIN: Final = 8  # enough against accidents
_KEYED_RANGE: Final = 1 << 8 * _KEYED
_PLAIN_RANGE: Final = 1 << 8 * _PLAIN
_MASK: Final = b"\xff"  # in the place of a table's number
_PLACES: Final = {name: number.to_bytes(1, "big") for number, name in enumerate(TABLES)}


def _plain(text: bytes) -> int:
    return int.from_bytes(sha256(text).digest()[:_PLAIN], "big")


@dataclass(slots=True)
class Total:
    """What rows add up to: their keyed hashes, if there is a key, and the others."""

    hashed: Callable[[bytes], int] | None
    keyed: int = 0
    plain: int = 0

    def add(self, table: str, key: bytes, value: bytes, sign: int = 1) -> None:
        """Add a row, or take it away with `sign` -1."""
        text = _PLACES[table] + len(key).to_bytes(2, "big") + key + value
        self.plain += sign * _plain(text)
        if self.hashed is not None:
            self.keyed += sign * self.hashed(text)


@dataclass(frozen=True, slots=True)
class RowSum:
    """The key of an index's sum (None: only accidents are found), and the source of its nonces."""

    key: Secret | None = None
    random: Callable[[int], bytes] = field(default=bytes)

    def total(self) -> Total:
        """Return the sum of no rows, to add to: for one batch (see `keyed_hash`)."""
        return Total(None if self.key is None else keyed_hash(self.key))

    def opened(self, stored: bytes | None) -> Total:
        """Return what the rows added up to when the value of `sum` was written; of no rows where there is none."""
        found = self.total()
        if stored is not None and self.key is not None:
            head = stored[: _NONCE + _KEYED]
            found.keyed = int.from_bytes(head[_NONCE:], "big") - self._mask(head[:_NONCE])
            found.plain = int.from_bytes(stored[len(head) :], "big") - _plain(head)
        return found

    def sealed(self, total: Total) -> bytes:
        """Return the value of `sum`: nonce, masked keyed sum, accident sum of the rows and of these; 56 bytes."""
        nonce = self.random(_NONCE)
        masked = (total.keyed + self._mask(nonce)) % _KEYED_RANGE
        return self._with_plain(nonce + masked.to_bytes(_KEYED, "big"), total)

    def _with_plain(self, head: bytes, total: Total) -> bytes:
        return head + ((total.plain + _plain(head)) % _PLAIN_RANGE).to_bytes(_PLAIN, "big")

    def is_right(self, stored: bytes | None, total: Total) -> bool:
        """Whether this is the sum of these rows; an absent one is that of none."""
        if stored is None:
            return (total.keyed, total.plain) == (0, 0)
        head = stored[: _NONCE + _KEYED]
        is_plain = stored == self._with_plain(head, total)
        if self.key is None:
            return is_plain
        masked = (total.keyed + self._mask(stored[:_NONCE])) % _KEYED_RANGE
        return is_plain and hmac.compare_digest(head[_NONCE:], masked.to_bytes(_KEYED, "big"))

    def _mask(self, nonce: bytes) -> int:
        """What hides the sum: otherwise two states of the index would show the hash of the row between them."""
        assert self.key is not None
        return int.from_bytes(hmac_sha256(self.key, _MASK + nonce), "big")
