"""Reversible filters for native pixel data: what the eye sees as smooth becomes bytes that compress.

Rule: pure, and exact for any bytes: words are unsigned and every difference wraps around, so a layout that does not fit
the data costs compression, never a bit. Filters see one long row of native words: the left neighbour of a row's first
pixel is the last one of the row above.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Words = NDArray[Any]  # unsigned integers of one size
Plane = NDArray[np.uint8]


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


_DTYPES: Final = {1: "u1", 2: "u2", 4: "u4"}
_STRIPS: Final = 4
_STRIP_ROWS: Final = 2
_BLOCK: Final = 16
_WIDE: Final = 128  # from here on a Python loop over rows beats numpy's own


def words_of(data: bytes | memoryview, word_bytes: int, *, big_endian: bool) -> Words:
    """The data as a row of native words. Its length must be a multiple of theirs."""
    dtype = np.dtype((">" if big_endian else "<") + _DTYPES[word_bytes])
    return np.frombuffer(data, dtype).astype(dtype.newbyteorder("="), copy=False)


def choose(words: Words, width: int, step: int, cost: Callable[[Iterable[Plane]], int]) -> Filter:
    """The filter under which a sample of the image costs least: a few strips of rows from everywhere in it."""
    rows = words.reshape(-1, width)
    last = len(rows) - _STRIP_ROWS - 1
    if last <= 0 or width <= step:
        return Filter.LEFT
    strips = np.stack([rows[at : at + _STRIP_ROWS + 1] for at in range(0, last + 1, max(last // _STRIPS, 1))])
    here = strips[:, 1:, step:]
    residuals = {
        Filter.PLANES: here,
        Filter.LEFT: here - strips[:, 1:, :-step],
        Filter.UP: here - strips[:, :-1, step:],
    }
    residuals[Filter.BOTH] = residuals[Filter.UP] - (strips[:, 1:, :-step] - strips[:, :-1, :-step])
    return min(residuals, key=lambda f: cost(_planes(residuals[f].ravel(), is_signed=f is not Filter.PLANES)))


def apply(words: Words, width: int, choice: Filter, step: int) -> list[Plane]:
    """Filtered words as byte planes, most significant first.

    `width` is the distance to the pixel above, `step` to the left one of the same sample; before the first lies 0.
    """
    if choice in (Filter.LEFT, Filter.BOTH):
        words = _minus(words, step)
    if choice in (Filter.UP, Filter.BOTH):
        words = _minus(words, width)
    return _planes(words, is_signed=choice is not Filter.PLANES)


def undo(planes: list[Plane], width: int, choice: Filter, step: int, *, big_endian: bool) -> bytes:
    """The bytes that `apply` was given, in their byte order; whole rows of whole pixels."""
    native = np.dtype(_DTYPES[len(planes)])
    words = planes[0].astype(native)
    for plane in planes[1:]:
        words <<= 8
        words |= plane
    if choice is not Filter.PLANES:
        sign = np.negative(words & 1)
        words >>= 1
        words ^= sign
    if choice in (Filter.UP, Filter.BOTH):
        _add_up(words, width)
    if choice in (Filter.LEFT, Filter.BOTH):
        _add_up(words, step)
    return words.astype(native.newbyteorder(">" if big_endian else "<"), copy=False).tobytes()


def _add_up(words: Words, distance: int) -> None:
    """Add to each word the one `distance` before it, from front to back: undoes `_minus`."""
    if distance == 1 and not words.size % _BLOCK:
        # accumulate goes word by word; columns of blocks go sixteen at a time, and then the blocks are joined.
        blocks = words.reshape(-1, _BLOCK)
        for i in range(1, _BLOCK):
            np.add(blocks[:, i], blocks[:, i - 1], out=blocks[:, i])
        blocks[1:] += np.add.accumulate(blocks[:-1, -1], dtype=words.dtype)[:, None]
        return
    rows = words.reshape(-1, distance)
    if distance < _WIDE:
        np.add.accumulate(rows, axis=0, dtype=words.dtype, out=rows)
        return
    for i in range(1, len(rows)):
        np.add(rows[i], rows[i - 1], out=rows[i])


def _minus(words: Words, distance: int) -> Words:
    """Each word minus the one `distance` before it."""
    out = np.empty_like(words)
    out[:distance] = words[:distance]
    np.subtract(words[distance:], words[:-distance], out=out[distance:])
    return out


def _planes(words: Words, *, is_signed: bool) -> list[Plane]:
    """One array for each byte of the words; of signed ones after zigzag: small numbers of either sign become small."""
    bits = words.dtype.itemsize * 8
    if is_signed:
        sign = words.view(np.dtype(f"i{words.dtype.itemsize}")) >> (bits - 1)
        words = words << 1
        words ^= sign.view(words.dtype)
    # Assigning to bytes keeps the lowest eight bits of each word.
    planes = []
    for shift in range(bits - 8, -1, -8):
        plane = np.empty(words.shape, np.uint8)
        np.copyto(plane, words >> shift if shift else words, casting="unsafe")
        planes.append(plane)
    return planes
