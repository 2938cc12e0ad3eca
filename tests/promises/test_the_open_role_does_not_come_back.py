"""Promise: an archive that has had users does not fall back to the open role because their list is gone.

Adversary: whoever can remove or replace `users.toml`, or names another configuration. Neither server nor command opens
the archive without users until a person has recorded that there are none.
"""

import hashlib
import os
import pwd
from collections.abc import Callable
from pathlib import Path

import pytest

from coffer.archive.events.users import UsersLoaded
from coffer.archive.format.record import Kind
from coffer.keys.errors import ConfigError
from coffer.server.access.roles import Role
from coffer.server.access.users import Directory, User
from coffer.server.config.load import load_config
from coffer.server.engine.opening import open_reading, open_writer
from coffer.server.mailbox.users_record import record_users
from coffer.server.main.service import Server
from tests.server.filled import free_port, run, study_files, told

ACCOUNT = pwd.getpwuid(os.geteuid()).pw_name
GONE = "the users are gone"
COMMANDS = {
    "put": ("put", "in"),
    "get": ("get", "--study", "1.2.3", "--out", "out"),
    "find": ("find",),
    "versions": ("versions", "1.2.3"),
    "checkpoint sign": ("checkpoint", "sign"),
    "keys rotate": ("keys", "rotate"),
    "keys rotate-signing": ("keys", "rotate-signing", "--reason", "r"),
    "keys split": ("keys", "split", "-n", "3", "-k", "2", "-o", "shares"),
    "keys copied": ("keys", "copied", "--to", "tape"),
    "keys copies": ("keys", "copies"),
    "keys rekey": ("keys", "rekey", "1.2.3", "--reason", "r", "--yes"),
    "shred study": ("shred", "study", "1.2.3", "--reason", "r", "--yes"),
    "shred request": ("shred", "request", "1.2.3", "--reason", "r"),
    "shred list": ("shred", "list"),
    "shred finish": ("shred", "finish"),
    "hold add": ("hold", "add", "1.2.3", "--reason", "r"),
    "hold list": ("hold", "list"),
    "clock show": ("clock", "show"),
    "clock confirm": ("clock", "confirm", "--reason", "r"),
    "mark renew": ("mark", "renew", "--reason", "r"),
    "index rebuild": ("index", "rebuild"),
    "users add": ("users", "add", "eve", "--role", "admin", "--account", ACCOUNT),
}


def configured(host: str = "127.0.0.1") -> None:
    Path("coffer.toml").write_text(
        f'archive = "data"\n[storage]\nreserve_bytes = 0\n[dimse]\nhost = "{host}"\nport = {free_port()}\n'
        f'[http]\nhost = "{host}"\nport = {free_port()}\n'
    )


@pytest.fixture(autouse=True)
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive with one user, which the log knows."""
    monkeypatch.chdir(tmp_path)
    configured()
    run("init")
    study_files(tmp_path / "in")
    run("users", "add", "anna", "--role", "admin", "--account", ACCOUNT)


def removed() -> None:
    Path("users.toml").rename("kept.toml")


def emptied() -> None:
    Path("users.toml").write_text("version = 1\n")


def elsewhere() -> None:
    """Another configuration of the same archive, which names a list that does not exist."""
    settings = Path("coffer.toml").read_text()
    Path("coffer.toml").write_text(settings + '[access]\nusers = "other.toml"\n')


def recorded() -> list[tuple[str | None, int]]:
    with open_reading(load_config(Path("coffer.toml"))) as opened:
        found = [each.event for each in opened.events(frozenset({Kind.STATE}))]
    return [(each.users_hash, each.users) for each in found if isinstance(each, UsersLoaded)]


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_opens_it_without_them(command: str) -> None:
    removed()
    done = run(*COMMANDS[command], code=11)
    assert GONE in done.stderr
    assert "coffer users none" in done.stderr
    assert not Path("users.toml").exists()


@pytest.mark.parametrize("way", [removed, emptied, elsewhere])
@pytest.mark.parametrize("is_insecure", [False, True])
def test_no_server_serves_it_without_them(way: Callable[[], None], is_insecure: bool) -> None:
    way()
    assert GONE in run("find", code=11).stderr
    with pytest.raises(ConfigError, match=GONE):
        Server(load_config(Path("coffer.toml")), insecure_open_role=is_insecure).open()


def test_status_works_and_says_so() -> None:
    digest = hashlib.sha256(Path("users.toml").read_bytes()).hexdigest()
    assert told("status")["users"] == 1
    removed()
    shown = told("status")
    assert (shown["users"], shown["objects"]) == (0, 0)
    assert f"a list of 1 with the hash {digest[:16]}" in shown["users_gone"]
    assert GONE in run("status").stdout


def test_it_counts_before_it_is_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list that a process left for the log, and whose file was gone before the log had it."""
    (tmp_path / "fresh").mkdir()
    monkeypatch.chdir(tmp_path / "fresh")
    configured()
    run("init")
    with open_writer(load_config(Path("coffer.toml"))) as opened:
        users = Directory((User(name="anna", roles=frozenset({Role.ADMIN})),), sha256="ab" * 32)
        record_users(opened.keyring, users)
    assert recorded() == []
    assert GONE in run("find", code=11).stderr


def test_the_file_put_back_is_enough() -> None:
    removed()
    run("find", code=11)
    Path("kept.toml").rename("users.toml")
    run("checkpoint", "sign")
    assert told("status")["users_gone"] is None


def test_a_person_may_say_that_there_are_none() -> None:
    before = recorded()
    assert "move that file away first" in run("users", "none", "--yes", code=12).stderr
    removed()
    assert run("users", "none", code=2).exit_code == 2  # nobody is there to confirm it
    assert recorded() == before
    run("users", "none", "--yes")
    assert recorded() == [*before, (None, 0)]
    run("find")
    run("users", "none", "--yes")  # nothing more to record
    assert recorded() == [*before, (None, 0)]
    with Server(load_config(Path("coffer.toml"))):
        pass
    run("users", "add", "bert", "--role", "admin", "--account", ACCOUNT)
    removed()
    assert GONE in run("find", code=11).stderr


def test_who_may_not_found_the_users_may_not_end_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another account that may run commands: the archive is not its own."""
    removed()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert "added by the account that owns archive and key" in run("users", "none", "--yes", code=10).output


def test_a_configuration_that_is_written_later_and_looks_elsewhere_does_not_lose_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without `coffer.toml` the file is beside the archive, with one beside that."""
    (tmp_path / "fresh").mkdir()
    monkeypatch.chdir(tmp_path / "fresh")
    run("init")
    run("users", "add", "anna", "--role", "admin", "--account", ACCOUNT)
    Path("coffer.toml").write_text('archive = "archive-data"\n')
    assert GONE in run("find", code=11).stderr


def test_an_archive_that_never_had_any_is_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fresh").mkdir()
    monkeypatch.chdir(tmp_path / "fresh")
    configured()
    run("init")
    run("checkpoint", "sign")
    run("find")
    shown = told("status")
    assert (shown["users"], shown["users_gone"]) == (0, None)
    with Server(load_config(Path("coffer.toml"))):
        pass
