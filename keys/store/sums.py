"""The sums over a keyring's rows, which show whether they are those that were written (pure). See FORMAT.md, "Sums".

Rule: a sum belongs to one of 256 buckets of rows, so that a change writes only the sums of the rows that it touches.
Each is kept twice: under keys, which nobody without them can imitate, and without, for whoever looks for accidents and
has no key (LMDB has no checksums). One row, the fold, says which buckets belong to this continuation of the keyring,
and not to an older state or to a copy that went its own way. What rows mean is not known here.
"""

from __future__ import annotations

import string
import struct
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
    "is_sum",
    "prefixes_of",
    "require_known",
    "sum_key",
]

SUM_PREFIX: Final = b"S"
FOLD_KEY: Final = SUM_PREFIX  # the lineage, and the state of every bucket when it began; in bucket 0, as any row
BUCKETS: Final = 256
LETTERS: Final = string.ascii_letters.encode()  # with which the rows of a keyring begin
_GENERATION: Final = 8
_LINEAGE: Final = 16
_NONCE: Final = 16
_STATE: Final = _GENERATION + _NONCE  # of a bucket, in the fold
_LAYOUT: Final = struct.Struct(f">Q{_LINEAGE}s{_NONCE}s{KEYED_BYTES}s{PLAIN_BYTES}x")

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


class Fold(NamedTuple):
    """What row FOLD_KEY says: the lineage under which every bucket is written since (16 bytes), and of every bucket the
    generation and nonce that it had then, 24 bytes each. See ADR 32."""

    lineage: bytes
    states: bytes

    @classmethod
    def decode(cls, data: bytes | None) -> Fold:
        """Return what is in the row. Raises IntegrityError where it is gone or has another length."""
        if data is None or len(data) != _LINEAGE + BUCKETS * _STATE:
            raise altered()
        return cls(data[:_LINEAGE], data[_LINEAGE:])

    def knows(self, bucket: int, row: bytes) -> bool:
        """Whether a bucket, the row with whose sums this is, is as it was then, or was written since in this
        continuation of the keyring and no other. Compared as bytes: a generation is big-endian."""
        then = self.states[bucket * _STATE : (bucket + 1) * _STATE]
        if _state(row) == then:
            return True
        return row[_GENERATION : _GENERATION + _LINEAGE] == self.lineage and row[:_GENERATION] > then[:_GENERATION]


def require_known(sums: Iterable[tuple[bytes, bytes]]) -> None:
    """Raise IntegrityError unless these are all rows under SUM_PREFIX in one state, and every bucket is one that the
    fold among them knows."""
    found = dict(sums)
    _known(found.get)


def _known(get: Get) -> list[bytes]:
    """The rows with the sums of every bucket, none of which is unknown to the fold."""
    fold = Fold.decode(get(FOLD_KEY))
    return [_read(get, bucket, fold) for bucket in range(BUCKETS)]


def _read(get: Get, bucket: int, fold: Fold) -> bytes:
    """The row with the sums of a bucket that the fold knows. Raises IntegrityError where there is none; FormatError."""
    row = get(sum_key(bucket))
    if row is not None:
        _require_length(row)
    if row is None or not fold.knows(bucket, row):
        raise altered()
    return row


def _require_length(row: bytes) -> None:
    if len(row) != _LAYOUT.size:
        raise FormatError("a sum of the keyring has the wrong length")


def _state(row: bytes) -> bytes:
    """What the fold keeps of a row with sums: generation and nonce."""
    return row[:_GENERATION] + row[_GENERATION + _LINEAGE : _GENERATION + _LINEAGE + _NONCE]


