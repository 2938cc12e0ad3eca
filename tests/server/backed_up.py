"""An archive of two studies with two snapshots, to be lost and brought back."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.filled import run, told
from tests.server.three_studies import UIDS, configure, found, put


def settings(*keys: str) -> None:
    here = Path.cwd()
    table = (f"target = '{here / 'target'}'", f"keys = '{here / 'vault'}'", "minimum = 1", *keys)
    configure("[integrity]", "mark = 'state/mark'", "[keys]", "key_file = 'data.key'", "[backup]", *table)


def contents(where: str = "out") -> dict[str, bytes]:
    """Every object of the archive, as files."""
    shutil.rmtree(where, ignore_errors=True)
    for uid in found():
        run("get", "--study", uid, "--out", where)
    return {path.name: path.read_bytes() for path in Path(where).rglob("*.dcm")}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with two snapshots, and three objects that are only in the second."""
    base = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(base)
        for name in ("target", "vault", "state"):
            Path(name).mkdir()
        settings()
        run("init")
        put(UIDS[0])
        told("backup", "run")
        put(UIDS[1], patient_id="P-99")
        told("backup", "run")
        contents("original")
    return base


@pytest.fixture
def base(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of it, which is the current folder; what is there at the end verifies with keys."""
    shutil.copytree(made, tmp_path / "base")
    monkeypatch.chdir(tmp_path / "base")
    settings()
    yield tmp_path / "base"
    settings()
    run("verify", "--level", "decrypt")


def original() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path("original").rglob("*.dcm")}


def snapshots() -> list[str]:
    return [each["snapshot"] for each in told("backup", "list")["snapshots"]]  # type: ignore[attr-defined]


def lose(*what: str) -> None:
    for each in what:
        shutil.rmtree(each)
