"""The compiled kernel and numpy write the same bytes, read them and refuse the same; a stale library is not loaded."""

import contextlib
import csv
import ctypes
import platform
import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coffer.archive.codec import choice
from coffer.archive.codec.kernels import BLOCK, LEAST_STREAMS, WIDE, Kernels, PixelShape, map_size
from coffer.archive.codec.native import library
from coffer.archive.codec.native.compiled import Compiled
from coffer.archive.codec.pure import Pure
from coffer.keys.errors import FormatError
from tests.archive.codec.both import BOTH, compiled
from tests.conftest import absent

FIELD = (0, 1, 2, 4, 4, 8, 8, 8, 8, 8)


@pytest.fixture(scope="module", autouse=True)
def kernels() -> None:
    """These tests name the kernels that they mean."""


def split(kernels: Kernels, data: bytes, shape: PixelShape) -> tuple[int, list[bytes]]:
    return kernels.split(data, shape, bytes)


def join(kernels: Kernels, streams: list[bytes], shape: PixelShape, choice: int) -> bytes | None:
    """The pixels, or None for what is refused as a frame of an impossible map."""
    with contextlib.suppress(FormatError):
        return kernels.join(streams[0], shape, choice, lambda _: streams[1:])
    return None


def require_alike(data: bytes, shape: PixelShape) -> None:
    """Both directions, crosswise."""
    found, streams = split(BOTH["numpy"](), data, shape)
    assert split(compiled(), data, shape) == (found, streams)
    assert join(BOTH["numpy"](), streams, shape, found) == data
    assert join(compiled(), streams, shape, found) == data


