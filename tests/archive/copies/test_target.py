"""The contract of a target, held by each kind of it."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from coffer.archive.copies.folder_target import FolderTarget
from coffer.archive.copies.memory_target import MemoryTarget
from coffer.archive.copies.target import Target
from coffer.keys.errors import InputError, IntegrityError, NotFoundError, UnavailableError
from coffer.server.backup.s3_target import S3Target
from tests.keys.disk.test_durable import Recorder
from tests.server.backup.s3_server import new_bucket, s3_server


@pytest.fixture(scope="module")
def buckets() -> Iterator[list[str]]:
    """An object store on loopback, and the names of buckets that were made there."""
    with s3_server() as made:
        yield made


@pytest.fixture(params=["folder", "memory", "s3"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Target:
    if request.param == "s3":
        bucket = new_bucket(request.getfixturevalue("buckets"))
        return S3Target(f"s3://{bucket}/some/prefix")
    return FolderTarget(tmp_path) if request.param == "folder" else MemoryTarget()


def test_what_was_put_is_there(target: Target) -> None:
    target.put("a/b/one", b"first")
    target.put("a/two", memoryview(b"second"))
    assert target.get("a/b/one") == b"first"
    assert target.read("a/two", 2, 3) == b"con"
    assert [(each.name, each.size) for each in target.list("a/")] == [("a/b/one", 5), ("a/two", 6)]
    assert [each.name for each in target.list("a/b")] == ["a/b/one"]
    assert target.list("b") == []


def test_an_object_is_replaced_as_a_whole(target: Target) -> None:
    target.put("one", b"first")
    target.put("one", b"2")
    assert target.get("one") == b"2"
    assert [each.size for each in target.list("")] == [1]


def test_an_object_that_is_not_there(target: Target) -> None:
    with pytest.raises(NotFoundError):
        target.get("one")
    with pytest.raises(NotFoundError):
        target.read("a/one", 0, 1)
    target.remove("one")
    target.put("one", b"1")
    target.remove("one")
    assert target.list("") == []


def test_no_more_is_read_than_was_asked_for(target: Target) -> None:
    target.put("one", bytes(11))
    with pytest.raises(IntegrityError):
        target.get("one", 10)
    with pytest.raises(IntegrityError):
        target.read("one", 5, 7)


@pytest.mark.parametrize("name", ["", "/a", "../a", "a/../b", "a//b", "a/", ".a", "A", "a b", "a\n", "a/" * 7 + "a"])
def test_no_name_leads_out(target: Target, name: str) -> None:
    for call in (lambda: target.put(name, b""), lambda: target.get(name), lambda: target.remove(name)):
        with pytest.raises(InputError):
            call()


def test_many_at_once(target: Target) -> None:
    threads = [threading.Thread(target=target.put, args=(f"p/{n}", bytes([n]) * 1000)) for n in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert [each.size for each in target.list("p/")] == [1000] * 8


def test_a_folder_that_is_not_mounted_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError):
        FolderTarget(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()


def test_what_is_read_back_from_a_folder_comes_from_the_medium(tmp_path: Path) -> None:
    calls = Recorder()
    FolderTarget(tmp_path, calls=calls).put("one", b"first")
    assert calls.names[-5:] == ["posix_fadvise", "close", "open", "fsync", "close"]
    assert calls.names.index("rename") < calls.names.index("posix_fadvise")


def test_what_is_planted_in_a_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "target").mkdir()
    target = FolderTarget(tmp_path / "target")
    (tmp_path / "target" / "one").symlink_to(tmp_path / "secret")
    (tmp_path / "target" / "out").symlink_to(tmp_path)
    assert target.list("") == []
    for name in ("one", "out/secret"):
        with pytest.raises(IntegrityError):
            target.get(name)
    with pytest.raises((IntegrityError, UnavailableError)):
        target.put("out/written", b"")
    assert not (tmp_path / "written").exists()
