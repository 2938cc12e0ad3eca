"""An LMDB file whose lock file somebody writes, or whose meta page cannot be written: nothing waits for ever."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import lmdb
import pytest

from coffer.keys.disk import lmdb_file
from coffer.keys.disk.helper_thread import HelperThread
from coffer.keys.disk.lmdb_file import LmdbFile
from coffer.keys.errors import UnavailableError

READERS, WRITER = 8, 64  # where LMDB keeps its two locks in the lock file
HOLDS_IT_OPEN = """
import sys, lmdb
env = lmdb.open(sys.argv[1], map_size=1 << 24)
print("open", flush=True)
sys.stdin.read()
"""
LOCKS_IT = """
import fcntl, sys
file = open(sys.argv[1], "r+b")
fcntl.lockf(file, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""

WRITES = """
import sys
from pathlib import Path
from coffer.keys.disk.lmdb_file import LmdbFile
folder = Path(sys.argv[1])
file = LmdbFile(folder / "data.mdb", folder / "lock.mdb", create=False, readonly=False, map_size=1 << 24)
file.write(lambda txn: txn.put(b"b", b"2"))
with file.reading() as txn:
    assert (txn.get(b"a"), txn.get(b"b")) == (b"1", b"2")
file.close()
"""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdb_file, "_PATIENCE_SECONDS", 1.0)


def opened(folder: Path, *, create: bool = False, readonly: bool = False) -> LmdbFile:
    return LmdbFile(folder / "data.mdb", folder / "lock.mdb", create=create, readonly=readonly, map_size=1 << 24)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A file with a row."""
    (tmp_path / "rows").mkdir()
    file = opened(tmp_path / "rows", create=True)
    file.write(lambda txn: txn.put(b"a", b"1"))
    file.close()
    return tmp_path / "rows"


def value(file: LmdbFile, key: bytes = b"a") -> bytes | None:
    with file.reading() as txn:
        found = txn.get(key)
    return None if found is None else bytes(found)


def hold(folder: Path, where: int) -> None:
    """Leave one of LMDB's locks as if a process held it that lives and never lets go."""
    with (folder / "lock.mdb").open("r+b") as file:
        file.seek(where)
        file.write(struct.pack("<I", os.getppid()))


@contextmanager
def beside(script: str, path: Path) -> Iterator[None]:
    """Another process that does this until the block ends."""
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdin is not None
    assert other.stdout is not None
    try:
        assert other.stdout.readline()
        yield
    finally:
        other.stdin.close()
        other.wait(30)
        other.stdout.close()


def refused(act: Callable[[], object]) -> UnavailableError:
    began = time.monotonic()
    with pytest.raises(UnavailableError) as error:
        act()
    assert time.monotonic() - began < 12
    return error.value


def require_remedy(error: UnavailableError, folder: Path) -> None:
    """It names the file, and what it says to do works, here in a process of its own: the thread left behind in this one
    has the file open."""
    assert f"{folder / 'lock.mdb'}" in str(error)
    assert f"remove {folder / 'lock.mdb'}" in error.hint()
    (folder / "lock.mdb").unlink()
    subprocess.run([sys.executable, "-c", WRITES, str(folder)], check=True, timeout=60)


@pytest.mark.parametrize("where", [(READERS,), (WRITER,), (READERS, WRITER)])
def test_a_lock_that_nobody_releases_lets_reads_go_on_and_ends_a_write(folder: Path, where: tuple[int, ...]) -> None:
    file = opened(folder)
    for each in where:
        hold(folder, each)
    for _ in range(20):
        assert value(file) == b"1"
    if WRITER in where:
        error = refused(lambda: file.write(lambda txn: txn.put(b"a", b"2")))
        assert "was not free for 1 s" in str(error)
        assert refused(file.require_reachable) is error
        assert value(file) == b"1"
    if READERS in where:

        def two_at_once() -> None:
            with ExitStack() as at_once:
                for _ in range(2):
                    at_once.enter_context(file.reading())

        error = refused(two_at_once)
    file.close()
    require_remedy(error, folder)


def test_a_lock_that_is_released_late_is_had_again_and_nothing_was_written_meanwhile(folder: Path) -> None:
    file = opened(folder)
    held, let_go = threading.Event(), threading.Event()

    def write() -> None:
        with file._env.begin(write=True):
            held.set()
            let_go.wait()

    other = threading.Thread(target=write)
    other.start()
    held.wait()
    refused(lambda: file.write(lambda txn: txn.put(b"a", b"too late")))
    let_go.set()
    other.join()
    while file._helper.is_busy:
        time.sleep(0.01)
    file.require_reachable()
    assert value(file) == b"1"
    file.write(lambda txn: txn.put(b"a", b"2"))
    assert value(file) == b"2"
    file.close()


@pytest.mark.parametrize("content", [b"\xff" * 16512, b"", b"\0" * 64, os.urandom(8192)])
def test_whoever_opens_it_alone_begins_a_new_lock_file(folder: Path, content: bytes) -> None:
    before = (folder / "lock.mdb").stat().st_ino
    (folder / "old").hardlink_to(folder / "lock.mdb")  # so that its number is not given again
    (folder / "lock.mdb").write_bytes(content)
    file = opened(folder)
    assert (folder / "lock.mdb").stat().st_ino != before
    file.write(lambda txn: txn.put(b"a", b"2"))
    assert value(file) == b"2"
    file.close()


