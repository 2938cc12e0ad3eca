"""`coffer tls` and `coffer reload`: from no certificates to a server that peers reach; mistakes have their sentence."""

import json
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from coffer.server.config.load import load_config
from coffer.server.main.service import Server
from tests.server.filled import free_port, run
from tests.server.tls_site import Pki, client_context, connect, is_ended

PORT, PEER_PORT = free_port(), free_port()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with an archive, its config file and the certificates that `coffer tls init` makes."""
    made = tmp_path_factory.mktemp("site")
    before = Path.cwd()
    os.chdir(made)
    run("tls", "init", "tls", "--host", "localhost", "--host", "127.0.0.1", "--peer", "CT1", "--peer", "SELF=localhost")
    peers = "".join(
        f'[[peers]]\nae_title = "{name}"\nhost = "{host}"\nport = {port}\n{more}\n'
        for name, host, port, more in (
            ("SELF", "localhost", PORT, "tls = true"),
            ("STRANGER", "localhost", PORT, 'tls = true\ntls_name = "elsewhere.example"'),
            ("SILENT", "localhost", PEER_PORT, "tls = true"),
            ("NOBODY", "localhost", free_port(), "tls = true"),
        )
    )
    Path("coffer.toml").write_text(
        f"[dimse]\nport = {free_port()}\ntls_port = {PORT}\nprocesses = 1\n[http]\nenabled = false\n[tls]\n"
        f'certificate_file = "tls/coffer.pem"\nkey_file = "tls/coffer.key"\nca_file = "tls/ca.pem"\n'
        f"handshake_seconds = 1\n{peers}"
    )
    run("init")
    yield made
    os.chdir(before)


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Server]:
    with Server(load_config(folder / "coffer.toml")) as running:
        yield running


def test_the_files_fit_and_the_keys_are_closed(folder: Path) -> None:
    for path in (folder / "tls").iterdir():
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o600 if path.suffix == ".key" else 0o644), path
    shown = run("tls", "check").stdout
    for part in ("CN=coffer", "DNS:localhost, IP:127.0.0.1", "CN=Coffer test authority", "none: a stolen certificate"):
        assert part in shown


def test_nothing_is_overwritten_and_names_stay_in_the_folder(folder: Path) -> None:
    before = {path: path.read_bytes() for path in (folder / "tls").iterdir()}
    assert "exists already" in run("tls", "init", "tls", code=11).stderr
    assert "file's name" in run("tls", "init", "other", "--peer", "../x", code=11).stderr
    assert {path: path.read_bytes() for path in (folder / "tls").iterdir()} == before


def test_the_printed_lines_are_a_configuration(folder: Path) -> None:
    printed = run("tls", "init", "more").stdout
    text = printed[printed.index("[dimse]") :]
    Path("printed.toml").write_text(text)
    loaded = load_config(folder / "printed.toml")
    assert (loaded.dimse.tls_port, loaded.tls.key_file) == (2762, folder / "more" / "coffer.key")


def test_a_peer_is_called_and_explained(server: Server) -> None:
    shown = run("tls", "check", "SELF").stdout
    assert "TLSv1.3" in shown
    told = json.loads(run("tls", "check", "SELF", "--json").stdout)["peer"]
    assert (told["ok"], told["certificate"]["names"]) == (True, ["DNS:localhost", "IP:127.0.0.1"])


def test_a_peer_of_another_name_is_explained_with_what_it_shows(server: Server) -> None:
    done = run("tls", "check", "STRANGER", code=6)
    assert "DNS:localhost" in done.stdout
    assert "mismatch" in done.stderr


def test_a_peer_that_does_not_answer_is_explained(server: Server) -> None:
    with socket.create_server(("127.0.0.1", PEER_PORT)):
        assert "no handshake within 1 s" in run("tls", "check", "SILENT", code=6).stderr
    assert "cannot be reached" in run("tls", "check", "NOBODY", code=6).stderr
    assert "no peer" in run("tls", "check", "UNKNOWN", code=5).stderr


def test_reload_says_how_it_ended(server: Server, folder: Path) -> None:
    assert "as they are now" in run("reload").stdout
    key, good = folder / "tls" / "coffer.key", (folder / "tls" / "coffer.key").read_bytes()
    key.write_bytes((folder / "tls" / "CT1.key").read_bytes())
    done = run("reload", code=11)
    assert "does not belong" in done.stderr
    key.write_bytes(good)
    assert json.loads(run("reload", "--json").stdout) == {"reloaded": True}


def test_without_a_server_there_is_nothing_to_reload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    archive = str(tmp_path / "alone")
    run("--archive", archive, "init")
    assert "no server of this archive" in run("--archive", archive, "reload", code=6).stderr
    assert "no TLS is configured" in run("--archive", archive, "tls", "check", code=11).stderr


def test_the_made_certificates_work(server: Server, folder: Path) -> None:
    pki = Pki(folder / "unused")
    pki.ca = folder / "tls" / "ca.pem"
    pair = folder / "tls" / "CT1.pem", folder / "tls" / "CT1.key"
    with connect(load_config(folder / "coffer.toml"), client_context(pki, pair)) as tls:
        assert not is_ended(tls, 0.2)
