"""The codec's arithmetic in numpy: what is used where there is no compiled library, and what that is tested against."""

from collections.abc import Callable

import numpy as np

from coffer.archive.codec import bitplanes, pixels
from coffer.archive.codec.kernels import BLOCK, PixelShape
from coffer.archive.codec.pool import Pool
from coffer.archive.codec.scratch import Scratch

_LARGEST: int = (1 << 20) + 4 * BLOCK  # a frame, padded to whole blocks


class Pure:
    """`kernels.Kernels` by `pixels` and `bitplanes`."""

    def __init__(self) -> None:
        self._scratches = Pool(lambda: Scratch(_LARGEST))

    def split(
        self, data: bytes | bytearray | memoryview, shape: PixelShape, compress: Callable[[memoryview], bytes]
    ) -> tuple[int, list[bytes]]:
        """See `kernels.Kernels`."""
        words = pixels.words_of(data, shape.word_bytes, big_endian=shape.big_endian)
        choice = pixels.choose(words, shape.width, shape.step)
        with self._scratches.one() as scratch:
            filtered = pixels.apply(words, shape.width, choice, shape.step, scratch)
            streams = bitplanes.split(filtered, scratch, is_signed=choice is not pixels.Filter.NONE)
            return choice, [compress(stream.data) if len(stream) else b"" for stream in streams]

    def join(
        self, class_map: bytes, shape: PixelShape, choice: int, inflate: Callable[[list[int]], list[bytes]]
    ) -> bytes:
        """See `kernels.Kernels`."""
        planes = bitplanes.Bitplanes(np.frombuffer(class_map, np.uint8), shape.words, shape.word_bytes)
        streams = [np.frombuffer(stream, np.uint8) for stream in inflate(planes.sizes())]
        chosen = pixels.Filter(choice)
        with self._scratches.one() as scratch:
            words = planes.join(streams, scratch, is_signed=chosen is not pixels.Filter.NONE)
            return pixels.undo(
                words, shape.words, shape.width, chosen, shape.step, scratch, big_endian=shape.big_endian
            )
