"""The command line without an archive: help, completion, config check, and how every failure is told."""

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from coffer.keys import errors
from coffer.server.access.action import Action
from coffer.server.cli import main, output
from coffer.server.cli.options import Chosen
from coffer.server.cli.reference import command_line_page, exit_codes
from tests.conftest import absent

ROOT = Path(__file__).resolve().parents[3]
COFFER = Path(sys.executable).with_name("coffer")
COMMANDS = [
    "access",
    "backup",
    "checkpoint",
    "clock",
    "completion",
    "config",
    "demo",
    "doctor",
    "find",
    "get",
    "hold",
    "index",
    "init",
    "keys",
    "mark",
    "put",
    "recover",
    "reload",
    "repair",
    "restore",
    "scrub",
    "serve",
    "shred",
    "status",
    "tls",
    "users",
    "verify",
    "versions",
]


def run(*args: str, env: dict[str, str] | None = None) -> Result:
    clean = {"COFFER_ARCHIVE": "", "COFFER_CONFIG": ""}
    return CliRunner().invoke(main, args, env={**clean, **(env or {})})


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the checkout is found by accident."""
    monkeypatch.chdir(tmp_path)


def leaves(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if isinstance(command, click.Group):
        return [leaf for name, one in command.commands.items() for leaf in leaves(one, (*path, name))]
    return [path]


def test_the_commands_are_those_that_were_promised() -> None:
    assert isinstance(main, click.Group)
    assert sorted(main.commands) == COMMANDS


@pytest.mark.parametrize("path", leaves(main), ids=" ".join)
def test_every_help_teaches_with_examples(path: tuple[str, ...]) -> None:
    done = run(*path, "--help")
    assert done.exit_code == 0
    assert "Examples:" in done.output
    assert f"  coffer {path[0]}" in done.output or f"  coffer --config /etc/coffer.toml {path[0]}" in done.output


@pytest.mark.parametrize("path", leaves(main), ids=" ".join)
def test_every_command_that_prints_facts_has_json(path: tuple[str, ...]) -> None:
    has = "--json" in run(*path, "--help").output
    assert has == (path[0] not in ("completion", "demo", "serve"))


def test_the_reference_page_is_rendered_from_the_commands() -> None:
    assert (ROOT / "docs" / "cli.md").read_text(encoding="utf-8") == command_line_page(), (
        "run: python -m coffer.server.cli.reference docs"
    )


@pytest.mark.parametrize("ms", [-1, 253_402_300_800_000, (1 << 64) - 1])
def test_a_time_that_is_no_date_is_shown_as_the_number_that_it_is(ms: int) -> None:
    assert output.when(ms) == f"{ms} ms, which is no date"
    assert output.when(253_402_300_799_999 - 999) == "9999-12-31T23:59:59+00:00"


def test_exit_codes_are_those_of_the_error_tree() -> None:
    codes = {name: code for code, name, _ in exit_codes()}
    own = [name for name in codes if "exit_code" in vars(getattr(errors, name, object)) or name not in errors.__all__]
    assert len({codes[name] for name in own}) == len(own)
    for name in errors.__all__:
        if name != "CofferError":
            assert codes[name] == getattr(errors, name).exit_code


def test_version_and_usage() -> None:
    assert run("--version").output.startswith("coffer 0.")
    assert run("nonsense").exit_code == 2
    assert run("find", "PatientName").exit_code == 2
    assert run("get").exit_code == 2
    assert run("put", "/nowhere/at/all").exit_code == 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    done = run("completion", shell)
    assert done.exit_code == 0
    assert "_COFFER_COMPLETE" in done.output


@pytest.mark.parametrize("command", ["find", "status", "verify", "keys list", "index rebuild"])
def test_without_an_archive_the_remedy_is_shown(command: str, tmp_path: Path) -> None:
    done = run(*command.split())
    assert done.exit_code == 11
    assert done.stderr == (
        f"error: there is no archive in {tmp_path / 'archive-data'}\n"
        "remedy: create one with `coffer init`, or name another with --archive, --config or COFFER_ARCHIVE\n"
    )
    told = json.loads(run(*command.split(), "--json").stderr)
    assert told["exit_code"] == 11
    assert told["remedy"].startswith("create one with")


def test_config_check_names_line_and_remedy(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text("[dimse]\nprot = 104\nport = -1\n")
    done = run("config", "check", "--config", str(file))
    assert done.exit_code == 11
    assert done.stdout == (
        f"{file}:2: unknown key prot in [dimse]\n    did you mean port?\n"
        f"{file}:3: dimse.port = -1 is not allowed\n    give a whole number from 0 to 65535\n"
    )
    assert done.stderr.startswith(f"error: 2 problems in {file}\n")
    told = json.loads(run("--config", str(file), "config", "check", "--json").stdout)
    assert [p["line"] for p in told["problems"]] == [2, 3]
    assert told["ok"] is False


def test_config_check_of_a_good_file(tmp_path: Path) -> None:
    file = tmp_path / "good.toml"
    file.write_text("archive = 'a'\n[[peers]]\nae_title = 'PACS'\nhost = 'pacs.example'\nport = 104\n")
    done = run("config", "check", env={"COFFER_CONFIG": str(file)})
    assert done.exit_code == 0, done.output
    assert "is valid" in done.stdout
    assert "PACS" in done.stdout
    told = json.loads(run("config", "check", "--json", "--config", str(file)).stdout)
    assert told["ok"] is True
    assert told["config"]["archive"] == str(tmp_path / "a")
    assert told["config"]["dimse"]["port"] == 11112


def chosen(*args: str, env: dict[str, str] | None = None) -> tuple[Path, int]:
    """The archive and DICOM port that `config check` sees."""
    done = run(*args, "--json", env=env)
    told = json.loads(done.stdout)["config"]
    return Path(told["archive"]), told["dimse"]["port"]


def test_which_archive_and_which_config(tmp_path: Path) -> None:
    check = ("config", "check")
    assert chosen(*check) == (tmp_path / "archive-data", 11112)
    (tmp_path / "coffer.toml").write_text("archive = 'here'\ndimse.port = 1\n")
    assert chosen(*check) == (tmp_path / "here", 1)
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "coffer.toml").write_text("dimse.port = 2\n")
    assert chosen(*check, env={"COFFER_ARCHIVE": "two"}) == (tmp_path / "two", 1)  # none is taken from an archive
    (tmp_path / "three.toml").write_text("archive = 'three'\ndimse.port = 3\n")
    assert chosen(*check, env={"COFFER_CONFIG": "three.toml"}) == (tmp_path / "three", 3)
    both = {"COFFER_CONFIG": "three.toml", "COFFER_ARCHIVE": "two"}
    assert chosen(*check, env=both) == (tmp_path / "two", 3)
    assert chosen("--archive", "four", *check, env=both) == (tmp_path / "four", 3)
    assert chosen("--archive", "four", *check, "--archive", "five", env=both) == (tmp_path / "five", 3)


def test_an_unknown_attribute_gets_a_suggestion(monkeypatch: pytest.MonkeyPatch) -> None:
    done = run("find", "PatientNmae=X")
    assert done.exit_code == 12
    assert "remedy: did you mean PatientName?" in done.stderr


def test_no_traceback_and_no_message_of_a_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Chosen, __: Action) -> None:
        raise RuntimeError("DOE^JANE")

    monkeypatch.setattr(Chosen, "existing", broken)
    done = run("status")
    assert done.exit_code == 70
    assert done.stderr.startswith("error: internal error: RuntimeError in test_cli.py:")
    assert "DOE" not in done.output
    assert "Traceback" not in done.output


def test_an_interrupt_and_an_os_error_have_their_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    def raising(error: BaseException) -> None:
        def load(_: Chosen, __: Action) -> None:
            raise error

        monkeypatch.setattr(Chosen, "existing", load)

    raising(KeyboardInterrupt())
    assert run("status").exit_code == 130
    raising(PermissionError(13, "Permission denied", "/srv/x"))
    done = run("status")
    assert done.exit_code == 6
    assert done.stderr.startswith("error: /srv/x: Permission denied\n")


def test_the_installed_program(tmp_path: Path) -> None:
    if not COFFER.exists():
        absent("coffer is not installed: make test installs it")
    keep = {k: v for k, v in os.environ.items() if not k.startswith("COFFER_")}
    done = subprocess.run([str(COFFER), "status"], capture_output=True, text=True, cwd=tmp_path, env=keep)
    assert (done.returncode, done.stdout) == (11, "")
    assert len(done.stderr.splitlines()) == 2
    asked = {"_COFFER_COMPLETE": "bash_complete", "COMP_WORDS": "coffer ver", "COMP_CWORD": "1"}
    shown = subprocess.run([str(COFFER)], capture_output=True, text=True, env={**keep, **asked})
    assert "plain,verify" in shown.stdout
