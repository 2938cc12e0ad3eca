"""`coffer init`: what it says of the disk that the key file is on."""

import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from coffer.server.anchor.place import is_same_volume
from coffer.server.cli import main
from tests.conftest import absent
from tests.server.filled import run, told

ENVIRONMENT = {"COFFER_ARCHIVE": "", "COFFER_CONFIG": ""}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def init(*args: str) -> Result:
    """Without a terminal, and without the option that `tests.server.filled.run` adds."""
    return CliRunner().invoke(main, [*args, "init"], env=ENVIRONMENT)


def test_a_key_on_the_same_disk_is_warned_of_also_where_a_script_runs_it() -> None:
    done = init()
    assert done.exit_code == 0
    assert "is on the archive's own disk, without a passphrase: whoever takes that disk" in done.stderr
    assert "remedy: Put the key file on another disk" in done.stderr
    assert "--yes-same-disk" in done.stderr
    told("index", "rebuild")
    (concern,) = [what for what in told("status")["degraded"] if "the key file" in what]  # type: ignore[attr-defined]
    assert "can open every object" in concern


def test_who_accepts_it_is_not_warned() -> None:
    assert "the key file" not in run("init", "--yes-same-disk").stderr


def test_a_passphrase_is_enough_unless_it_lies_there_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORDS", "correct horse")
    Path("coffer.toml").write_text("[keys]\npassphrase_env = 'WORDS'\n")
    assert "own disk" not in init().stderr.replace("the mark is on the archive's own disk", "")
    Path("words").touch(0o600)
    Path("words").write_text("correct horse\n")
    Path("coffer.toml").write_text("archive = 'second'\n[keys]\npassphrase_file = 'words'\n")
    done = init()
    assert done.exit_code == 0
    assert "own disk, with its passphrase" in done.stderr


def test_a_key_on_another_disk_is_no_concern(tmp_path: Path) -> None:
    other = Path(os.environ["XDG_STATE_HOME"])
    if is_same_volume(other, tmp_path):
        absent("there is no second volume here")
    Path("coffer.toml").write_text(f"[keys]\nkey_file = '{other / tmp_path.name}.key'\n")
    assert init().exit_code == 0
    told("index", "rebuild")
    assert told("status")["degraded"] == []


def test_it_prints_the_verifier_key_and_the_mark() -> None:
    made = told("init")
    assert Path(str(made["mark"])).is_file()
    shown = told("mark", "show")
    assert (shown["vkey"], shown["mark"], shown["records"]) == (made["vkey"], made["mark"], 0)
