"""Frames come back bit for bit, whatever the layout claims; damaged ones raise FormatError and nothing else."""

import contextlib
import csv
import struct
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coffer.archive.codec import bitplanes, frames, pixels
from coffer.archive.codec.frames import Piece
from coffer.archive.codec.layout import PixelLayout
from coffer.archive.codec.pixels import Filter
from coffer.archive.codec.scratch import Scratch
from coffer.keys.errors import FormatError


def round_trip(data: bytes, layout: PixelLayout | None) -> list[bytes]:
    """The frames of a data set, cut as an arriving one is (`archive.body.frame_encoder`)."""
    pieces = []
    for piece in takewhile(lambda p: p.start < len(data), frames.cuts(layout)):
        assert piece.start == (pieces[-1].stop if pieces else 0)
        assert piece.start < piece.stop <= piece.start + frames.FRAME_BYTES
        pieces.append(piece if piece.stop <= len(data) else Piece(piece.start, len(data), None))
    coded = [frames.encode(memoryview(data)[p.start : p.stop], p.layout) for p in pieces]
    back = b"".join(frames.decode(f, p.stop - p.start) for f, p in zip(coded, pieces, strict=True))
    assert back == data
    return coded


def smooth(rows: int, columns: int, dtype: str) -> bytes:
    y, x = np.mgrid[0:rows, 0:columns]
    return (1000 + 3 * x + 2 * y + (x * y) % 3).astype(dtype).tobytes()


@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("big_endian", [False, True])
def test_every_shape_of_pixels(bits: int, samples: int, big_endian: bool) -> None:
    order = ">" if big_endian else "<"
    pixels = smooth(64, 48 * samples, f"{order}u{bits // 8}") * 2
    head = b"header" * 30
    layout = PixelLayout(len(head), len(pixels), 64, 48, samples, bits, 2, big_endian)
    coded = round_trip(head + pixels + b"tail", layout)
    assert any(frame[0] == frames.PIXELS for frame in coded)


def test_smooth_pixels_get_much_smaller() -> None:
    pixels = smooth(512, 512, "<u2")
    coded = round_trip(pixels, PixelLayout(0, len(pixels), 512, 512, 1, 16, 1))
    assert sum(map(len, coded)) < len(pixels) // 10


@pytest.mark.parametrize(
    ("series", "most"), [("neurolabusc-dcm_qa_ct/ct-phantom-140", 0.26), ("neurolabusc-dcm_qa_deident/mr-t1-196", 0.16)]
)
def test_real_series_get_as_small_as_promised(shared_data: Path, series: str, most: float) -> None:
    received = stored = 0
    for path in sorted((shared_data / "real" / series).glob("*.dcm"))[::7]:
        content, ds = path.read_bytes(), pydicom.dcmread(path)
        offset = content.rfind(ds.PixelData)
        layout = PixelLayout(offset, len(ds.PixelData), ds.Rows, ds.Columns, 1, ds.BitsAllocated, 1)
        received += len(content)
        stored += sum(map(len, round_trip(content, layout)))
    assert stored <= most * received


def test_noise_is_kept_raw() -> None:
    noise = np.random.default_rng(1).bytes(300_000)
    (frame,) = round_trip(noise, None)
    assert frame[0] == frames.RAW
    assert len(frame) == len(noise) + 1


@given(
    data=st.binary(max_size=3000),
    numbers=st.tuples(*[st.integers(-1, 4000)] * 2, *[st.integers(0, 70)] * 2, st.integers(0, 5)),
    bits=st.sampled_from([0, 1, 8, 12, 16, 32, 64]),
    frames=st.integers(0, 5),
)
def test_a_layout_that_lies_costs_no_bit(
    data: bytes, numbers: tuple[int, int, int, int, int], bits: int, frames: int
) -> None:
    offset, length, rows, columns, samples = numbers
    round_trip(data, PixelLayout(offset, length, rows, columns, samples, bits, frames))


