"""The open role: without users a server is reached from its own machine only, unless its command line lifts that."""

import hashlib
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from coffer.archive.events.users import UsersLoaded
from coffer.archive.format.record import Kind
from coffer.index.dicom.identifier import encode_identifier
from coffer.keys.errors import ConfigError
from coffer.server.config.load import load_config
from coffer.server.config.settings import Config
from coffer.server.dimse.protocol import command as dimse
from coffer.server.dimse.protocol import negotiation
from coffer.server.dimse.protocol.negotiation import EXPLICIT_LE, Offer
from coffer.server.engine.opening import open_reading, open_writer
from coffer.server.main.exposure import exposed
from coffer.server.main.service import Server
from tests.captured_logs import capture_logs
from tests.server.dimse.raw_peer import Broken, RawRequestor
from tests.server.filled import free_port, run

OFFERS = [Offer(1, max(negotiation.FIND), (EXPLICIT_LE,))]
COFFER = Path(sys.executable).with_name("coffer")
ACCOUNT = pwd.getpwuid(os.geteuid()).pw_name


def configured(dimse: str, http: str = "127.0.0.1") -> Config:
    Path("coffer.toml").write_text(
        f'archive = "data"\n[storage]\nreserve_bytes = 0\n[dimse]\nhost = "{dimse}"\nport = {free_port()}\n'
        f'[http]\nhost = "{http}"\nport = {free_port()}\n'
    )
    return load_config(Path("coffer.toml"))


@pytest.fixture(autouse=True)
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    configured("127.0.0.1")
    run("init")


@pytest.mark.parametrize(("dimse", "http"), [("0.0.0.0", "127.0.0.1"), ("localhost", "::"), ("0.0.0.0", "0.0.0.0")])
def test_without_users_nothing_listens_on_the_network(dimse: str, http: str) -> None:
    config = configured(dimse, http)
    with pytest.raises(ConfigError, match=r"there are no users.*is not loopback"):
        Server(config).open()
    done = run("serve", code=11)
    assert "--insecure-open-role" in done.stderr


def test_what_is_loopback() -> None:
    for host in ("127.0.0.1", "127.0.0.53", "localhost", "::1"):
        assert exposed(configured(host)) == []
    for host in ("0.0.0.0", "::", "192.0.2.1"):
        assert exposed(configured(host)) == [f"dimse.host {host}"]
        assert exposed(configured("127.0.0.1", host)) == [f"http.host {host}"]


def test_the_command_line_lifts_it_and_everybody_is_told() -> None:
    config = configured("0.0.0.0")
    with capture_logs() as lines, Server(config, insecure_open_role=True) as server:
        told = [each for each in lines if each["name"] == "access.open_role"]
        assert any("there are no users" in each for each in server.concerns())
        assert "coffer_open_role 1.0" in server._metrics.render().decode()
    assert [each["exposed"] for each in told] == [["dimse.host 0.0.0.0"]]


def recorded() -> list[tuple[str | None, int]]:
    with open_reading(load_config(Path("coffer.toml"))) as archive:
        told = [each.event for each in archive.events(frozenset({Kind.STATE}))]
    return [(each.users_hash, each.users) for each in told if isinstance(each, UsersLoaded)]


def test_each_list_that_a_server_has_read_is_in_the_log() -> None:
    config = configured("0.0.0.0")
    with Server(config, insecure_open_role=True):
        pass
    hashes: list[str | None] = [None]
    for add in (("anna", "--role", "admin", "--account", ACCOUNT), ("ct1", "--role", "modality", "--ae-title", "CT1")):
        run("users", "add", *add)
        hashes.append(hashlib.sha256(Path("users.toml").read_bytes()).hexdigest())
        with Server(config):
            pass
    run("users", "remove", "ct1")
    with Server(config):
        pass
    first = hashes[1], 1  # by the command that adds the first user, and by the server
    assert recorded() == [(hashes[0], 0), first, first, (hashes[2], 2), first]
    with Server(configured("127.0.0.1")):
        pass
    run("verify")


def test_a_removed_user_who_comes_back_by_an_old_file_is_in_the_log() -> None:
    """Whatever is done under it records it, a command as well as a server; one that only reads records nothing."""
    run("users", "add", "anna", "--role", "admin", "--account", ACCOUNT)
    run("users", "add", "eve", "--role", "key-officer", "--account", "nobody")
    old = Path("users.toml").read_bytes()
    run("checkpoint", "sign")
    run("users", "remove", "eve")
    run("checkpoint", "sign")
    new = Path("users.toml").read_bytes()
    Path("users.toml").write_bytes(old)
    run("status")
    hashes = [hashlib.sha256(each).hexdigest() for each in (old, new)]
    assert recorded()[1:] == [(hashes[0], 2), (hashes[1], 1)]  # behind the first user's
    run("hold", "add", "1.2.3", "--reason", "r")
    assert recorded()[1:] == [(hashes[0], 2), (hashes[1], 1), (hashes[0], 2)]
    run("verify")


def beside(*words: str) -> None:
    """A command that opens the keyring, in a process of its own: the server of this one has it open."""
    subprocess.run([COFFER, *words], check=True, capture_output=True, timeout=60)


def rejected(config: Config, title: str) -> tuple[int, ...]:
    with pytest.raises(Broken) as refused:
        RawRequestor(config.dimse.port, OFFERS, calling=title)
    return tuple(refused.value.body[1:])


def found(peer: RawRequestor) -> int:
    """How a query for all studies ends."""
    keys = encode_identifier({0x00080052: ("STUDY",), 0x0020000D: ()}, (), implicit=False)
    peer.request(peer.contexts[1], dimse.C_FIND, keys)
    return peer.final().status


def require_ended(peer: RawRequestor) -> None:
    """Nothing is found until the association ends."""
    for _ in range(10_000):
        try:
            assert found(peer) == 0x0124
        except Broken:
            return
    pytest.fail("the association goes on")


def test_users_change_beside_a_running_server() -> None:
    config = configured("127.0.0.1")
    with Server(config) as server, RawRequestor(config.dimse.port, OFFERS, calling="ANY") as before:
        assert found(before) == 0
        beside("users", "add", "anna", "--role", "admin", "--account", ACCOUNT)
        run("users", "add", "desk", "--role", "clerk", "--ae-title", "DESK", "--address", "127.0.0.1")
        assert found(before) == 0  # nobody has told the server
        run("reload")
        require_ended(before)
        assert rejected(config, "ANY") == (1, 1, 1)
        with RawRequestor(config.dimse.port, OFFERS, calling="DESK") as desk:
            assert found(desk) == 0
            run("users", "remove", "desk")
            run("reload")
            require_ended(desk)
        assert rejected(config, "DESK") == (1, 1, 1)
        assert len(server._admission._users.users) == 1
        Path("users.toml").unlink()
        assert "those that were read before stay in force" in run("reload", code=11).stderr
        assert rejected(config, "ANY") == (1, 1, 1)
    with open_writer(config) as archive:
        archive.reconcile()  # what waits for the log comes into it within a second, or now
    assert [users for _, users in recorded()] == [1, 2, 1]


def test_with_users_it_listens_where_it_is_told_to() -> None:
    config = configured("0.0.0.0")
    run("users", "add", "anna", "--role", "admin", "--account", ACCOUNT)
    with Server(config) as server:
        assert "coffer_open_role 0.0" in server._metrics.render().decode()
        assert server.concerns() == []
