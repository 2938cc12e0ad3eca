"""Reading by offset is whole or an error, whatever the system returns of it."""

import errno
import os
from pathlib import Path

import pytest

from coffer.keys.disk.reading import read_exactly, read_up_to, reading
from coffer.keys.errors import FormatError, UnreadableError

_DATA = bytes(range(256)) * 40


@pytest.fixture
def fd(tmp_path: Path) -> int:
    path = tmp_path / "file"
    path.write_bytes(_DATA)
    return os.open(path, os.O_RDONLY)  # closed with the process: a few per run


@pytest.mark.parametrize("most", [1, 2, 7, 100, 10_000])
def test_short_answers_are_gone_on_with(fd: int, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda f, length, offset: real(f, min(length, most), offset))
    assert read_exactly(fd, 100, 5000) == _DATA[100:5100]
    assert read_up_to(fd, 10_000, 5000) == _DATA[10_000:]
    assert read_up_to(fd, 20_000, 10) == b""
    with pytest.raises(FormatError, match="ends 60 bytes too early"):
        read_exactly(fd, 10_200, 100)


@pytest.mark.parametrize("at", range(3))
def test_an_end_before_the_end_of_the_file_is_no_end(fd: int, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """What a network file system may answer after a lost connection: nobody may cut the log for it."""
    real, calls = os.pread, iter(range(10))

    def pread(f: int, length: int, offset: int) -> bytes:
        return b"" if next(calls) >= at else real(f, min(length, 10), offset)

    monkeypatch.setattr(os, "pread", pread)
    with pytest.raises(UnreadableError, match="the system reports"):
        read_up_to(fd, 0, 100)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENODATA])
def test_what_the_medium_refuses_is_no_damage(fd: int, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def pread(_fd: int, _length: int, _offset: int) -> bytes:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "pread", pread)
    match = f"segment 3 cannot be read: {os.strerror(number)}"
    with pytest.raises(UnreadableError, match=match) as told, reading("segment 3"):
        read_exactly(fd, 0, 10)
    assert "try again" in told.value.hint()
