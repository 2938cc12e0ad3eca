"""Reversible filters for native pixel data: what the eye sees as smooth becomes bytes that compress.

Rule: pure, and exact for any bytes: words are unsigned and every difference wraps around, so a layout that does not fit
the data costs compression, never a bit. Filters work on rows of words in the stored byte order.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.unsignedinteger]


@dataclass(frozen=True, slots=True)
class PixelLayout:
    """Where native pixel data lies in a data set and how it is shaped: a hint, checked before it is used.

    Offsets and lengths are bytes; `rows` and `columns` count pixels, `frames` images.
    """

    offset: int
    length: int
    rows: int
    columns: int
    samples: int
    bits_allocated: int
    frames: int
    big_endian: bool = False


class Filter(IntEnum):
    """What is done to words before their bytes are separated into planes."""

    PLANES = 0  # nothing: best where much is exactly equal
    LEFT = 1  # minus the pixel to the left
    UP = 2  # minus the pixel above
    BOTH = 3  # left, then above: minus (left + above - above left)


_DTYPES: Final = {2: "u2", 4: "u4", 1: "u1"}


def words_of(data: bytes | memoryview, width: int, word_bytes: int, *, big_endian: bool) -> Words:
    """The data as rows of `width` words. Its length must be a multiple of both."""
    dtype = np.dtype((">" if big_endian else "<") + _DTYPES[word_bytes])
    flat = np.frombuffer(data, dtype).astype(dtype.newbyteorder("="), copy=False)
    return flat.reshape(-1, width)


def apply(rows: Words, choice: Filter, step: int) -> bytes:
    """Filtered words as byte planes, most significant first. `step` is the distance to the same sample's left pixel."""
    out = rows
    if choice in (Filter.LEFT, Filter.BOTH):
        out = out.copy()
        out[:, step:] = rows[:, step:] - rows[:, :-step]
    if choice in (Filter.UP, Filter.BOTH):
        below = out.copy()
        below[1:] = out[1:] - out[:-1]
        out = below
    if choice is not Filter.PLANES:
        out = _zigzag(out)
    return _planes(out)


def undo(data: bytes, width: int, word_bytes: int, choice: Filter, step: int, *, big_endian: bool) -> bytes:
    """The bytes that `apply` was given, in their byte order."""
    planes = np.frombuffer(data, np.uint8).reshape(word_bytes, -1)
    native = np.dtype(_DTYPES[word_bytes])
    words = np.empty(planes.shape[1], native.newbyteorder("<"))
    as_bytes = words.view(np.uint8).reshape(-1, word_bytes)
    for i in range(word_bytes):
        as_bytes[:, word_bytes - 1 - i] = planes[i]
    rows = words.astype(native, copy=False).reshape(-1, width)
    if choice is not Filter.PLANES:
        rows = _unzigzag(rows)
    if choice in (Filter.UP, Filter.BOTH):
        np.add.accumulate(rows, axis=0, dtype=native, out=rows)
    if choice in (Filter.LEFT, Filter.BOTH):
        for sample in range(step):
            part = rows[:, sample::step]
            np.add.accumulate(part, axis=1, dtype=native, out=part)
    return rows.astype(native.newbyteorder(">" if big_endian else "<"), copy=False).tobytes()


def _zigzag(words: Words) -> Words:
    """Small differences of either sign become small numbers."""
    bits = words.dtype.itemsize * 8
    signed = words.view(np.dtype(f"i{words.dtype.itemsize}"))
    return ((words << 1) ^ (signed >> (bits - 1)).view(words.dtype)).astype(words.dtype, copy=False)


def _unzigzag(words: Words) -> Words:
    one = words.dtype.type(1)
    return ((words >> one) ^ (~(words & one) + one)).astype(words.dtype, copy=False)


def _planes(words: Words) -> bytes:
    size = words.dtype.itemsize
    little = np.ascontiguousarray(words.astype(words.dtype.newbyteorder("<"), copy=False))
    by_byte = little.view(np.uint8).reshape(-1, size)
    out = np.empty((size, by_byte.shape[0]), np.uint8)
    for i in range(size):
        out[i] = by_byte[:, size - 1 - i]
    return out.tobytes()
