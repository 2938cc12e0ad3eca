"""Sources: the same bytes and the same errors, wherever the bytes are."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coffer.archive.store.source import FileSource, MemorySource, Source
from coffer.keys.errors import FormatError, UnreadableError

DATA = bytes(range(256)) * 40


@pytest.fixture(params=["file", "memory", "file, short reads"])
def source(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Source]:
    """`DATA`, and at the edge of the file, where that is asked for, never more than 7 bytes at once."""
    made: Source = MemorySource(DATA)
    if request.param != "memory":
        (tmp_path / "file").write_bytes(DATA)
        made = FileSource(os.open(tmp_path / "file", os.O_RDONLY))
    if "short" in request.param:
        real = os.pread
        monkeypatch.setattr(os, "pread", lambda fd, length, offset: real(fd, min(length, 7), offset))
    with made:
        yield made


def test_what_is_read_is_exactly_what_was_asked_for(source: Source) -> None:
    assert source.size == len(DATA)
    assert source.read(0, len(DATA)) == DATA
    assert source.read(100, 500) == DATA[100:600]
    assert source.read(len(DATA), 0) == source.read(5, 0) == b""


@pytest.mark.parametrize(("offset", "length", "lacking"), [(0, 10_250, 10), (10_200, 100, 60), (20_000, 1, 1)])
def test_the_end_is_an_error_and_no_short_answer(source: Source, offset: int, length: int, lacking: int) -> None:
    with pytest.raises(FormatError, match=f"ends {lacking} bytes too early"):
        source.read(offset, length)
    with pytest.raises(FormatError):
        source.read_many([(0, 10), (offset, length)])


def test_many_come_in_the_order_in_which_they_were_asked_for(source: Source) -> None:
    ranges = [(700, 20), (0, 5), (705, 10), (0, 0), (10_239, 1)]
    assert list(source.read_many(ranges)) == [DATA[at : at + length] for at, length in ranges]


def test_hints_change_nothing_that_is_read(source: Source) -> None:
    source.skim()
    source.forget(0, 0)
    source.forget(4096, 100)
    assert source.read(4090, 200) == DATA[4090:4290]


def test_closing_twice_is_closing_once(source: Source) -> None:
    source.close()
    source.close()


@pytest.mark.parametrize("change", [lambda path: path.write_bytes(DATA * 2), lambda path: os.truncate(path, 100)])
def test_the_size_is_what_the_file_has_now(tmp_path: Path, change: Callable[[Path], object]) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    with FileSource(os.open(path, os.O_RDONLY)) as source:
        change(path)
        assert source.size == path.stat().st_size
        assert source.read(0, source.size) == path.read_bytes()


def test_what_cannot_be_read_is_no_end(tmp_path: Path) -> None:
    source = FileSource(os.open(tmp_path, os.O_RDONLY))  # a folder refuses pread
    with source, pytest.raises(UnreadableError, match="cannot be read"):
        source.read(0, 1)
