"""The sum over the index's rows, which shows whether they are those that were written (pure). See FORMAT.md, "meta".

Rule: it is kept twice: under a key, which nobody without it can imitate, and without, for whoever looks for accidents
and has no key (LMDB has no checksums). One writer writes it with every change; what rows mean is not known here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from coffer.index.backends.row_store import TABLES
from coffer.keys.crypto.derive import HEDGE, NONCE, SUM_MASK, SUM_ROWS, derive, hmac_sha256
from coffer.keys.crypto.hedge import Random, hedged
from coffer.keys.crypto.keyed_hash import keyed_hash
from coffer.keys.crypto.masked_sum import KEYED_BYTES, guarded, is_masked, masked, plain_hash, plain_in, unmasked
from coffer.keys.memory.secret import Secret

__all__ = ["RowSum", "Total"]

_NONCE: Final = 16
_HEAD: Final = _NONCE + KEYED_BYTES
_PLACES: Final = {name: number.to_bytes(1, "big") for number, name in enumerate(TABLES)}


@dataclass(slots=True)
class Total:
    """What rows add up to: their keyed hashes, if there is a key, and the others."""

    hashed: Callable[[bytes], int] | None
    keyed: int = 0
    plain: int = 0

    def add(self, table: str, key: bytes, value: bytes, sign: int = 1) -> None:
        """Add a row, or take it away with `sign` -1."""
        text = _PLACES[table] + len(key).to_bytes(2, "big") + key + value
        self.plain += sign * plain_hash(text)
        if self.hashed is not None:
            self.keyed += sign * self.hashed(text)


@dataclass(frozen=True, slots=True)
class RowSum:
    """The keys of an index's sum (None: only accidents are found), and the source of its nonces."""

    row_key: Secret | None = None
    mask_key: Secret | None = None
    hedge_key: Secret | None = None
    random: Random = field(default=bytes)

    @classmethod
    def under(cls, key: Secret, random: Random) -> RowSum:
        """Derive the keys from the index's INDEX_SUM."""
        return cls(derive(key, SUM_ROWS), derive(key, SUM_MASK), derive(key, HEDGE), random)

    def total(self) -> Total:
        """Return the sum of no rows, to add to: for one batch (see `keyed_hash`)."""
        return Total(None if self.row_key is None else keyed_hash(self.row_key))

    def opened(self, stored: bytes | None) -> Total:
        """Return what the rows added up to when the value of `sum` was written; of no rows where there is none."""
        found = self.total()
        if stored is not None and self.row_key is not None:
            found.keyed = unmasked(stored[_NONCE:_HEAD], self._mask(stored[:_NONCE]))
            found.plain = plain_in(stored)
        return found

    def sealed(self, total: Total) -> bytes:
        """Return the value of `sum`: nonce, masked keyed sum, accident sum of the rows and of these; 56 bytes."""
        assert self.hedge_key is not None
        state = masked(total.keyed, 0)  # two states of the index never get the same mask
        nonce = hedged(self.hedge_key, NONCE, self.random, _NONCE, state)
        return guarded(nonce + masked(total.keyed, self._mask(nonce)), total.plain)

    def is_right(self, stored: bytes | None, total: Total) -> bool:
        """Whether this is the sum of these rows; an absent one is that of none."""
        if stored is None:
            return (total.keyed, total.plain) == (0, 0)
        head = stored[:_HEAD]
        is_plain = stored == guarded(head, total.plain)
        if self.row_key is None:
            return is_plain
        return is_plain and is_masked(head[_NONCE:], total.keyed, self._mask(head[:_NONCE]))

    def _mask(self, nonce: bytes) -> int:
        """What hides the sum: otherwise two states of the index would show the hash of the row between them."""
        assert self.mask_key is not None
        return int.from_bytes(hmac_sha256(self.mask_key, nonce), "big")
