"""Reversible filters for native pixel data: smooth image content becomes small numbers.

Rule: pure, and exact for any bytes: words are unsigned and every difference wraps around, so a layout that does not fit
the data costs compression, never a bit. Filters see one long row of native words: the left neighbour of a row's first
pixel is the last pixel of the row above.
"""

from enum import IntEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from coffer.archive.codec import bitplanes
from coffer.archive.codec.kernels import BLOCK
from coffer.archive.codec.scratch import Scratch

Words = NDArray[Any]  # unsigned integers, all of the same size


class Filter(IntEnum):
    """What is subtracted from words before they are split by bit width."""

    NONE = 0  # nothing: best if the background is noise, or most of it is exactly 0
    LEFT = 1  # the pixel to the left
    UP = 2  # the pixel above
    BOTH = 3  # left, then above: left + above - above left


_DTYPES: Final = {1: "u1", 2: "u2", 4: "u4"}
_SAMPLED_ROWS: Final = 12
_GROUP: Final = 16
_LANE: Final = np.dtype("<u8")  # its first word is the lowest on every machine
_FEW: Final = 4096


def words_of(data: bytes | bytearray | memoryview, word_bytes: int, *, big_endian: bool) -> Words:
    """The data as a row of native words. Its length must be a multiple of `word_bytes`."""
    dtype = np.dtype((">" if big_endian else "<") + _DTYPES[word_bytes])
    return np.frombuffer(data, dtype).astype(dtype.newbyteorder("="), copy=False)


def choose(words: Words, width: int, step: int) -> Filter:
    """The filter that leaves the fewest bits in a sample of rows, taken from all over the image."""
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
    bitplanes.fold(residuals[Filter.LEFT :], folded[Filter.LEFT :])
    bits = bitplanes.bits_of(folded.reshape(-1)).reshape(len(Filter), -1)
    return Filter(int(bits.sum(axis=1, dtype=np.int64).argmin()))


def apply(words: Words, width: int, choice: Filter, step: int, scratch: Scratch) -> Words:
    """Filtered words, padded with zeros to a whole block, in slot 0 of `scratch`.

    `width` is the distance in words to the pixel above, `step` to the same sample of the pixel to the left; words
    before the first one count as 0.
    """
    whole = -(-words.size // BLOCK) * BLOCK
    out, between = (scratch.array(slot, words.dtype, whole) for slot in (0, 1))
    if choice is Filter.BOTH:
        words = _minus(words, step, between[: words.size])
    if choice is Filter.NONE:
        out[: words.size] = words
    else:
        _minus(words, step if choice is Filter.LEFT else width, out[: words.size])
    out[words.size :] = 0
    return out


def undo(  # noqa: PLR0917  # the parameters of `apply`
    words: Words, count: int, width: int, choice: Filter, step: int, scratch: Scratch, *, big_endian: bool
) -> bytes:
    """The unfiltered bytes of the first `count` of `words`, in their stored byte order. Overwrites `words`.

    `words` are whole blocks and may lie in slot 0 of `scratch`; the other slots are used.
    """
    if choice in (Filter.LEFT, Filter.BOTH):
        if step == 1:
            _add_along(words, scratch)
        else:
            rows = words[:count].reshape(-1, step)
            np.add.accumulate(rows, axis=0, dtype=words.dtype, out=rows)
    words = words[:count]
    if choice in (Filter.UP, Filter.BOTH):
        words = _add_up(words.reshape(-1, width), scratch).reshape(-1)
    order = words.dtype.newbyteorder(">" if big_endian else "<")
    return words.astype(order, copy=False).tobytes()


def _add_up(rows: Words, scratch: Scratch) -> Words:
    """Each row plus all rows above it: first within every group of rows at once, then across the groups.

    Sums within groups are stored by their index in the group, so that one addition covers all groups contiguously.
    """
    height, width = rows.shape
    groups = height // _GROUP
    whole = groups * _GROUP
    grouped = rows[:whole].reshape(groups, _GROUP, width)
    within = scratch.array(1, rows.dtype, whole * width).reshape(_GROUP, groups, width)
    out: Words = scratch.array(2, rows.dtype, rows.size).reshape(rows.shape)
    within[0] = grouped[:, 0]
    for i in range(1, _GROUP):
        np.add(within[i - 1], grouped[:, i], out=within[i])
    above = np.zeros((groups, width), rows.dtype)
    for before, last, upon in zip(above, within[-1], above[1:], strict=False):
        np.add(before, last, out=upon)
    np.add(within, above, out=out[:whole].reshape(grouped.shape).transpose(1, 0, 2))
    if not whole:
        out[0] = rows[0]
    for i in range(whole or 1, height):
        np.add(out[i - 1], rows[i], out=out[i])
    return out


def _add_along(words: Words, scratch: Scratch) -> None:
    """Add to each word all words before it: first within lanes of 64 bits, then each lane gets the sum before it.

    Adding word by word would make each addition wait for the one before: five cycles each.
    """
    if words.size <= _FEW or words.nbytes % _LANE.itemsize:
        np.add.accumulate(words, dtype=words.dtype, out=words)
        return
    bits, each = 8 * words.itemsize, _LANE.itemsize // words.itemsize
    lanes = words.view(_LANE)
    moved = scratch.array(1, _LANE, lanes.size)
    distance = 1
    while distance < each:
        np.left_shift(lanes, distance * bits, out=moved)
        np.add(words, moved.view(words.dtype), out=words)  # as words: a carry must not reach the next word
        distance *= 2
    last = words[each - 1 :: each].copy()
    _add_along(last, scratch)
    moved[0], moved[1:] = 0, last[:-1]
    np.multiply(moved, sum(1 << at for at in range(0, 64, bits)), out=moved)  # the same in every word of the lane
    np.add(words, moved.view(words.dtype.newbyteorder("<")), out=words)


def _minus(words: Words, distance: int, out: Words) -> Words:
    """Each word minus the one `distance` before it."""
    out[:distance] = words[:distance]
    np.subtract(words[distance:], words[:-distance], out=out[distance:])
    return out
