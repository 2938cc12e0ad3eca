"""Code a data set in independent frames of at most 1 MiB, each by the method that suits it; lossless by construction.

Rule: compression never decides whether an object is stored. The first byte of a frame names its coding method; if the
layout does not fit, or no method helps, the bytes are kept as they are. Decoding checks every length before using it.
The kernels, and numpy if they need it, are loaded with the first frame of pixels: most processes see none.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from itertools import accumulate, count, pairwise
from typing import Final, NamedTuple

import zstandard

from coffer.archive.codec.choice import kernels
from coffer.archive.codec.dictionary import HEADERS
from coffer.archive.codec.kernels import LEAST_STREAMS, PixelShape, map_size
from coffer.archive.codec.layout import PixelLayout
from coffer.keys.errors import FormatError

FRAME_BYTES: Final = 1 << 20
# Body codec ids: how the frames of a body are coded.
CODEC_FRAMES: Final = 1

RAW, ZSTD, PIXELS, SHORT = 0, 1, 2, 3
_PIXEL_HEADER: Final = struct.Struct(">BBBBI")  # method, filter, word bytes (high bit: big endian), step, row words
_BIG: Final = 0x80
_FILTERS: Final = 4
_LEVEL: Final = 3
_SHORT_BYTES: Final = 64 << 10  # up to this size a dictionary is worth its cost
# Residuals rarely repeat: searching for matches takes half of the time and helps only in long runs. These parameters
# reduce zstd to its entropy coder.
_FOR_PIXELS: Final = zstandard.ZstdCompressionParameters(
    window_log=20, hash_log=6, chain_log=6, search_log=1, min_match=7, strategy=zstandard.STRATEGY_FAST
)
_SAMPLE_BYTES: Final = 32 << 10
_WORTH: Final = 0.97  # a frame that does not shrink below this share is kept raw: reading it costs nothing
_WORD_BYTES: Final = {8: 1, 16: 2, 32: 4}
_LARGEST_ROW: Final = FRAME_BYTES // 2


class Piece(NamedTuple):
    """The byte range [start, stop) of the data set that makes one frame; `layout` if it holds rows of pixels."""

    start: int
    stop: int
    layout: PixelLayout | None


def cuts(layout: PixelLayout | None) -> Iterator[Piece]:
    """Where to cut a data set of which only the beginning may be known: pixels at whole rows, the rest
    every FRAME_BYTES. Never ends; the data set's own end cuts the last frame.
    """
    end = 0
    if layout is not None and _fits(layout):
        row, rows = _row_bytes(layout), layout.rows * layout.frames
        needed = -(-row * rows // FRAME_BYTES)
        step = row * min(-(-rows // needed), FRAME_BYTES // row)  # frames of about the same size
        end = layout.offset + row * rows
        for start in range(0, layout.offset, FRAME_BYTES):
            yield Piece(start, min(start + FRAME_BYTES, layout.offset), None)
        for start in range(layout.offset, end, step):
            yield Piece(start, min(start + step, end), layout)
    for start in count(end, FRAME_BYTES):
        yield Piece(start, start + FRAME_BYTES, None)


def _row_bytes(layout: PixelLayout) -> int:
    return layout.columns * layout.samples * layout.bits_allocated // 8


def _fits(layout: PixelLayout) -> bool:
    """Whether the layout, which is only a hint, is plausible."""
    if layout.bits_allocated not in _WORD_BYTES or not 1 <= layout.samples <= 4:
        return False
    if min(layout.offset, layout.length) < 0 or min(layout.rows, layout.columns, layout.frames) < 1:
        return False
    row = _row_bytes(layout)
    return row <= _LARGEST_ROW and 1024 <= row * layout.rows * layout.frames <= layout.length


_DICTIONARY: Final = zstandard.ZstdCompressionDict(HEADERS, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
_DICTIONARY.precompute_compress(level=_LEVEL)


class _Contexts(threading.local):
    """zstd contexts: expensive to make, and not thread-safe."""

    def __init__(self) -> None:
        self.plain = zstandard.ZstdCompressor(level=_LEVEL)
        self.pixels = zstandard.ZstdCompressor(compression_params=_FOR_PIXELS)
        self.short = zstandard.ZstdCompressor(level=_LEVEL, dict_data=_DICTIONARY)
        self.expander = zstandard.ZstdDecompressor(dict_data=_DICTIONARY, max_window_size=1 << 23)
        self.decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 23)


_contexts = _Contexts()


def encode(data: bytes | bytearray | memoryview, layout: PixelLayout | None) -> bytes:
    """Code at most FRAME_BYTES of data as one frame; `layout` if they are whole rows of pixels. Never fails."""
    if layout is not None:
        return _encode_pixels(data, layout)
    if len(data) > 2 * _SAMPLE_BYTES:
        middle = len(data) // 2
        sample = _contexts.pixels.compress(data[middle : middle + _SAMPLE_BYTES])
        if len(sample) > _WORTH * _SAMPLE_BYTES:
            return bytes((RAW,)) + data
    method, coder = (SHORT, _contexts.short) if len(data) <= _SHORT_BYTES else (ZSTD, _contexts.plain)
    coded = coder.compress(data)
    return bytes((method,)) + coded if len(coded) <= _WORTH * len(data) else bytes((RAW,)) + data


def _encode_pixels(data: bytes | bytearray | memoryview, layout: PixelLayout) -> bytes:
    word_bytes, width, step = _WORD_BYTES[layout.bits_allocated], layout.columns * layout.samples, layout.samples
    shape = PixelShape(len(data), word_bytes, layout.big_endian, width, step)
    choice, coded = kernels().split(data, shape, _contexts.pixels.compress)
    form = word_bytes | (_BIG if layout.big_endian else 0)
    head = _PIXEL_HEADER.pack(PIXELS, choice, form, step, width)
    frame = b"".join((head, struct.pack(f">{len(coded)}I", *map(len, coded)), *coded))
    return frame if len(frame) <= _WORTH * len(data) else bytes((RAW,)) + data


def decode(coded: bytes | memoryview, length: int) -> bytes:
    """The `length` bytes that a frame was made from. Raises FormatError for anything `encode` would not have made."""
    if not len(coded) or not 0 <= length <= FRAME_BYTES:
        raise FormatError("a coded frame has an impossible length")
    method = coded[0]
    if method == RAW:
        data = bytes(coded[1:])
    elif method == ZSTD:
        data = _inflate(coded[1:], length)
    elif method == SHORT:
        data = _inflate(coded[1:], length, _contexts.expander)
    elif method == PIXELS:
        data = _decode_pixels(coded, length)
    else:
        raise FormatError(f"coding method {method} is unknown", hint="open it with a newer Coffer")
    if len(data) != length:
        raise FormatError("a coded frame has another length than it says")
    return data


def _decode_pixels(coded: bytes | memoryview, length: int) -> bytes:
    if len(coded) < _PIXEL_HEADER.size:
        raise FormatError("a coded frame is cut")
    _, choice, form, step, width = _PIXEL_HEADER.unpack_from(coded)
    word_bytes = form & ~_BIG
    known = choice < _FILTERS and word_bytes in _WORD_BYTES.values() and 1 <= step <= 4
    if not known or not length or not width or width % step or length % (width * word_bytes):
        raise FormatError("a coded frame has an impossible shape")
    shape = PixelShape(length, word_bytes, bool(form & _BIG), width, step)
    lengths = struct.Struct(f">{LEAST_STREAMS + word_bytes}I")
    at = _PIXEL_HEADER.size + lengths.size
    if len(coded) < at:
        raise FormatError("a coded frame is cut")
    ends = list(accumulate(lengths.unpack_from(coded, _PIXEL_HEADER.size), initial=at))
    if ends[-1] != len(coded):
        raise FormatError("a coded frame has another length than it says")
    first, *rest = (coded[start:end] for start, end in pairwise(ends))

    def inflate(sizes: list[int]) -> list[bytes]:
        return [_stream(part, size) for part, size in zip(rest, sizes, strict=True)]

    return kernels().join(_stream(first, map_size(shape.words)), shape, choice, inflate)


def _stream(coded: bytes | memoryview, size: int) -> bytes:
    if bool(len(coded)) != bool(size):
        raise FormatError("a coded frame has another length than it says")
    return _inflate(coded, size) if size else b""


def _inflate(data: bytes | memoryview, length: int, decompressor: zstandard.ZstdDecompressor | None = None) -> bytes:
    """Decompress to exactly `length` bytes; checks the size that the frame header claims before allocating anything."""
    try:
        if zstandard.get_frame_parameters(data).content_size != length:
            raise FormatError("a coded frame has another length than it says")
        return (decompressor or _contexts.decompressor).decompress(data, max_output_size=length)
    except zstandard.ZstdError as error:
        raise FormatError("a coded frame cannot be decompressed") from error
