"""The order of system calls, and what happens when any one of them fails."""

from __future__ import annotations

import ast
import errno
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from coffer.keys.buffer import Buffer
from coffer.keys.disk import durable
from coffer.keys.disk.append_file import AppendFile
from coffer.keys.disk.syscalls import SystemCalls
from coffer.keys.errors import UnavailableError
from tests.conftest import ROOT

SYNCS = {"fsync", "fdatasync", "sync", "syncfs", "sync_file_range"}
NAMES = {"rename", "renames", "replace", "link", "symlink", "unlink", "remove", "rmdir", "removedirs"}
TREES = {"rmtree", "move", "copytree"}
OF_PATHS = {"rename", "unlink", "rmdir", "hardlink_to", "symlink_to"}  # and `replace`, which has one argument


class Recorder:
    """Passes calls on, writes their names down, and fails call number `fail_at`, before or after doing it."""

    def __init__(
        self, fail_at: int = -1, *, after: bool = False, number: int = errno.EIO, at_most: int = 1 << 30
    ) -> None:
        self.names: list[str] = []
        self._fail_at, self._after, self._errno, self._at_most = fail_at, after, number, at_most
        self._real = SystemCalls()

    def _call(self, name: str, *args: object) -> object:
        self.names.append(name)
        fails = len(self.names) - 1 == self._fail_at
        if fails and not self._after:
            raise OSError(self._errno, os.strerror(self._errno))
        result = getattr(self._real, name)(*args)
        if fails:
            raise OSError(self._errno, os.strerror(self._errno))
        return result

    def writev(self, fd: int, buffers: Sequence[Buffer]) -> int:
        rest, taken = self._at_most, []
        for buffer in buffers:
            taken.append(memoryview(buffer)[:rest])
            rest -= len(taken[-1])
        return self._call("writev", fd, taken)  # type: ignore[return-value]

    def pwrite(self, fd: int, data: Buffer, offset: int) -> int:
        return self._call("pwrite", fd, memoryview(data)[: self._at_most], offset)  # type: ignore[return-value]

    def __getattr__(self, name: str) -> Callable[..., object]:
        return lambda *args: self._call(name, *args)