@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 80), st.sampled_from([1, 2, 3, 4]), st.integers(1, 3)),
    bits=st.sampled_from([8, 16, 32]),
    amplitudes=st.lists(st.integers(0, 32), min_size=1, max_size=40),
    slopes=st.tuples(st.integers(-9, 9), st.integers(-9, 9)),
    seed=st.integers(0, 1 << 32),
    big_endian=st.booleans(),
)
def test_images_of_any_shape_and_noise(
    shape: tuple[int, int, int, int],
    bits: int,
    amplitudes: list[int],
    slopes: tuple[int, int],
    seed: int,
    big_endian: bool,
) -> None:
    """Slopes under noise whose size, up to every bit of the word, changes from place to place."""
    rows, columns, samples, frames = shape
    size = rows * columns * samples * frames
    at = np.arange(size)
    noise = np.random.default_rng(seed).integers(0, 1 << 32, size)
    noise >>= 32 - np.resize(np.repeat(amplitudes, 37), size)
    words = noise + slopes[0] * (at // (columns * samples)) + slopes[1] * (at % (columns * samples))
    data = (words & (1 << bits) - 1).astype(f"{'>' if big_endian else '<'}u{bits // 8}").tobytes()
    round_trip(data, PixelLayout(0, len(data), rows, columns, samples, bits, frames, big_endian))


@given(data=st.data(), seed=st.integers(0, 99))
def test_damaged_pixels_are_refused_or_as_long_as_they_say(data: st.DataObject, seed: int) -> None:
    """No byte of a frame can make decoding fail in another way than by FormatError, or give another length."""
    rng = np.random.default_rng(seed)
    pixels = (rng.integers(0, 1 << 16, 64 * 96) >> np.resize(np.repeat(rng.integers(3, 17, 40), 64), 64 * 96)).astype(
        "<u2"
    )
    frame = bytearray(frames.encode(pixels.tobytes(), PixelLayout(0, pixels.nbytes, 64, 96, 1, 16, 1)))
    assert frame[0] == frames.PIXELS
    for _ in range(data.draw(st.integers(1, 3))):
        frame[data.draw(st.integers(0, 200) | st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(FormatError):
        assert len(frames.decode(bytes(frame), pixels.nbytes)) == pixels.nbytes


def test_frames_do_not_share_memory_between_threads() -> None:
    """Many threads code and decode different images at once; each gets its own back."""
    images = [smooth(300, 200 + n, "<u2") for n in range(24)]

    def there_and_back(image: bytes) -> bool:
        layout = PixelLayout(0, len(image), 300, len(image) // 600, 1, 16, 1)
        coded = [frames.encode(image, layout) for _ in range(5)]
        return all(frames.decode(frame, len(image)) == image for frame in coded)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(there_and_back, images))


@given(frame=st.binary(max_size=400), length=st.integers(-5, 2000))
def test_garbage_is_refused(frame: bytes, length: int) -> None:
    with contextlib.suppress(FormatError):
        assert len(frames.decode(frame, length)) == length


@pytest.mark.parametrize("choice", list(Filter))
def test_pixels_of_no_length_are_refused(choice: Filter) -> None:
    frame = struct.pack(">BBBBI", frames.PIXELS, choice, 1, 1, 1) + bytes(40)
    with pytest.raises(FormatError, match="impossible shape"):
        frames.decode(frame, 0)


def test_a_frame_that_would_inflate_too_far_is_refused() -> None:
    frame = frames.encode(bytes(1 << 20), None)
    with pytest.raises(FormatError):
        frames.decode(frame, 1 << 10)


def test_real_pixels(shared_data: Path) -> None:
    """Every third native real file, with the layout its header gives."""
    with (shared_data / "files.csv").open() as table:
        rows = [r for r in csv.DictReader(table) if int(r["native_pixel_bytes"] or 0) and r["bits"] in ("8", "16")]
    for row in rows[::3]:
        content = (shared_data / row["path"]).read_bytes()
        ds = pydicom.dcmread(shared_data / row["path"], force=True)
        value = ds.get("PixelData") or b""
        offset = content.rfind(value) if value else -1
        if offset >= 0:
            samples, frames = int(ds.get("SamplesPerPixel", 1)), int(ds.get("NumberOfFrames", 1) or 1)
            shape = (int(ds.Rows), int(ds.Columns), samples, int(ds.BitsAllocated), frames)
            round_trip(content, PixelLayout(offset, len(value), *shape))


def test_a_map_with_an_unknown_class_or_more_blocks_than_there_are_is_refused() -> None:
    whole = np.array([0x10, 0x02], np.uint8)  # classes 0, 1, 2, and nothing behind the third block
    assert bitplanes.Bitplanes(whole, 3 * bitplanes.BLOCK, 2).sizes()[:2] == [2, 4]
    for at, byte in ((0, 0xA0), (1, 0x12)):
        damaged = whole.copy()
        damaged[at] = byte
        with pytest.raises(FormatError, match="impossible map"):
            bitplanes.Bitplanes(damaged, 3 * bitplanes.BLOCK, 2)


@pytest.mark.parametrize("choice", Filter)
@pytest.mark.parametrize("dtype", ["u1", "u2", "u4"])
def test_each_filter_is_undone_for_words_of_every_bit(choice: Filter, dtype: str) -> None:
    """Sizes around whole groups of rows, lanes, and where sums along begin to go by lanes."""
    rng, scratch = np.random.default_rng(7), Scratch(1 << 20)
    for rows, width in ((1, 1), (15, 3), (16, 64), (33, 129), (257, 67), (512, 512)):
        words = rng.integers(0, 1 << 8 * np.dtype(dtype).itemsize, rows * width).astype(dtype)
        filtered = pixels.apply(words, width, choice, 1, scratch)
        back = pixels.undo(filtered, words.size, width, choice, 1, scratch, big_endian=False)
        assert back == words.tobytes()
