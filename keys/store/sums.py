"""The sums over a keyring's rows, which show whether they are those that were written (pure). See FORMAT.md, "Sums".

Rule: a sum belongs to one of 256 buckets of rows, so that a change writes only the sums of the rows that it touches.
Each is kept twice: under keys, which nobody without them can imitate, and without, for whoever looks for accidents and
has no key (LMDB has no checksums). What rows mean is not known here.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from coffer.keys.crypto import derive
from coffer.keys.crypto.hedge import Random, hedged
from coffer.keys.crypto.keyed_hash import keyed_hash
from coffer.keys.crypto.masked_sum import (
    KEYED_BYTES,
    PLAIN_BYTES,
    guarded,
    is_masked,
    is_plain,
    masked,
    plain_hash,
    plain_in,
    unmasked,
)
from coffer.keys.errors import FormatError, IntegrityError
from coffer.keys.memory.secret import Secret

__all__ = [
    "BUCKETS",
    "FOLD_KEY",
    "LETTERS",
    "SUM_PREFIX",
    "RowSums",
    "Totals",
    "altered",
    "bucket_of",
    "folded",
    "is_older",
    "is_sum",
    "prefixes_of",
    "sum_key",
]

SUM_PREFIX: Final = b"S"
FOLD_KEY: Final = SUM_PREFIX  # the state of every bucket at the last checkpoint; in bucket 0, as any row
BUCKETS: Final = 256
LETTERS: Final = string.ascii_letters.encode()  # with which the rows of a keyring begin
_GENERATION: Final = 8
_NONCE: Final = 16
_SUM: Final = _GENERATION + _NONCE + KEYED_BYTES + PLAIN_BYTES

Get = Callable[[bytes], bytes | None]


def altered() -> IntegrityError:
    """Return the error for rows that are not those that were written."""
    return IntegrityError(
        "rows of the keyring were removed, altered or put back, by an accident or by somebody who writes the disk",
        hint="stop the server, put the newest copy of the keyring folder back, then run coffer keys audit",
    )


def bucket_of(key: bytes) -> int:
    """Return the number of a row's bucket: the byte behind its letter, 0 where there is none."""
    return key[1] if len(key) > 1 else 0


def sum_key(bucket: int) -> bytes:
    """Return the key of the row with a bucket's sums."""
    return SUM_PREFIX + bytes([bucket])


def is_sum(key: bytes) -> bool:
    """Whether this row holds the sums of a bucket. It is in no bucket itself."""
    return len(key) == 2 and key[:1] == SUM_PREFIX


def prefixes_of(bucket: int) -> Iterator[bytes]:
    """Yield a prefix for each letter: under them are all rows of a bucket but those whose key is a letter alone."""
    return (bytes([letter, bucket]) for letter in LETTERS)


