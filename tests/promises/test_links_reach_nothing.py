"""Promise: nothing outside an archive folder is read, written or removed because of a link or a second name that lies
in it, or in the folder that `coffer get` writes into; a link is told.

Adversary: who writes the disk (`planting.py`), with links to files and folders outside, and second names of them.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from coffer.archive.repair.planted import planted
from coffer.archive.store.folder import ArchiveFolder
from tests.promises import planting
from tests.promises.planting import FOLDERS, LINKED_FILES, afresh, attempt, outside
from tests.server.filled import run

made = planting.made
base = planting.base


def test_a_link_in_place_of_a_file_reaches_nothing_and_is_told(base: Path) -> None:
    for number, name in enumerate(LINKED_FILES):
        path = afresh(base, name)
        path.symlink_to(base / ("data.key", "outside/secret")[number % 2])
        before = outside(base)
        if name != "archive.json":
            folder = ArchiveFolder.open(base / "data")
            assert any(f"{name} is a link" in finding.what for finding in planted(folder)), name
        attempt("put", "files")
        assert outside(base) == before, name


@pytest.mark.parametrize("to", ["data.key", "outside/secret"])
def test_a_second_name_of_a_file_outside_changes_nothing_in_it(base: Path, to: str) -> None:
    for name in ("LOCK", "keyring/LOCK", "keyring/lock.mdb", "index/lock.mdb", "checkpoints/history"):
        afresh(base, name).hardlink_to(base / to)
        before = outside(base)
        attempt("put", "files")
        assert outside(base) == before, name
    afresh(base, "keyring/LOCK").hardlink_to(base / "outside" / "secret")
    run("keys", "rotate")  # nobody is told who holds the lock, which is held all the same
    assert outside(base)["outside/secret"] == before["outside/secret"]


def test_a_link_in_place_of_a_folder_reaches_nothing_and_is_told(base: Path) -> None:
    for name in (*FOLDERS, ".tiles.old", ".index.old", "tiles/tile", "tiles/tile/0/000.p"):
        afresh(base, name).symlink_to(base / "outside" / "parts" / (name if name in FOLDERS else "tiles"))
        before = outside(base)
        assert any("link" in finding.what for finding in planted(ArchiveFolder.open(base / "data"))), name
        attempt("put", "files")
        if name in {"index", ".index.old"}:
            attempt("index", "rebuild")
        if "tiles" in name:
            attempt("recover", "accept-loss", "--to", "4")
        assert outside(base) == before, name


def test_a_log_behind_a_link_is_not_read(base: Path) -> None:
    for name in ("segments", "checkpoints"):
        afresh(base, name).symlink_to(base / "outside" / "parts" / name)
        assert "link" in run("verify", code=1 if name == "checkpoints" else None).output


def test_get_follows_no_link_that_others_planted(base: Path) -> None:
    uid = run("find", "--return", "StudyInstanceUID").output.split()[-1]
    run("get", "--study", uid, "--out", "good")
    files = sorted((base / "good").rglob("*.dcm"))
    for depth in range(3):
        out, target = base / f"out{depth}", base / "outside" / "secret"
        path = files[0].relative_to(base / "good")
        planted = out / Path(*path.parts[: depth + 1])
        planted.parent.mkdir(parents=True)
        planted.symlink_to(target if depth == 2 else base / "outside")
        before = outside(base)
        done = run("get", "--study", uid, "--out", str(out), code=6)
        assert outside(base) == before
        assert f"{1 if depth == 2 else len(files)} failed" in done.output
    dangling = base / "out3" / files[0].relative_to(base / "good")
    dangling.parent.mkdir(parents=True)
    dangling.symlink_to(base / "outside" / "new")
    assert "1 failed" in run("get", "--study", uid, "--out", "out3", code=6).output
    assert not (base / "outside" / "new").exists()


def test_the_key_of_an_archive_reached_by_a_link_is_beside_the_archive(base: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "archive").symlink_to(base / "data")
    assert run("--archive", str(tmp_path / "elsewhere" / "archive"), "find").exit_code == 0