class _Sums(NamedTuple):
    """A row with the sums of a bucket: generation, the lineage and the nonce of its last change, masked keyed sum, and
    the accident sum of the rows as a number. On disk the latter covers the other fields, too."""

    generation: int
    lineage: bytes
    nonce: bytes
    keyed: bytes
    plain: int

    def encode(self) -> bytes:
        return guarded(
            self.generation.to_bytes(_GENERATION, "big") + self.lineage + self.nonce + self.keyed, self.plain
        )

    @classmethod
    def decode(cls, data: bytes) -> _Sums:
        _require_length(data)
        generation, lineage, nonce, keyed = _LAYOUT.unpack(data)
        return cls(generation, lineage, nonce, keyed, plain_in(data))


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

    def mask(self, bucket: int, generation: int, lineage: bytes, nonce: bytes) -> int:
        """Return what hides a bucket's sum: otherwise two states of it would show the hash of the row between them."""
        place = bytes([bucket]) + generation.to_bytes(_GENERATION, "big") + lineage + nonce
        return int.from_bytes(derive.hmac_sha256(self.mask_key, place), "big")

    def first_fold(self) -> bytes:
        """Return the fold of a store that has no row yet."""
        return self.random(_LINEAGE) + bytes(BUCKETS * _STATE)

    def fold(self, get: Get) -> bytes:
        """Return the fold of the rows that `get` reads, with a new lineage. Raises IntegrityError where some bucket is
        of another continuation, or older than the fold before, or gone."""
        return self.random(_LINEAGE) + b"".join(map(_state, _known(get)))

    def first(self, rows: Mapping[bytes, bytes | None]) -> dict[bytes, bytes]:
        """Return the sums of every bucket of a store that holds nothing but these rows, its fold among them."""
        empty = {bucket: _Sums(0, b"", b"", b"", 0) for bucket in range(BUCKETS)}
        return self._written(empty, dict.fromkeys(empty, 0), dict.fromkeys(rows), rows, Fold.decode(rows[FOLD_KEY]))

    def moved(
        self, get: Get, before: Mapping[bytes, bytes | None], after: Mapping[bytes, bytes | None]
    ) -> dict[bytes, bytes]:
        """Return the sums that a change of rows from `before` to `after` (None: absent) moves.

        `get` reads the rows before the change. Raises IntegrityError where a sum is gone, or the bucket is one that the
        fold does not know; FormatError.
        """
        fold = Fold.decode(get(FOLD_KEY))
        changed = {bucket_of(key) for key, value in after.items() if before[key] != value}
        kept = {bucket: _Sums.decode(_read(get, bucket, fold)) for bucket in changed}
        totals = {
            bucket: unmasked(was.keyed, self.mask(bucket, was.generation, was.lineage, was.nonce))
            for bucket, was in kept.items()
        }
        return self._written(kept, totals, before, after, Fold.decode(after.get(FOLD_KEY) or get(FOLD_KEY)))

    def _written(
        self,
        kept: Mapping[int, _Sums],
        totals: dict[int, int],
        before: Mapping[bytes, bytes | None],
        after: Mapping[bytes, bytes | None],
        fold: Fold,
    ) -> dict[bytes, bytes]:
        """The rows of sums that follow these, of the fold's lineage: `totals` are the keyed ones, unmasked."""
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
            sum_key(bucket): self._sealed(bucket, was.generation + 1, fold.lineage, totals[bucket], plain[bucket])
            for bucket, was in kept.items()
        }

    def _sealed(self, bucket: int, generation: int, lineage: bytes, keyed: int, plain: int) -> bytes:
        state = masked(keyed, 0)  # two states of a bucket never get the same mask
        nonce = hedged(self.hedge_key, derive.NONCE, self.random, _NONCE, bytes([bucket]), state)
        mask = self.mask(bucket, generation, lineage, nonce)
        return _Sums(generation, lineage, nonce, masked(keyed, mask), plain).encode()

    def is_right(self, bucket: int, kept: _Sums, total: int) -> bool:
        """Whether this is the keyed sum of a bucket whose rows' hashes add up to `total`."""
        return is_masked(kept.keyed, total, self.mask(bucket, kept.generation, kept.lineage, kept.nonce))


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
            self.follow(value)
        self._found[bucket_of(key)] += self._hash(_text(key, value))

    def follow(self, fold: bytes | None) -> None:
        """Judge by this fold, which is among the rows to add or was found right before."""
        self._fold = fold

    def wrong(self, buckets: Iterable[int]) -> list[int]:
        """Return those of these buckets, all rows of which were added and the fold, that are not as they were written,
        or not in this continuation of the keyring."""
        return [bucket for bucket in buckets if not self._is_right(bucket)]

    def _is_right(self, bucket: int) -> bool:
        try:
            kept = _Sums.decode(row := self._kept.get(bucket, b""))
            if not Fold.decode(self._fold).knows(bucket, row):
                return False
        except IntegrityError:
            return False
        if self._sums is None:
            return is_plain(kept.plain, self._found[bucket])
        return self._sums.is_right(bucket, kept, self._found[bucket])