def test_write_new_syncs_file_then_folder(tmp_path: Path) -> None:
    calls = Recorder(at_most=3)
    durable.write_new(tmp_path / "f", b"12345678", calls=calls)  # type: ignore[arg-type]
    assert calls.names == [
        *["unlink", "open", "lseek", "open", "fsync", "close", "writev", "writev", "writev", "fdatasync", "close"],
        *["link", "unlink", "open", "fsync", "close"],
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["f"]
    assert (tmp_path / "f").read_bytes() == b"12345678"
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o600


def test_write_new_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    with pytest.raises(UnavailableError):
        durable.write_new(tmp_path / "f", b"new")
    without_links = Recorder(9, number=errno.EPERM)  # as FAT answers
    with pytest.raises(UnavailableError, match="exists already"):
        durable.write_new(tmp_path / "f", b"new", calls=without_links)  # type: ignore[arg-type]
    assert (tmp_path / "f").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_write_new_renames_where_there_are_no_links(tmp_path: Path) -> None:
    calls = Recorder(9, number=errno.EPERM)
    durable.write_new(tmp_path / "f", b"new", calls=calls)  # type: ignore[arg-type]
    assert calls.names[9:] == ["link", "rename", "unlink", "open", "fsync", "close"]
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_replace_syncs_before_the_rename_and_the_folder_after(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"old")
    (tmp_path / ".f.new").write_bytes(b"left by a crash")
    calls = Recorder()
    durable.replace(tmp_path / "f", b"new", calls=calls)  # type: ignore[arg-type]
    assert calls.names == ["unlink", "open", "writev", "fsync", "close", "rename", "open", "fsync", "close"]
    assert (tmp_path / "f").read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_make_folder(tmp_path: Path) -> None:
    calls = Recorder()
    durable.make_folder(tmp_path / "d", calls=calls)  # type: ignore[arg-type]
    durable.make_folder(tmp_path / "d")
    assert calls.names == ["mkdir", "open", "fsync", "close"]
    assert (tmp_path / "d").stat().st_mode & 0o777 == 0o700
    (tmp_path / "f").write_bytes(b"")
    with pytest.raises(UnavailableError):
        durable.make_folder(tmp_path / "f")


@pytest.mark.parametrize("after", [False, True])
def test_a_fault_in_any_call_of_replace_leaves_old_or_new(tmp_path: Path, after: bool) -> None:
    for at in range(9):
        folder = tmp_path / str(at)
        folder.mkdir()
        (folder / "f").write_bytes(b"old")
        (folder / ".f.new").write_bytes(b"left by a crash")
        with pytest.raises(UnavailableError):
            durable.replace(folder / "f", b"new", calls=Recorder(at, after=after))  # type: ignore[arg-type]
        # The rename is call 5; before it the old content stands, after it the new.
        assert (folder / "f").read_bytes() == (b"new" if at > 5 or (at == 5 and after) else b"old")


@pytest.mark.parametrize("after", [False, True])
def test_a_fault_in_any_call_of_write_new_is_reported(tmp_path: Path, after: bool) -> None:
    for at in set(range(14)) - {0, 10}:  # what a stop left before is not there; nobody needs the other name any more
        with pytest.raises(UnavailableError):
            durable.write_new(tmp_path / str(at), b"new", calls=Recorder(at, after=after))  # type: ignore[arg-type]
        assert (tmp_path / str(at)).exists() == (at > 9 or (at == 9 and after))
        assert not (tmp_path / f".{at}.new").exists()


def test_settle_syncs_before_it_drops_the_cache_and_the_folder_last(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"left by a killed process")
    calls = Recorder()
    durable.resync(tmp_path / "f", calls=calls)  # type: ignore[arg-type]
    assert calls.names == ["open", "fdatasync", "posix_fadvise", "close", "open", "fsync", "close"]
    assert (tmp_path / "f").read_bytes() == b"left by a killed process"
    for at in range(7):
        with pytest.raises(UnavailableError):
            durable.resync(tmp_path / "f", calls=Recorder(at))  # type: ignore[arg-type]


def _session(path: Path, calls: Recorder, done: list[str]) -> None:
    file = AppendFile(path, create=True, calls=calls)  # type: ignore[arg-type]
    try:
        for name, step in (
            ("append", lambda: file.write_all([b"abc", b"", b"defg"])),
            ("sync", file.sync),
            ("at", lambda: file.write_at(1, b"XY")),
            ("cut", lambda: file.truncate(5)),
            ("more", lambda: file.write_all([b"!"])),
            ("sync2", file.sync),
        ):
            step()
            done.append(name)
    except UnavailableError:
        _assert_stopped(file)
        raise
    finally:
        file.close()


def _assert_stopped(file: AppendFile) -> None:
    """After a failure no call reaches the kernel any more."""
    assert file.failed
    before = list(file._calls.names)  # type: ignore[attr-defined]
    for call in (file.sync, lambda: file.write_all([b"z"]), lambda: file.write_at(0, b"z"), lambda: file.truncate(0)):
        with pytest.raises(UnavailableError, match="earlier write failed"):
            call()
    assert file._calls.names == before  # type: ignore[attr-defined]


def test_append_file_calls_and_content(tmp_path: Path) -> None:
    calls, done = Recorder(at_most=4), list[str]()
    _session(tmp_path / "f", calls, done)
    assert (tmp_path / "f").read_bytes() == b"aXYde!"
    assert calls.names == [
        *["open", "lseek", "open", "fsync", "close"],
        *["writev", "writev", "fdatasync", "pwrite", "lseek", "ftruncate", "lseek", "writev", "fdatasync", "close"],
    ]


@pytest.mark.parametrize("after", [False, True])
def test_append_file_stops_at_any_fault(tmp_path: Path, after: bool) -> None:
    for at in range(14):
        done: list[str] = []
        with pytest.raises(UnavailableError):
            _session(tmp_path / f"{at}", Recorder(at, after=after, at_most=4), done)
        if at < 8:
            assert "sync" not in done


def test_append_file_reopens_at_its_end(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"abc")
    file = AppendFile(tmp_path / "f")
    file.write_all([b"%d," % i for i in range(3000)])
    file.sync()
    assert file.size == (tmp_path / "f").stat().st_size
    assert (tmp_path / "f").read_bytes() == b"abc" + b"".join(b"%d," % i for i in range(3000))
    file.close()
    file.close()
    with pytest.raises(UnavailableError, match="closed"):
        file.sync()


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="No space") as caught:
        durable.write_new(tmp_path / "f", b"x", calls=Recorder(6, number=errno.ENOSPC))  # type: ignore[arg-type]
    assert "free space" in caught.value.hint()
    assert not (tmp_path / "f").exists()


