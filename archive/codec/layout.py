"""The shape of native pixel data.

Rule: a value and nothing else, so that a process that codes no pixels need not import numpy.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PixelLayout:
    """The position and shape of native pixel data in a data set: a hint, checked before it is used.

    `offset` and `length` are in bytes, `rows` and `columns` in pixels, `frames` in images.
    """

    offset: int
    length: int
    rows: int
    columns: int
    samples: int
    bits_allocated: int
    frames: int
    big_endian: bool = False
