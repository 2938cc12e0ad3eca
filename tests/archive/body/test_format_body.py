"""FORMAT-BODY.md says what the code does: its example, its tables, and a second reader written from it."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

from coffer.archive.body.head import FRAME, HEAD
from coffer.archive.body.sealed_body import CONTEXT as CONTEXT_LAYOUT
from coffer.archive.codec.dictionary import HEADERS
from coffer.archive.codec.layout import PixelLayout
from coffer.keys.crypto import aead
from tests.archive.body.test_body import CONTEXT, KEY, reader, seal
from tests.vectors import make_dictionary
from tests.vectors.reader_body import read_body

PAPER = (Path(__file__).parents[3] / "archive" / "FORMAT-BODY.md").read_text()
IDS = (CONTEXT.archive_id, CONTEXT.study_key_id, CONTEXT.content_id)


def test_the_example_is_what_is_sealed(tmp_path: Path) -> None:
    sealed = seal(tmp_path, b"Hello, archive!")
    plain = aead.open_sealed(KEY, CONTEXT.bind(aead.plain_length(len(sealed))), sealed)
    example = PAPER.split("plain ", 1)[1].split("```", 1)[0]
    shown = "".join(re.findall(r"\b[0-9a-f]{2,}\b", re.sub(r"\(.*?\)", "", example)))
    zeros, whole = map(int, re.findall(r"\((\d+) zero bytes: (\d+) in all\)", example)[0])
    assert bytes.fromhex(shown) + bytes(zeros) == plain
    assert len(plain) == whole


def test_the_tables_have_the_sizes_of_the_code() -> None:
    sections = {name: PAPER.split(f"## {name}\n", 1)[1].split("\n## ", 1)[0] for name in ("Sealing", "Plain body")}
    for section, size in (("Sealing", CONTEXT_LAYOUT.size), ("Plain body", HEAD.size)):
        rows = [(int(a), int(b)) for a, b in re.findall(r"^\| (\d+) \| (\d+) \|", sections[section], re.MULTILINE)]
        assert [a for a, _ in rows] == [sum(b for _, b in rows[:i]) for i in range(len(rows))]
        assert sum(b for _, b in rows) == size
    assert FRAME.size == 8


def test_the_dictionary_is_the_one_of_the_paper_and_nobodys_header() -> None:
    assert f"{len(HEADERS)} bytes, SHA-256\n`{hashlib.sha256(HEADERS).hexdigest()}`" in PAPER
    assert make_dictionary.content() == HEADERS


def test_a_second_reader_gets_a_short_header(tmp_path: Path) -> None:
    data = make_dictionary.header("1.2.840.10008.5.1.4.1.1.1", "CR")
    sealed = seal(tmp_path, data)
    with reader(sealed) as body:
        assert body.used < 340 < len(data)
    assert read_body(KEY.reveal(), IDS, CONTEXT.kind, sealed) == (b"meta", data)


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "u1", "<u4"])
@pytest.mark.parametrize("samples", [1, 3])
def test_a_second_reader_gets_the_data_set(tmp_path: Path, dtype: str, samples: int) -> None:
    y, x = np.mgrid[0:40, 0 : 32 * samples]
    for pixels in (1000 + 3 * x + 5 * y, x // 20 * 7, y // 9 * 3 + 0 * x, (x * y) % 251):
        data = b"head" * 9 + pixels.astype(dtype).tobytes() + b"tail"
        bits = np.dtype(dtype).itemsize * 8
        layout = PixelLayout(36, len(data) - 40, 40, 32, samples, bits, 1, dtype.startswith(">"))
        sealed = seal(tmp_path, data, layout=layout)
        assert read_body(KEY.reveal(), IDS, CONTEXT.kind, sealed) == (b"meta", data)


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "u1", "<u4"])
def test_a_second_reader_gets_words_of_every_size(tmp_path: Path, dtype: str) -> None:
    """Noise that grows from row to row, in a row length that blocks do not divide: streams of all classes."""
    bits = np.dtype(dtype).itemsize * 8
    rng = np.random.default_rng(bits)
    rows = [rng.integers(0, 1 << row * bits // 160 + 1, 99) - (1 << row * bits // 160) for row in range(150)]
    for pixels in (np.cumsum(rows, axis=1), np.array(rows), np.zeros((150, 99)), np.abs(rows)):
        data = pixels.astype(np.int64).astype(dtype).tobytes()
        layout = PixelLayout(0, len(data), 150, 99, 1, bits, 1, dtype.startswith(">"))
        sealed = seal(tmp_path, data, layout=layout)
        assert read_body(KEY.reveal(), IDS, CONTEXT.kind, sealed) == (b"meta", data)


@pytest.mark.parametrize("size", [0, 1, 16_000, 2_000_000])
def test_a_second_reader_gets_plain_bytes(tmp_path: Path, size: int) -> None:
    data = (b"any bytes at all " * (size // 17 + 1))[:size]
    assert read_body(KEY.reveal(), IDS, CONTEXT.kind, seal(tmp_path, data)) == (b"meta", data)
