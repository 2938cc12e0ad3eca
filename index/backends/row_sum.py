"""The sums over the index's rows, which show whether they are those that were written (pure). See FORMAT.md, "Sums".

Rule: a sum belongs to a bucket of neighbouring rows, so that a lookup checks no more than the rows around what it
reads; one more sum covers these sums. Each is kept twice: under a key, which nobody without it can imitate, and
without, for whoever looks for accidents and has no key (LMDB has no checksums). What rows mean is not known here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from coffer.index.backends.row_store import SUMS, TABLES
from coffer.keys.crypto.derive import HEDGE, NONCE, SUM_MASK, SUM_ROWS, derive
from coffer.keys.crypto.hedge import Random, hedged
from coffer.keys.crypto.keyed_hash import keyed_hash
from coffer.keys.crypto.masked_sum import KEYED_BYTES, guarded, is_masked, masked, plain_hash, plain_in, unmasked
from coffer.keys.memory.secret import Secret

__all__ = ["BUCKETED", "Batch", "RowSum", "Total", "behind", "bucket_of", "place_of", "table_of"]

BUCKETED: Final = TABLES[1:]  # `meta`, of a few rows, is covered together with the sums of the buckets
_NONCE: Final = 16
_DRAWN: Final = 32  # random bytes for the nonces of one batch
_HEAD: Final = _NONCE + KEYED_BYTES
_PLACES: Final = {name: number.to_bytes(1, "big") for number, name in enumerate((*TABLES, SUMS))}
# How many bytes of a key name its bucket, and which bits of the last of them: 4,096 buckets of the tokens of each kind,
# one of 256 parts' rows of a study or series, and one of 16 parts' instances.
_NAMED: Final = {"uid": (3, 0xF0), "study": (7, 0xFF), "series": (7, 0xFF), "instance": (8, 0xF0)}
_ALL: Final = 1 << 8 * KEYED_BYTES
_ALL_PLAIN: Final = 1 << 64


def bucket_of(table: str, key: bytes) -> bytes:
    """Return the name of a row's bucket: the least key that may be in it. Buckets are in the order of their rows."""
    size, bits = _NAMED[table]
    if len(key) < size:
        return key
    return key[: size - 1] + bytes([key[size - 1] & bits])


def behind(table: str, bucket: bytes) -> bytes | None:
    """Return the least key behind all keys of a bucket; None where there is none."""
    size, bits = _NAMED[table]
    if len(bucket) < size:
        return bucket + b"\0"
    following = int.from_bytes(bucket, "big") + (bits & -bits)
    return following.to_bytes(size, "big") if following < 1 << 8 * size else None


def place_of(table: str, bucket: bytes) -> bytes:
    """Return the key of a bucket's sum: the number of its table, and its name."""
    return _PLACES[table] + bucket


def table_of(place: bytes) -> tuple[str, bytes]:
    """Return table and bucket of the key of a sum. Raises ValueError for one that no bucket has."""
    number = place[0] if place else 0
    if not 0 < number < len(TABLES):
        raise ValueError("a sum of no table")
    return TABLES[number], place[1:]


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

    @property
    def is_none(self) -> bool:
        """Whether this is the sum of no row."""
        return self.keyed % _ALL == 0 and self.plain % _ALL_PLAIN == 0


@dataclass(frozen=True, slots=True)
class RowSum:
    """The keys of an index's sums (None: only accidents are found), and the source of their nonces."""

    row_key: Secret | None = None
    mask_key: Secret | None = None
    hedge_key: Secret | None = None
    random: Random = field(default=bytes)

    @classmethod
    def under(cls, key: Secret, random: Random) -> RowSum:
        """Derive the keys from the index's INDEX_SUM."""
        return cls(derive(key, SUM_ROWS), derive(key, SUM_MASK), derive(key, HEDGE), random)

    @property
    def is_keyed(self) -> bool:
        """Whether it finds more than accidents, and can make sums."""
        return self.row_key is not None

    def batch(self) -> Batch:
        """Return what makes and compares sums for one batch of rows: see `keyed_hash`."""
        if self.row_key is None or self.mask_key is None or self.hedge_key is None:
            return Batch()
        drawn = self.random(_DRAWN)
        return Batch(
            keyed_hash(self.row_key),
            keyed_hash(self.mask_key),
            partial(hedged, self.hedge_key, NONCE, lambda _size: drawn, _NONCE),
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """Makes and compares sums. `place` is the key of a bucket's sum, empty for the sum of the sums."""

    hashed: Callable[[bytes], int] | None = None
    mask: Callable[[bytes], int] | None = None
    nonce: Callable[[bytes, bytes], bytes] | None = None  # for a place and its state: another one for each

    def total(self) -> Total:
        """Return the sum of no rows, to add to."""
        return Total(self.hashed)

    def opened(self, stored: bytes | None, place: bytes) -> Total:
        """Return what the rows of a place added up to when its sum was written; of no rows where there is none."""
        found = self.total()
        if stored is not None and self.mask is not None:
            found.keyed = unmasked(stored[_NONCE:_HEAD], self.mask(place + stored[:_NONCE]))
            found.plain = plain_in(stored)
        return found

    def sealed(self, total: Total, place: bytes) -> bytes:
        """Return a sum as it is stored: nonce, masked keyed sum, accident sum of the rows and of these; 56 bytes.

        The mask hides the sum: otherwise two states of the index would show the hash of the row between them.
        """
        assert self.mask is not None
        assert self.nonce is not None
        nonce = self.nonce(place, masked(total.keyed, 0))  # two states of a place never get the same mask
        return guarded(nonce + masked(total.keyed, self.mask(place + nonce)), total.plain)

    def is_right(self, stored: bytes | None, place: bytes, total: Total) -> bool:
        """Whether this is the sum of a place's rows; an absent one is that of none."""
        if stored is None:
            return (total.keyed, total.plain) == (0, 0)
        head = stored[:_HEAD]
        is_plain = stored == guarded(head, total.plain)
        if self.mask is None:
            return is_plain
        return is_plain and is_masked(head[_NONCE:], total.keyed, self.mask(place + head[:_NONCE]))
