"""Reversible filters for native pixel data: what the eye sees as smooth becomes small numbers.

Rule: pure, and exact for any bytes: words are unsigned and every difference wraps around, so a layout that does not fit
the data costs compression, never a bit. Filters see one long row of native words: the left neighbour of a row's first
pixel is the last one of the row above.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from archive import strata
from archive.scratch import Scratch
from archive.strata import BLOCK

Words = NDArray[Any]  # unsigned integers of one size


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
    """What is subtracted from words before they are separated by size."""

    NONE = 0  # nothing: best where the background is noise, or much is exactly 0
    LEFT = 1  # the pixel to the left
    UP = 2  # the pixel above
    BOTH = 3  # left, then above: left + above - above left


_DTYPES: Final = {1: "u1", 2: "u2", 4: "u4"}
_SAMPLED_ROWS: Final = 12
_GROUP: Final = 16


def words_of(data: bytes | bytearray | memoryview, word_bytes: int, *, big_endian: bool) -> Words:
    """The data as a row of native words. Its length must be a multiple of theirs."""
    dtype = np.dtype((">" if big_endian else "<") + _DTYPES[word_bytes])
    return np.frombuffer(data, dtype).astype(dtype.newbyteorder("="), copy=False)


def choose(words: Words, width: int, step: int) -> Filter:
    """The filter that leaves the fewest bits in a sample of the image: rows from everywhere in it."""
    rows = words.reshape(-1, width)
    if len(rows) < 2 or width <= step:
        return Filter.LEFT
    places = np.arange(1, len(rows), max(len(rows) // _SAMPLED_ROWS, 1))
    sample, above = rows[places], rows[places - 1]
    here, left, up, corner = sample[:, step:], sample[:, :-step], above[:, step:], above[:, :-step]
    residuals = np.zeros((len(Filter), -(-here.size // BLOCK) * BLOCK), words.dtype)
    none, minus_left, minus_up, minus_both = (r[: here.size].reshape(here.shape) for r in residuals)
    np.copyto(none, here)
    np.subtract(here, left, out=minus_left)
    np.subtract(here, up, out=minus_up)
    np.subtract(minus_up, left - corner, out=minus_both)
    folded = np.empty_like(residuals)
    folded[Filter.NONE] = residuals[Filter.NONE]
    strata.fold(residuals[Filter.LEFT :], folded[Filter.LEFT :])
    bits = strata.bits_of(folded.reshape(-1)).reshape(len(Filter), -1)
    return Filter(int(bits.sum(axis=1, dtype=np.int64).argmin()))


def apply(words: Words, width: int, choice: Filter, step: int, scratch: Scratch) -> Words:
    """Filtered words, then zeros up to a whole block. They lie in the scratch's first room.

    `width` is the distance to the pixel above, `step` to the left one of the same sample; before the first lies 0.
    """
    whole = -(-words.size // BLOCK) * BLOCK
    out, between = (scratch.array(room, words.dtype, whole) for room in (0, 1))
    if choice is Filter.BOTH:
        words = _minus(words, step, between[: words.size])
    if choice is Filter.NONE:
        out[: words.size] = words
    else:
        _minus(words, step if choice is Filter.LEFT else width, out[: words.size])
    out[words.size :] = 0
    return out


def undo(words: Words, count: int, width: int, choice: Filter, step: int, *, big_endian: bool) -> bytes:
    """The bytes of the first `count` of `words`, in their byte order; they are whole blocks. Changes `words`."""
    if choice in (Filter.UP, Filter.BOTH):
        _add_up(words[:count].reshape(-1, width))
    if choice in (Filter.LEFT, Filter.BOTH):
        if step == 1:
            _add_along(words)
        else:
            rows = words[:count].reshape(-1, step)
            np.add.accumulate(rows, axis=0, dtype=words.dtype, out=rows)
    order = words.dtype.newbyteorder(">" if big_endian else "<")
    return words[:count].astype(order, copy=False).tobytes()


def _add_up(rows: Words) -> None:
    """Add to each row the one above, from the top: in all groups of rows at once, and then the groups are joined."""
    groups = rows[: len(rows) // _GROUP * _GROUP].reshape(-1, _GROUP, rows.shape[1])
    for i in range(1, _GROUP):
        np.add(groups[:, i], groups[:, i - 1], out=groups[:, i])
    for i in range(1, len(groups)):
        groups[i] += groups[i - 1, -1]
    for i in range(len(groups) * _GROUP or 1, len(rows)):
        np.add(rows[i], rows[i - 1], out=rows[i])


def _add_along(words: Words) -> None:
    """Add to each word of whole blocks the one before it: columns of blocks at once, and then the blocks are joined."""
    blocks = words.reshape(-1, BLOCK)
    for i in range(1, BLOCK):
        np.add(blocks[:, i], blocks[:, i - 1], out=blocks[:, i])
    blocks[1:] += np.add.accumulate(blocks[:-1, -1], dtype=words.dtype)[:, None]


def _minus(words: Words, distance: int, out: Words) -> Words:
    """Each word minus the one `distance` before it."""
    out[:distance] = words[:distance]
    np.subtract(words[distance:], words[:-distance], out=out[distance:])
    return out
