"""Files below a folder that is not trusted: no link is followed, whatever is put in a file's place and whenever."""

import os
import stat
from pathlib import Path

import pytest

from coffer.keys.disk import durable, opening
from coffer.keys.disk.append_file import AppendFile
from coffer.keys.disk.lock import ProcessLock, holder, is_foreign
from coffer.keys.errors import IntegrityError, UnavailableError
from coffer.keys.memory.secret import Secret
from coffer.keys.store.lmdb_store import LmdbKeyringStore
from coffer.keys.store.sums import RowSums


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder that others may write to, and one beside it that they may not."""
    (tmp_path / "root" / "part").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_bytes(b"secret")
    opening.distrust(tmp_path / "root")
    return tmp_path / "root"


def lock(path: Path) -> ProcessLock:
    return ProcessLock(path, "test", 1, busy="held by", hint="wait")


def test_a_file_is_read_and_a_link_to_the_same_file_is_not(root: Path) -> None:
    (root / "part" / "f").write_bytes(b"here")
    (root / "part" / "inside").symlink_to("f")
    assert opening.read(root / "part" / "f", 4) == b"here"
    with pytest.raises(IntegrityError, match="is a link"):
        opening.read(root / "part" / "inside", 4)
    with pytest.raises(IntegrityError, match="larger than the 3 bytes"):
        opening.read(root / "part" / "f", 3)
    with pytest.raises(FileNotFoundError) as missing:
        opening.read(root / "part" / "none", 3)
    assert missing.value.filename == str(root / "part" / "none")


def test_the_folder_itself_may_be_reached_by_a_link(root: Path, tmp_path: Path) -> None:
    (root / "part" / "f").write_bytes(b"here")
    (tmp_path / "way").symlink_to(root)
    opening.distrust(tmp_path / "way")
    assert opening.read(tmp_path / "way" / "part" / "f", 9) == b"here"
    durable.replace(tmp_path / "way" / "part" / "f", b"new")
    assert (root / "part" / "f").read_bytes() == b"new"


def test_no_change_goes_through_a_link_on_the_way(root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (root / "way").symlink_to(outside)
    before = {path: path.read_bytes() for path in outside.iterdir()}
    for change in (
        lambda: durable.replace(root / "way" / "file", b""),
        lambda: durable.write_new(root / "way" / "new", b""),
        lambda: durable.remove(root / "way" / "file"),
        lambda: durable.make_folder(root / "way" / "folder"),
        lambda: durable.move(root / "way" / "file", root / "part" / "file"),
        lambda: durable.resync(root / "way" / "file"),
        lambda: AppendFile(root / "way" / "file"),
        lambda: AppendFile(root / "way" / "other", create=True),
    ):
        with pytest.raises(UnavailableError):
            change()
    durable.discard(root / "way" / "file")
    durable.discard_folder(root / "way")  # the link goes, not what it leads to
    assert not (root / "way").is_symlink()
    assert {path: path.read_bytes() for path in outside.iterdir()} == before


@pytest.mark.parametrize("swapped", ["file", "folder"])
def test_what_is_swapped_between_look_and_opening_is_not_opened(
    root: Path, tmp_path: Path, swapped: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, real = root / "part" / "f", os.stat
    path.write_bytes(b"here")

    def then_swap(name: str, *, dir_fd: int | None = None, follow_symlinks: bool = True) -> os.stat_result:
        found = real(name, dir_fd=dir_fd, follow_symlinks=follow_symlinks)
        if name == "f" and swapped == "file":
            path.unlink()
            path.symlink_to(tmp_path / "outside" / "file")
        elif name == "f":
            (root / "part").rename(root / "gone")
            (root / "part").symlink_to(tmp_path / "outside")
            (tmp_path / "outside" / "f").write_bytes(b"other")
        return found

    monkeypatch.setattr(os, "stat", then_swap)
    if swapped == "file":
        with pytest.raises(IntegrityError, match="is a link"):
            opening.read(path, 99)
    else:
        assert opening.read(path, 99) == b"here"  # the folder was held: what took its name is nobody's


def test_pipes_and_devices_are_told_without_being_opened(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(root / "part" / "p")
    opened: list[str] = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda name, *a, **k: opened.append(str(name)) or real(name, *a, **k))
    with pytest.raises(IntegrityError, match="named pipe, not a file"):
        opening.opened(root / "part" / "p")
    assert "p" not in opened


def test_a_lock_leaves_what_it_did_not_write(root: Path, tmp_path: Path) -> None:
    path = root / "LOCK"
    path.symlink_to(tmp_path / "outside" / "file")
    with pytest.raises(IntegrityError, match="is a link"):
        lock(path)
    assert holder(path) is None
    path.unlink()
    for content in (b"CofferKF and so on", b"x"):
        path.write_bytes(content)
        assert is_foreign(path)
        with lock(path):  # it is held all the same
            told = holder(path)
            assert told is not None
            assert str(told) == "another process"
        assert path.read_bytes() == content
    for content in (b"", bytes(40), b'{"pid": 7, "ho'):
        path.write_bytes(content)
        assert not is_foreign(path)
        with lock(path):
            assert holder(path).pid == os.getpid()  # type: ignore[union-attr]
        assert path.read_bytes() == b""
    (tmp_path / "outside" / "empty").touch()
    path.unlink()
    path.hardlink_to(tmp_path / "outside" / "empty")
    with lock(path):
        assert (tmp_path / "outside" / "empty").read_bytes() == b""


def test_a_database_is_that_of_the_files_that_were_looked_at(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who swaps the lock file for a link in the very moment when LMDB opens it gets nothing written."""
    import lmdb

    LmdbKeyringStore(root / "keyring", create=True).close()
    real, lock_file = lmdb.open, root / "keyring" / "lock.mdb"

    def swapped(*args: object, **options: object) -> object:
        lock_file.unlink()
        lock_file.symlink_to(tmp_path / "outside" / "file")
        return real(*args, **options)

    monkeypatch.setattr(lmdb, "open", swapped)
    store = LmdbKeyringStore(root / "keyring")
    assert store.begin([(b"Ka", bytes(12))], RowSums.under(Secret(bytes(32)), os.urandom))
    store.close()
    assert (tmp_path / "outside" / "file").read_bytes() == b"secret"
    monkeypatch.setattr(lmdb, "open", real)
    with pytest.raises(IntegrityError, match="is a link"):
        LmdbKeyringStore(root / "keyring")
    lock_file.unlink()
    store = LmdbKeyringStore(root / "keyring")
    assert store.get(b"Ka") == bytes(12)
    store.close()