def test_a_staged_file_is_durable_before_it_has_its_name_and_takes_no_ones_place(tmp_path: Path) -> None:
    calls = Recorder()
    fresh = durable.stage(tmp_path / "f", [b"12", b"34"], calls=calls)  # type: ignore[arg-type]
    assert durable.place(fresh, tmp_path / "f", calls=calls)  # type: ignore[arg-type]
    assert calls.names == [
        *["unlink", "open", "lseek", "open", "fsync", "close", "writev", "writev", "fdatasync", "close"],
        *["link", "unlink", "open", "fsync", "close"],
    ]
    assert not durable.place(durable.stage(tmp_path / "f", [b"other"]), tmp_path / "f")
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"f": b"1234"}


@pytest.mark.parametrize("taken", [False, True])
def test_a_file_system_without_links(tmp_path: Path, taken: bool) -> None:
    fresh = durable.stage(tmp_path / "f", [b"new"])
    if taken:
        (tmp_path / "f").write_bytes(b"old")
    calls = Recorder(0, number=errno.EPERM)
    assert durable.place(fresh, tmp_path / "f", calls=calls) is not taken  # type: ignore[arg-type]
    assert calls.names == ["link", *([] if taken else ["rename"]), "unlink", "open", "fsync", "close"]
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"f": b"old" if taken else b"new"}


def test_what_cannot_be_staged_leaves_nothing(tmp_path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"1"
        raise ValueError

    with pytest.raises(ValueError):
        durable.stage(tmp_path / "f", pieces())
    for at in range(1, 9):
        with pytest.raises(UnavailableError):
            durable.stage(tmp_path / "f", [b"12"], calls=Recorder(at))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_folders_are_made_durably_from_the_top(tmp_path: Path) -> None:
    calls = Recorder()
    for _ in range(2):  # those that are there may be what a stop left: their names are synced again
        calls.names.clear()
        durable.make_folders(tmp_path / "a" / "b", tmp_path, calls=calls)  # type: ignore[arg-type]
        assert calls.names == ["mkdir", "open", "fsync", "close"] * 2


def test_what_nobody_needs_is_removed_as_far_as_it_goes(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "f").write_bytes(b"")
    durable.discard(tmp_path / "missing")
    durable.discard_folder(tmp_path / "a", calls=Recorder(0))  # type: ignore[arg-type]
    assert (tmp_path / "a" / "b" / "f").exists()
    durable.discard_folder(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


OWNERS = [f"keys/disk/{name}.py" for name in ("durable", "append_file", "syscalls", "lmdb_environment")]


def test_no_other_module_syncs_renames_links_or_removes() -> None:
    found = []
    for package in ("keys", "archive", "index", "server"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = str(path.relative_to(ROOT))
            # The second line: names in a folder of the process's own, gone when the database is open.
            if name not in (
                "keys/disk/durable.py",
                "keys/disk/append_file.py",
                "keys/disk/syscalls.py",
                "keys/disk/lmdb_environment.py",
            ):
                found += [f"{name}:{line}" for line in changes_of_files(path.read_text())]
    assert found == []
    seen = "import os\nfrom os import fsync\nos.replace(a, b)\nx = os.unlink\npath.rename(b)\npath.replace(b)\n"
    assert changes_of_files(seen + 'durable.replace(a, b)\ns.replace("a", "b")\nrows.remove(1)\n') == [2, 3, 4, 5, 6]


def changes_of_files(source: str) -> list[int]:
    """The lines of a program that call, or take hold of, what changes names of files or syncs them."""
    lines = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.ImportFrom(module="os" | "shutil", names=names):
                bad = any(name.name in SYNCS | NAMES | TREES for name in names)
            case ast.Attribute(value=ast.Name(id="os"), attr=attr):
                bad = attr in SYNCS | NAMES
            case ast.Attribute(value=ast.Name(id="shutil"), attr=attr):
                bad = attr in TREES
            case ast.Call(func=ast.Attribute(value=ast.Name(id="durable"))):
                bad = False
            case ast.Call(func=ast.Attribute(attr="replace"), args=[_], keywords=[]):
                bad = True
            case ast.Call(func=ast.Attribute(attr=attr)):
                bad = attr in OF_PATHS
            case _:
                bad = False
        if bad:
            lines.add(node.lineno)
    return sorted(lines)
