"""Words split by bit width: each block of sixteen goes to one stream, chosen by the bits that its largest word needs.

Rule: pure, and exact for any words. A stream of words of similar size gets its own entropy code and holds no empty
bits: sorting achieves what a context model does for a coder that works word by word. No class map is trusted before
its size is checked.
"""

from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from coffer.archive.codec.kernels import BLOCK, WIDE
from coffer.archive.codec.scratch import Scratch
from coffer.keys.errors import FormatError

Words = NDArray[Any]  # unsigned integers, all of the same size
Plane = NDArray[np.uint8]

_CLASSES: Final = np.arange(WIDE + 1, dtype=np.uint8)
_FIELD: Final = (0, 1, 2, 4, 4, 8, 8, 8, 8, 8)  # bits that a word of each class takes in its stream
_FEWEST: Final = 24  # fewer blocks than this do not pay for the header of a separate stream
_PAIR: Final = np.dtype("<u2")
_SWAPPED: Final = {1: 0x0101, 2: 0x0303, 4: 0x0F0F}


def fold(words: Words, out: Words) -> Words:
    """Each word xor its double: unsigned numbers that need as many bits as the signed `words` do."""
    np.left_shift(words, 1, out=out)
    return np.bitwise_xor(out, words, out=out)


def bits_of(words: Words) -> Plane:
    """The number of bits of the largest word in each block of `words`, at most WIDE."""
    lanes = words.view(np.uint64)
    step = BLOCK * words.itemsize // lanes.itemsize
    largest = lanes[::step] | lanes[1::step]
    for i in range(2, step):
        largest |= lanes[i::step]
    for shift in (32, 16, 8):
        if shift >= 8 * words.itemsize:
            largest |= largest >> np.uint64(shift)
    # A float's exponent is the position of the highest bit; rounding cannot matter, because it starts above 24 bits.
    exponents = largest.astype(words.dtype).astype(np.float32).view(np.uint32) >> np.uint32(23)
    bits: Plane = (np.clip(exponents, 126, 126 + WIDE) - np.uint32(126)).astype(np.uint8)
    return bits


def split(words: Words, scratch: Scratch, *, is_signed: bool) -> list[Plane]:
    """The streams for whole blocks of words: the class map, classes 1 to WIDE, upper bytes of WIDE from the top.

    Streams may be empty. `words` must lie in slot 0 of `scratch`, or outside it.
    """
    classes = bits_of(fold(words, scratch.array(1, words.dtype, words.size)) if is_signed else words)
    counts = _counts(classes)
    for few in range(1, WIDE):
        if 0 < counts[few] < _FEWEST:
            classes[classes == few] = few + 1
            counts[few + 1] += counts[few]
            counts[few] = 0
    order = np.argsort(classes, kind="stable")
    low = scratch.array(2, np.uint8, words.size)
    np.copyto(low, words, casting="unsafe")
    low = _blocks(low).take(order).view(np.uint8)
    streams = [_pack(classes if len(classes) % 2 == 0 else np.append(classes, np.uint8(0)), 4)]
    at = counts[0] * BLOCK
    for number in range(1, WIDE + 1):
        end = at + counts[number] * BLOCK
        streams.append(_pack(low[at:end] + _middle(number, is_signed=is_signed), _FIELD[number]))
        at = end
    wide = _blocks(words).take(order[len(order) - counts[WIDE] :]).view(words.dtype)
    return streams + [(wide >> shift).astype(np.uint8) for shift in range(words.itemsize * 8 - 8, 0, -8)]


class Bitplanes:
    """Joins the streams of `words` words of `word_bytes` bytes again. Raises FormatError for an impossible map."""

    def __init__(self, class_map: Plane, words: int, word_bytes: int) -> None:
        self._blocks = -(-words // BLOCK)
        self._dtype = np.dtype(f"u{word_bytes}")
        classes = _unpack(class_map, 4)
        classes, beyond = classes[: self._blocks], classes[self._blocks :]
        self._order = np.argsort(classes, kind="stable")
        ends = np.searchsorted(classes.take(self._order), _CLASSES, side="right").tolist()
        self._counts = [end - start for start, end in pairwise([0, *ends])]
        if sum(self._counts) != self._blocks or any(beyond):
            raise FormatError("a coded frame has an impossible map")

    def sizes(self) -> list[int]:
        """The size in bytes of each stream that follows the map in what `split` returns."""
        low = [self._counts[n] * BLOCK * _FIELD[n] // 8 for n in range(1, WIDE + 1)]
        return low + [self._counts[WIDE] * BLOCK] * (self._dtype.itemsize - 1)

    def join(self, streams: list[Plane], scratch: Scratch, *, is_signed: bool) -> Words:
        """Whole blocks of words, in slot 0 of `scratch`; `streams` are those after the map, of these `sizes`."""
        low, placed = (scratch.array(slot, np.uint8, self._blocks * BLOCK) for slot in (1, 2))
        at = self._counts[0] * BLOCK
        low[:at] = 0
        for number in range(1, WIDE + 1):
            if not self._counts[number]:
                continue
            end = at + self._counts[number] * BLOCK
            fields = _unpack(streams[number - 1], _FIELD[number])
            np.subtract(fields, _middle(number, is_signed=is_signed), out=low[at:end])
            at = end
        _blocks(placed)[self._order] = _blocks(low)
        words = scratch.array(0, self._dtype, len(placed))
        # Widening sign-extends the bytes of signed words.
        kind = "i" if is_signed else "u"
        np.copyto(words.view(f"{kind}{words.itemsize}"), placed.view(f"{kind}1"))
        if self._counts[WIDE]:
            wide = low[-self._counts[WIDE] * BLOCK :].astype(self._dtype)
            for above, stream in enumerate(reversed(streams[WIDE:]), 1):
                wide |= stream.astype(self._dtype) << 8 * above
            _blocks(words)[self._order[-self._counts[WIDE] :]] = _blocks(wide)
        return words


def _counts(classes: Plane) -> list[int]:
    """The number of blocks in each class; three times as fast as counting all classes in one pass."""
    return [int(np.count_nonzero(classes == number)) for number in range(WIDE + 1)]


def _middle(number: int, *, is_signed: bool) -> np.uint8:
    """The offset that makes the words of a class count from 0; words of WIDE have none."""
    return np.uint8(1 << number - 1 if is_signed and number < WIDE else 0)


def _blocks(words: Words) -> NDArray[Any]:
    """View each block as one item, which numpy moves faster than rows of items."""
    return words.view(f"V{BLOCK * words.itemsize}")


def _pack(low: Plane, field: int) -> Plane:
    """Pack bytes that use only `field` bits into fields of a byte, the first in its lowest bits."""
    while 0 < field < 8 and len(low):
        pairs = low.view(_PAIR)
        low = (pairs | pairs >> (8 - field)).astype(np.uint8)
        field *= 2
    return low


def _unpack(fields: Plane, field: int) -> Plane:
    """The inverse of `_pack`."""
    half = 4
    while half >= field and len(fields):
        pairs = fields.astype(_PAIR)
        pairs |= pairs << (8 - half)
        pairs &= _SWAPPED[half]
        fields = pairs.view(np.uint8)
        half //= 2
    return fields
