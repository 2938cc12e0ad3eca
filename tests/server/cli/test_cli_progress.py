"""What people see on a terminal while a command takes long: how much of how much is done, and the time that is left."""

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from tests.server.filled import run, study_files
from tests.server.services.test_media import directory

COFFER = Path(sys.executable).with_name("coffer")
NOTES = 100
TIME = r"[-\d]+:[-\d]{2}(:[-\d]{2})?"


def on_a_terminal(*args: str, code: int = 0) -> str:
    """What a command shows on a terminal of 120 columns, without what moves and colours it."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    environment = {**os.environ, "TERM": "xterm-256color", "COFFER_ARCHIVE": "", "COFFER_CONFIG": ""}
    process = subprocess.Popen([str(COFFER), *args], stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # Linux: the other end is closed
        while piece := os.read(ours, 65536):
            shown += piece
    os.close(ours)
    assert process.wait(60) == code, shown.decode(errors="replace")
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files to put, in a folder where an archive is configured."""
    monkeypatch.chdir(tmp_path)
    Path("coffer.toml").write_text("archive = 'data'\n[storage]\nreserve_bytes = 0\n")
    run("init")
    study_files(tmp_path / "files")
    for number in range(NOTES):
        (tmp_path / "files" / f"note{number:03d}").write_text("no DICOM, and read quickly")
    return tmp_path / "files"


def test_put_verify_and_rebuild_show_a_total_and_the_time_left(files: Path) -> None:
    seen = on_a_terminal("put", str(files))
    total = len(list(files.iterdir()))
    assert re.search(rf"storing .*\d+% +\d+/{total} {TIME}", seen), seen[-2000:]
    assert f"{total - NOTES} stored" in seen
    seen = on_a_terminal("verify", "--archive", "data")
    assert re.search(rf"verifying .*\d+% .*/.* [kM]?B.* {TIME}", seen), seen[-2000:]
    seen = on_a_terminal("index", "rebuild")
    assert re.search(r"indexing .*\d+% +\d+/\d+", seen), seen[-2000:]
    # Into a pipe or a file goes no bar.
    assert "%" not in run("verify").output


def test_a_dicomdir_is_put_by_the_command(tmp_path: Path, files: Path) -> None:
    media = tmp_path / "media"
    (media / "IMAGES").mkdir(parents=True)
    for number, path in enumerate(sorted(files.glob("*.dcm"))):
        path.rename(media / "IMAGES" / f"IM{number}")
    named = [["IMAGES", path.name] for path in sorted((media / "IMAGES").iterdir())]
    seen = on_a_terminal("put", str(directory(media / "DICOMDIR", *named, ["IMAGES", "GONE"])), code=12)
    assert re.search(rf"\d+/{len(named) + 1} ", seen), seen[-2000:]
    assert f"{len(named)} stored, 0 duplicate, 0 ignored, 0 skipped, 1 failed" in seen
    assert "named in the DICOMDIR, but not there" in seen
