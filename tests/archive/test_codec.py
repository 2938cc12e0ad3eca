"""Frames come back bit for bit, whatever the layout claims; damaged ones raise FormatError and nothing else."""

import contextlib
import csv
from itertools import takewhile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archive import codec
from archive.codec import Piece
from archive.pixels import PixelLayout
from keys.errors import FormatError


def round_trip(data: bytes, layout: PixelLayout | None) -> list[bytes]:
    """The frames of a data set, cut as an arriving one is (`archive.draft`)."""
    pieces = []
    for piece in takewhile(lambda p: p.start < len(data), codec.cuts(layout)):
        assert piece.start == (pieces[-1].stop if pieces else 0)
        assert piece.start < piece.stop <= piece.start + codec.FRAME_BYTES
        pieces.append(piece if piece.stop <= len(data) else Piece(piece.start, len(data), None))
    frames = [codec.encode(memoryview(data)[p.start : p.stop], p.layout) for p in pieces]
    back = b"".join(codec.decode(f, p.stop - p.start) for f, p in zip(frames, pieces, strict=True))
    assert back == data
    return frames


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
    frames = round_trip(head + pixels + b"tail", layout)
    assert any(f[0] == codec.PIXELS for f in frames)


def test_smooth_pixels_get_much_smaller() -> None:
    pixels = smooth(512, 512, "<u2")
    frames = round_trip(pixels, PixelLayout(0, len(pixels), 512, 512, 1, 16, 1))
    assert sum(map(len, frames)) < len(pixels) // 10


def test_noise_is_kept_raw() -> None:
    noise = np.random.default_rng(1).bytes(300_000)
    (frame,) = round_trip(noise, None)
    assert frame[0] == codec.RAW
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


@given(frame=st.binary(max_size=400), length=st.integers(-5, 2000))
def test_garbage_is_refused(frame: bytes, length: int) -> None:
    with contextlib.suppress(FormatError):
        assert len(codec.decode(frame, length)) == length


def test_a_frame_that_would_inflate_too_far_is_refused() -> None:
    frame = codec.encode(bytes(1 << 20), None)
    with pytest.raises(FormatError):
        codec.decode(frame, 1 << 10)


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
