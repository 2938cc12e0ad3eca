"""What the codec's arithmetic on one frame of pixels takes and gives, whoever does it.

Rule: numbers and a Protocol, and no numpy: `pure` and `native.compiled` are the two that do the work, byte for byte the
same. zstd is called back: what it gets and gives is between filter and frame.
"""

from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

__all__ = ["BLOCK", "LEAST_STREAMS", "WIDE", "Kernels", "PixelShape", "map_size"]

BLOCK: Final = 16
WIDE: Final = 9  # the class of blocks whose largest word needs more than a byte; other classes are bit counts
LEAST_STREAMS: Final = WIDE  # a frame has so many, and one more for each byte of a word


class PixelShape(NamedTuple):
    """Whole rows of words: bytes in all, bytes of a word and their order, words in a row, words to the same sample of
    the pixel to the left (which divide a row)."""

    size: int
    word_bytes: int
    big_endian: bool
    width: int
    step: int

    @property
    def words(self) -> int:
        """The number of words."""
        return self.size // self.word_bytes


def map_size(words: int) -> int:
    """The size of the class map for this many words, in bytes."""
    return -(-words // (2 * BLOCK))


class Kernels(Protocol):
    """Both directions of FORMAT-BODY.md, method 2, without zstd. Safe to use from many threads."""

    def split(
        self, data: bytes | bytearray | memoryview, shape: PixelShape, compress: Callable[[memoryview], bytes]
    ) -> tuple[int, list[bytes]]:
        """The filter that suits the pixels best, and what `compress` makes of each stream; an empty one stays empty.

        What `compress` is called with is valid during the call only.
        """

    def join(
        self, class_map: bytes, shape: PixelShape, choice: int, inflate: Callable[[list[int]], list[bytes]]
    ) -> bytes:
        """The pixels again. `class_map` has `map_size` bytes, `choice` is a filter; `inflate` takes the sizes of the
        streams after the map, in bytes, and returns them. Raises FormatError for an impossible map."""