def folded(sums: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return the state of every bucket, to be kept in the row FOLD_KEY: generation and nonce, 24 bytes each, of these
    rows of sums in their order. Raises IntegrityError where one is gone."""
    found = [value[: _GENERATION + _NONCE] for key, value in sums if is_sum(key)]
    if len(found) != BUCKETS:
        raise altered()
    return b"".join(found)


def is_older(now: bytes, before: bytes | None) -> bool:
    """Whether some bucket in the state `now` was put back since the state `before` was kept (None: never); both as
    `folded` returns them."""
    if before is None:
        return False
    size = _GENERATION + _NONCE
    pairs = ((now[at : at + size], before[at : at + size]) for at in range(0, max(len(now), len(before)), size))
    return any(a[:_GENERATION] < b[:_GENERATION] or (a[:_GENERATION] == b[:_GENERATION] and a != b) for a, b in pairs)


class _Sums(NamedTuple):
    """A row with the sums of a bucket: generation, nonce, masked keyed sum, and the accident sum of the rows as a
    number. On disk the latter covers the other fields, too."""

    generation: int
    nonce: bytes
    keyed: bytes
    plain: int

    def encode(self) -> bytes:
        return guarded(self.generation.to_bytes(_GENERATION, "big") + self.nonce + self.keyed, self.plain)

    @classmethod
    def decode(cls, data: bytes) -> _Sums:
        if len(data) != _SUM:
            raise FormatError("a sum of the keyring has the wrong length")
        nonce, keyed, plain = _GENERATION, _GENERATION + _NONCE, _SUM - PLAIN_BYTES
        return cls(int.from_bytes(data[:nonce], "big"), data[nonce:keyed], data[keyed:plain], plain_in(data))


def _text(key: bytes, value: bytes) -> bytes:
    """What is hashed of a row: u16 key length || key || value."""
    return len(key).to_bytes(2, "big") + key + value


@dataclass(frozen=True, slots=True)
class RowSums:
    """The keys of the sums of one keyring, and the source of their nonces."""

    row_key: Secret
    mask_key: Secret
    hedge_key: Secret
    random: Random

    @classmethod
    def under(cls, root: Secret, random: Random) -> RowSums:
        """Derive them from the archive root key."""
        rows, masks = derive.derive(root, derive.KEYRING_SUM), derive.derive(root, derive.KEYRING_MASK)
        return cls(rows, masks, derive.derive(root, derive.HEDGE), random)

    def mask(self, bucket: int, generation: int, nonce: bytes) -> int:
        """Return what hides a bucket's sum: otherwise two states of it would show the hash of the row between them."""
        place = bytes([bucket]) + generation.to_bytes(_GENERATION, "big") + nonce
        return int.from_bytes(derive.hmac_sha256(self.mask_key, place), "big")

    def first(self, rows: Mapping[bytes, bytes | None]) -> dict[bytes, bytes]:
        """Return the sums of every bucket of a store that holds nothing but these rows."""
        empty = {bucket: _Sums(0, bytes(_NONCE), b"", 0) for bucket in range(BUCKETS)}
        return self._written(empty, dict.fromkeys(empty, 0), dict.fromkeys(rows), rows)

    def moved(
        self, get: Get, before: Mapping[bytes, bytes | None], after: Mapping[bytes, bytes | None]
    ) -> dict[bytes, bytes]:
        """Return the sums that a change of rows from `before` to `after` (None: absent) moves.

        `get` reads the rows before the change. Raises IntegrityError where a sum is gone, FormatError.
        """
        kept: dict[int, _Sums] = {}
        for bucket in {bucket_of(key) for key, value in after.items() if before[key] != value}:
            value = get(sum_key(bucket))
            if value is None:
                raise altered()
            kept[bucket] = _Sums.decode(value)
        totals = {
            bucket: unmasked(was.keyed, self.mask(bucket, was.generation, was.nonce)) for bucket, was in kept.items()
        }
        return self._written(kept, totals, before, after)

    def _written(
        self,
        kept: Mapping[int, _Sums],
        totals: dict[int, int],
        before: Mapping[bytes, bytes | None],
        after: Mapping[bytes, bytes | None],
    ) -> dict[bytes, bytes]:
        """The rows of sums that follow these: `totals` are the keyed ones, unmasked."""
        plain = {bucket: was.plain for bucket, was in kept.items()}
        keyed = keyed_hash(self.row_key)
        for key, new in after.items():
            old, bucket = before[key], bucket_of(key)
            if old == new:
                continue
            for value, sign in ((old, -1), (new, 1)):
                if value is not None:
                    text = _text(key, value)
                    totals[bucket] += sign * keyed(text)
                    plain[bucket] += sign * plain_hash(text)
        return {
            sum_key(bucket): self._sealed(bucket, was.generation + 1, totals[bucket], plain[bucket])
            for bucket, was in kept.items()
        }

    def _sealed(self, bucket: int, generation: int, keyed: int, plain: int) -> bytes:
        state = masked(keyed, 0)  # two states of a bucket never get the same mask
        nonce = hedged(self.hedge_key, derive.NONCE, self.random, _NONCE, bytes([bucket]), state)
        return _Sums(generation, nonce, masked(keyed, self.mask(bucket, generation, nonce)), plain).encode()

    def is_right(self, bucket: int, kept: _Sums, total: int) -> bool:
        """Whether this is the keyed sum of a bucket whose rows' hashes add up to `total`."""
        return is_masked(kept.keyed, total, self.mask(bucket, kept.generation, kept.nonce))


class Totals:
    """Adds up rows as they are, and compares them with the sums among them: the keyed ones, or without `sums` those
    that only an accident leaves wrong."""

    def __init__(self, sums: RowSums | None) -> None:
        self._sums = sums
        self._hash = plain_hash if sums is None else keyed_hash(sums.row_key)
        self._found = [0] * BUCKETS
        self._kept: dict[int, bytes] = {}
        self._fold: bytes | None = None

    def add(self, key: bytes, value: bytes) -> None:
        """Add one row."""
        if is_sum(key):
            self._kept[key[1]] = value
            return
        if key == FOLD_KEY:
            self._fold = value
        self._found[bucket_of(key)] += self._hash(_text(key, value))

    def wrong(self, buckets: Iterable[int]) -> list[int]:
        """Return those of these buckets, all rows of which were added, that are not as they were written."""
        return [bucket for bucket in buckets if not self._is_right(bucket)]

    def is_older(self) -> bool:
        """Whether a bucket was put back since the last checkpoint, or is gone. All rows were added."""
        try:
            return is_older(
                folded((sum_key(bucket), value) for bucket, value in sorted(self._kept.items())), self._fold
            )
        except IntegrityError:
            return True

    def _is_right(self, bucket: int) -> bool:
        try:
            kept = _Sums.decode(self._kept.get(bucket, b""))
        except FormatError:
            return False
        if self._sums is None:
            return is_plain(kept.plain, self._found[bucket])
        return self._sums.is_right(bucket, kept, self._found[bucket])
