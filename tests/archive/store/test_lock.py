"""One writer at a time, and the other is told who it is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from coffer.archive.store.writer_lock import WriterLock, command_of, require_free, writer
from coffer.keys.errors import LockedError

HOLD = """
import sys, pathlib
from coffer.archive.store.writer_lock import WriterLock
lock = WriterLock(pathlib.Path(sys.argv[1]), "coffer serve", 1)
print("held", flush=True)
sys.stdin.read()
"""


def test_the_second_writer_is_told_who_holds_it(tmp_path: Path) -> None:
    with WriterLock(tmp_path / "LOCK", "coffer serve", 1), pytest.raises(LockedError, match="coffer serve") as refused:
        WriterLock(tmp_path / "LOCK", "coffer put", 2)
    assert f"pid {os.getpid()}" in str(refused.value)
    WriterLock(tmp_path / "LOCK", "coffer put", 2).close()


def test_a_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "LOCK"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(LockedError, match=f"pid {holder.pid}"):
        WriterLock(path, "coffer put", 2)
    holder.kill()
    holder.wait()
    holder.stdin.close()
    holder.stdout.close()
    assert b"coffer serve" in path.read_bytes()
    with WriterLock(path, "coffer put", 2):
        assert b"coffer put" in path.read_bytes()
    assert path.stat().st_size == 0


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"pid": 1}'])
def test_an_unreadable_name_is_another_process(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "LOCK"
    held = WriterLock(path, "coffer serve", 1)
    path.write_bytes(text)
    with pytest.raises(LockedError, match="another process"):
        WriterLock(path, "coffer put", 2)
    held.close()
    held.close()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["serve"], "coffer serve"),
        (["--config", "/etc/coffer.toml", "serve", "--insecure-open-role"], "coffer serve"),
        (["--archive", "here", "--config=there", "put", "file"], "coffer put"),
        ([], "coffer"),
    ],
    ids=" ".join,
)
def test_others_are_told_the_command_and_not_its_options(words: list[str], told: str) -> None:
    assert command_of(words) == told


def test_whoever_removes_the_lock_makes_no_room_for_a_second_writer(tmp_path: Path) -> None:
    path = tmp_path / "LOCK"
    with WriterLock(path, "coffer serve", 1):
        for take_away in (path.unlink, lambda: path.write_text("")):
            take_away()
            with pytest.raises(LockedError, match="another process, whose LOCK was removed"):
                WriterLock(path, "coffer put", 2)
            assert writer(path) is not None
            with pytest.raises(LockedError):
                require_free(path)
    WriterLock(path, "coffer put", 3).close()
    assert writer(path) is None