def test_a_database_with_a_second_name_is_read_and_not_written(root: Path, tmp_path: Path) -> None:
    LmdbKeyringStore(root / "keyring", create=True).close()
    (tmp_path / "outside" / "data").hardlink_to(root / "keyring" / "data.mdb")
    LmdbKeyringStore(root / "keyring", readonly=True).close()  # a backup made of links can be looked at
    with pytest.raises(IntegrityError, match="second name") as refused:
        LmdbKeyringStore(root / "keyring")
    assert "cp -p" in refused.value.hint()


def test_a_name_of_any_bytes_is_shown_in_one_quiet_line() -> None:
    for raw in (b"a\nb", b"\x1b[2J", b"\xff\xfe", "\N{RIGHT-TO-LEFT OVERRIDE}x".encode(), b"x" * 4000):
        shown = opening.shown(os.fsdecode(raw))
        assert shown.isprintable()
        assert len(shown) < 400
    assert opening.shown("Größe 1.seg") == "Größe 1.seg"


def test_a_folder_with_more_names_than_any_is_not_listed_to_the_end(root: Path) -> None:
    for number in range(20):
        (root / "part" / str(number)).touch()
    assert len(opening.names(root / "part")) == 20
    with pytest.raises(IntegrityError, match="more than 10 entries"):
        opening.names(root / "part", 10)


def test_sizes_are_those_of_regular_files_and_0_for_anything_else(root: Path) -> None:
    (root / "part" / "five").write_bytes(b"12345")
    (root / "part" / "inner").mkdir()
    (root / "part" / "link").symlink_to(root / "part" / "five")
    assert opening.sizes(root / "part") == {"five": 5, "inner": 0, "link": 0}
    with pytest.raises(IntegrityError, match="more than 2 entries"):
        opening.sizes(root / "part", 2)


def test_new_files_are_the_accounts_alone(root: Path) -> None:
    os.close(opening.create(root / "part" / "s"))
    assert stat.S_IMODE((root / "part" / "s").stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        opening.create(root / "part" / "s")