@st.composite
def images(draw: st.DrawFn) -> tuple[bytes, PixelShape]:
    """Slopes under noise whose size changes from place to place, of any word, order, width and samples."""
    word_bytes, step = draw(st.sampled_from([1, 2, 4])), draw(st.integers(1, 4))
    width, rows = step * draw(st.integers(1, 70)), draw(st.integers(1, 90))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    amplitudes = draw(st.lists(st.integers(0, 32), min_size=1, max_size=12))
    noise = rng.integers(0, 1 << 32, rows * width) >> 32 - np.resize(np.repeat(amplitudes, 97), rows * width)
    at = np.arange(rows * width)
    words = noise + draw(st.integers(-9, 9)) * (at // width) + draw(st.integers(-9, 9)) * (at % width)
    data = (words & (1 << 8 * word_bytes) - 1).astype(f"<u{word_bytes}").tobytes()
    return data, PixelShape(len(data), word_bytes, draw(st.booleans()), width, step)


@given(image=images())
def test_any_image_becomes_the_same_streams(image: tuple[bytes, PixelShape]) -> None:
    require_alike(*image)


@given(
    data=st.binary(min_size=1, max_size=3000),
    word_bytes=st.sampled_from([1, 2, 4]),
    width=st.integers(1, 300),
    step=st.integers(1, 4),
    big_endian=st.booleans(),
)
def test_any_bytes_become_the_same_streams(
    data: bytes, word_bytes: int, width: int, step: int, big_endian: bool
) -> None:
    row = max(width // step, 1) * step
    data = data * (1 + row * word_bytes // len(data))
    data = data[: len(data) // (row * word_bytes) * row * word_bytes]
    require_alike(data, PixelShape(len(data), word_bytes, big_endian, row, step))


@given(
    classes=st.lists(st.integers(0, WIDE + 1), min_size=1, max_size=120),
    word_bytes=st.sampled_from([1, 2, 4]),
    form=st.tuples(st.integers(0, 3), st.booleans(), st.integers(1, 4), st.integers(1, 60)),
    seed=st.integers(0, 1 << 32),
)
def test_any_map_and_streams_become_the_same_pixels(
    classes: list[int], word_bytes: int, form: tuple[int, bool, int, int], seed: int
) -> None:
    """Also those that no `split` makes: classes of few blocks, fields that a smaller class could hold."""
    filtered, big_endian, step, width = form
    row = step * width
    words = len(classes) * BLOCK // row * row
    if -(-words // BLOCK) != len(classes):
        return
    rng = np.random.default_rng(seed)
    nibbles = [*classes, 0][: 2 * map_size(words)]
    class_map = bytes(low | high << 4 for low, high in zip(nibbles[::2], nibbles[1::2], strict=True))
    sizes = [classes.count(c) * BLOCK * FIELD[c] // 8 for c in range(1, WIDE + 1)]
    sizes += [classes.count(WIDE) * BLOCK] * (word_bytes - 1)
    shape = PixelShape(words * word_bytes, word_bytes, big_endian, row, step)
    streams = [class_map, *(rng.bytes(size) for size in sizes)]
    pixels = join(BOTH["numpy"](), streams, shape, filtered)
    assert pixels == join(compiled(), streams, shape, filtered)
    assert (pixels is None) == (WIDE + 1 in classes)


@pytest.mark.parametrize("name", BOTH)
@pytest.mark.parametrize("class_map", [b"\x00\x10", b"\xa0\x00", b"\x0f\x00", b"\x00\x0a"])
def test_a_map_with_an_unknown_class_or_a_block_too_many_is_refused(name: str, class_map: bytes) -> None:
    """Three blocks: the last half of the map belongs to none."""
    shape = PixelShape(3 * BLOCK, 1, False, BLOCK, 1)
    with pytest.raises(FormatError, match="impossible map"):
        BOTH[name]().join(class_map, shape, 1, lambda sizes: [bytes(size) for size in sizes])


def test_real_pixels_become_the_same_streams(shared_data: Path) -> None:
    """Every native real file of 8 or 16 bits, its first frames as the codec would cut them at most."""
    with (shared_data / "files.csv").open() as table:
        rows = [r for r in csv.DictReader(table) if int(r["native_pixel_bytes"] or 0) and r["bits"] in ("8", "16")]
    compared = 0
    for row in rows[::5]:
        ds = pydicom.dcmread(shared_data / row["path"], force=True)
        step, word_bytes = int(ds.get("SamplesPerPixel", 1)), int(ds.BitsAllocated) // 8
        width = int(ds.Columns) * step
        data = bytes(ds.get("PixelData") or b"")[: (1 << 20) // (width * word_bytes) * (width * word_bytes)]
        data = data[: len(data) // (width * word_bytes) * (width * word_bytes)]
        if data:
            require_alike(data, PixelShape(len(data), word_bytes, False, width, step))
            compared += 1
    assert compared > 50


def test_the_largest_frame_of_each_word_fits() -> None:
    """Noise of 1 MiB: every block in the widest class, and nothing is beyond the kernel's memory."""
    noise = np.random.default_rng(3).bytes(1 << 20)
    for word_bytes in (1, 2, 4):
        require_alike(noise, PixelShape(len(noise), word_bytes, False, 512, 1))


@pytest.mark.parametrize("number", range(LEAST_STREAMS + 2))
@pytest.mark.parametrize("change", [-1, 1])
def test_the_kernel_refuses_a_stream_of_a_wrong_size(number: int, change: int) -> None:
    """The codec checks sizes before; the kernel does by itself, before it reads anything."""
    rng = np.random.default_rng(5)
    words = (rng.integers(0, 1 << 16, 64 * 640) >> np.resize(np.repeat(range(17), 640), 64 * 640)).astype("<u2")
    shape = PixelShape(words.nbytes, 2, False, 640, 1)
    found, streams = split(compiled(), words.tobytes(), shape)
    streams[number] = streams[number][:-1] if change < 0 else streams[number] + b"\0"
    if change < 0 and not streams[number]:
        return
    with pytest.raises(ValueError, match="refuses a frame: -4"):
        compiled().join(streams[0], shape, found, lambda _: streams[1:])


@pytest.mark.parametrize(
    "shape",
    [
        PixelShape(0, 2, False, 1, 1), PixelShape(64, 3, False, 1, 1), PixelShape(63, 2, False, 1, 1),
        PixelShape(64, 2, False, 0, 1), PixelShape(64, 2, False, 5, 1), PixelShape(64, 2, False, 33, 1),
        PixelShape(64, 2, False, 4, 0), PixelShape(64, 2, False, 4, 3), PixelShape(60, 1, False, 5, 5),
        PixelShape((1 << 20) + 16, 1, False, 16, 1),
    ],
)  # fmt: skip
def test_the_kernel_refuses_an_impossible_shape(shape: PixelShape) -> None:
    with pytest.raises(ValueError, match="refuses pixels: -1"):
        split(compiled(), bytes(shape.size), shape)
    with pytest.raises(ValueError, match="refuses a frame: -"):
        compiled().join(bytes(8), shape, 1, lambda sizes: [bytes(size) for size in sizes])


def test_the_kernel_lets_go_of_the_global_lock() -> None:
    found = library.load()
    if isinstance(found, str):
        absent(found)
    assert type(found) is ctypes.CDLL  # and not PyDLL, which keeps it


@pytest.fixture
def moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder of the library."""
    compiled()
    shutil.copytree(Path(library.__file__).parent, tmp_path / "native")
    monkeypatch.setattr(library, "_HERE", tmp_path / "native")
    return tmp_path / "native"


def test_a_library_is_only_loaded_beside_the_source_it_was_made_from(
    moved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(library.load(), ctypes.CDLL)
    for name in library.SOURCES:
        source = (moved / name).read_bytes()
        (moved / name).write_bytes(source + b"\n")
        assert library.load() == "no library was compiled for this version of it"
        (moved / name).write_bytes(source)
    monkeypatch.setattr(platform, "machine", lambda: "s390")
    assert library.load() == "no library was compiled for this version of it"


def test_what_is_no_library_is_not_used(moved: Path) -> None:
    (moved / library.file_name(platform.machine())).write_bytes(b"not a library")
    assert library.load() == "its library cannot be loaded on this machine"


def test_without_a_library_numpy_codes_and_says_why(moved: Path) -> None:
    for each in moved.glob("kernel-*.so"):
        each.unlink()
    caches = (choice.kernels, choice._loaded)
    for cached in caches:
        cached.cache_clear()
    try:
        assert isinstance(choice.kernels(), Pure)
        assert choice.why_pure()
    finally:
        for cached in caches:
            cached.cache_clear()


def test_this_process_has_the_library() -> None:
    compiled()
    assert isinstance(choice.kernels(), Compiled)
    assert not choice.why_pure()
