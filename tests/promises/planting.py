"""An archive folder to plant things in, with files outside of it that nobody may change, and commands run on it.

Adversary: who writes the disk. Somebody who can write to the archive folder, and to the folder that `coffer get` writes
into, and has no key.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import Result

from tests.server.filled import free_port, run, study_files

OUR_CODES = {0, 1, 3, 4, 5, 6, 7, 8, 11, 12, 13}


def attempt(*args: str) -> Result:
    """One command that may refuse, with a cause and a remedy, but does not end by a defect."""
    done = run(*args, code=None)
    assert done.exit_code in OUR_CODES, done.output
    assert "\x1b[2J" not in done.output
    if done.exit_code not in {0, 1}:
        assert "remedy: " in done.stderr
    return done


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an archive of one study, its key file and its coffer.toml, and files outside that matter."""
    base = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(base)
        study_files(base / "files")
        ports = f"[dimse]\nport = {free_port()}\n[http]\nport = {free_port()}\n"
        text = "archive = 'data'\n[integrity]\nmark = 'data.mark'\n[storage]\nreserve_bytes = 0\n"
        (base / "coffer.toml").write_text(text + ports)
        run("init")
        run("put", "files")
        run("checkpoint", "sign")
    outside = base / "outside"
    shutil.copytree(base / "data", outside / "parts")
    (outside / "secret").write_bytes(b"one line, as of a passphrase")
    (outside / "parts" / "spool" / "0123456789abcdef.spool").write_bytes(b"somebody's")
    (outside / "parts" / "tiles" / "x.new").write_bytes(b"somebody's")
    return base


@pytest.fixture
def base(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to plant things in."""
    shutil.copytree(made, tmp_path / "base", symlinks=True)
    monkeypatch.chdir(tmp_path / "base")
    return tmp_path / "base"


def outside(base: Path) -> dict[str, bytes]:
    """Everything beside the archive folder that nobody may change."""
    files = [base / "data.key", base / "coffer.toml", *(p for p in (base / "outside").rglob("*") if p.is_file())]
    return {str(path.relative_to(base)): path.read_bytes() for path in files}


LINKED_FILES = (
    "LOCK", "pending.json", "archive.json", ".archive.json.new", "keyring/LOCK", "keyring/lock.mdb", "keyring/data.mdb",
    "index/lock.mdb", "index/data.mdb", "index/.data.mdb.new", "checkpoints/latest", "checkpoints/.latest.new",
    "checkpoints/history", "checkpoints/endorsements", "segments/00000001.seg", "segments/00000002.seg",
    "segments/.00000002.seg.new", "scrub/place.json", "scrub/1-96-abcdef.finding", "spool/0123456789abcdef.sealed",
    "tiles/tile/0/000.p/4", "tiles/tile/0/000.p/5", "tiles/a.new",
)  # fmt: skip
FOLDERS = ("segments", "checkpoints", "tiles", "keyring", "index", "spool", "scrub", "lost+found")


def put_in_place(path: Path) -> None:
    """Make the name free."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def afresh(base: Path, name: str) -> Path:
    """The archive as it was made, and a name in it that is free."""
    shutil.rmtree(base / "data")
    shutil.copytree(base / "outside" / "parts", base / "data")
    put_in_place(base / "data" / name)
    return base / "data" / name