def test_a_lock_file_in_use_stays(folder: Path) -> None:
    before = (folder / "lock.mdb").stat().st_ino
    with beside(HOLDS_IT_OPEN, folder):
        file = opened(folder)
        assert (folder / "lock.mdb").stat().st_ino == before
        file.close()
    file = opened(folder)
    with pytest.raises(lmdb.Error, match="already open in this process"):
        opened(folder)
    with beside(HOLDS_IT_OPEN, folder):  # which would begin it anew if the attempt had released this one's lock
        assert value(file) == b"1"
    file.close()


@pytest.mark.parametrize("where", [READERS, WRITER])
def test_opening_it_beside_another_ends(folder: Path, where: int) -> None:
    with beside(HOLDS_IT_OPEN, folder):
        hold(folder, where)
        if where == WRITER:
            file = opened(folder, readonly=True)
            assert value(file) == b"1"
            file.close()
            file = opened(folder)
            error = refused(lambda: file.write(lambda txn: txn.put(b"a", b"2")))
            file.close()
        else:
            error = refused(lambda: opened(folder))
    require_remedy(error, folder)


def test_a_lock_file_that_is_not_lmdbs_is_not_taken_for_damage(folder: Path) -> None:
    with beside(HOLDS_IT_OPEN, folder):
        with (folder / "lock.mdb").open("r+b") as file:
            file.write(b"\xff" * 8)
        error = refused(lambda: opened(folder))
    assert "holds what LMDB did not write" in str(error)
    require_remedy(error, folder)


def test_a_lock_file_that_somebody_locks_for_ever(folder: Path) -> None:
    script = "from coffer.keys.disk import lmdb_file\nlmdb_file._PATIENCE_SECONDS = 1.0\n" + WRITES
    with beside(LOCKS_IT, folder / "lock.mdb"):
        began = time.monotonic()
        done = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True, timeout=60)
        assert time.monotonic() - began < 12
        assert f"{folder / 'lock.mdb'} was overwritten, or another process hangs" in done.stderr
        (folder / "lock.mdb").unlink()
        subprocess.run([sys.executable, "-c", WRITES, str(folder)], check=True, timeout=60)


def test_rows_of_another_time_than_the_lock_file(folder: Path) -> None:
    with beside(HOLDS_IT_OPEN, folder):
        with (folder / "lock.mdb").open("r+b") as file:
            file.seek(48)
            file.write(struct.pack("<Q", 77))
        error = refused(lambda: opened(folder, readonly=True))
    assert "is not of the time of" in str(error)
    require_remedy(error, folder)


def break_meta_page(folder: Path) -> None:
    """Let LMDB's next write of a meta page fail, and no other: it has a descriptor of its own."""
    for link in [*Path("/proc/self/fd").iterdir()]:
        fd = int(link.name)
        try:
            is_it = link.readlink() == folder / "data.mdb"
            flags = fcntl.fcntl(fd, fcntl.F_GETFL) if is_it else 0
        except OSError:
            continue
        if flags & os.O_DSYNC:
            full = os.open("/dev/full", os.O_RDWR)
            os.dup2(full, fd)
            os.close(full)


def test_a_meta_page_that_cannot_be_written_ends_writing_and_not_reading(folder: Path) -> None:
    file = opened(folder)
    break_meta_page(folder)
    with pytest.raises(lmdb.Error):
        file.write(lambda txn: txn.put(b"a", b"2"))
    with pytest.raises(lmdb.PanicError):
        file.write(lambda txn: txn.put(b"a", b"2"))
    with pytest.raises(lmdb.PanicError), file.reading():
        pass
    file.reopen()
    assert value(file) in {b"1", b"2"}
    with pytest.raises(lmdb.Error):
        file.write(lambda txn: txn.put(b"a", b"3"))
    file.close()


def test_what_comes_too_late_is_not_done() -> None:
    helper, free, done = HelperThread("a test"), threading.Event(), []

    def work(waits_no_more: Callable[[], None]) -> None:
        free.wait()
        waits_no_more()
        done.append(1)

    with pytest.raises(TimeoutError):
        helper.do(work, 0.1)
    assert helper.is_busy
    free.set()
    assert helper.do(lambda waits_no_more: 7, 10) == 7
    assert not done
    helper.do(work, 10)
    assert (done, helper.is_busy) == ([1], False)
    with pytest.raises(ZeroDivisionError):
        helper.do(lambda waits_no_more: 1 // 0, 10)
    helper.end()


COMMITS = """
import pathlib, sys
from coffer.keys.disk.lmdb_file import LmdbFile
base = pathlib.Path(sys.argv[1])
file = LmdbFile(base / "data.mdb", base / "lock.mdb", create=True, readonly=False, sync=False)
print("open", flush=True)
number = 0
while True:
    number += 1
    file.write(lambda txn: txn.put(b"key", str(number).encode()))
"""


def test_a_file_that_somebody_keeps_changing_is_no_damaged_one(tmp_path: Path) -> None:
    """Two commits between two looks at it leave no page of the state that was looked at."""
    with subprocess.Popen([sys.executable, "-c", COMMITS, str(tmp_path)], stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"open\n"
            for _ in range(400):
                LmdbFile(tmp_path / "data.mdb", tmp_path / "lock.mdb", create=False, readonly=True).close()
        finally:
            writer.kill()
