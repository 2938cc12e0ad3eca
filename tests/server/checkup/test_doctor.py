"""`coffer doctor`: each trouble is found where it is, with a remedy, and nothing is changed."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from coffer.server.checkup.examination import examine
from coffer.server.checkup.result import Result, State
from coffer.server.config.load import load_config
from coffer.server.main.service import Server
from tests.server.filled import flip, free_port, run, told
from tests.server.tls_site import Pki


def configure(*tables: str, port: int | None = None) -> None:
    Path("coffer.toml").write_text(
        f"archive = 'data'\n[http]\nenabled = false\n[dimse]\nport = {port or free_port()}\nae_title = 'US'\n"
        + "\n".join(tables)
    )


@pytest.fixture(autouse=True)
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    configure()
    run("init")
    yield tmp_path / "data"
    (tmp_path / "data.key").chmod(0o600)
    run("verify", "--level", "decrypt")


def results(*, connect: bool = True) -> list[Result]:
    return examine(load_config(Path("coffer.toml")), Path("coffer.toml"), connect=connect)


def found(about: str) -> list[Result]:
    """What is not well with a thing."""
    return [each for each in results() if each.about == about and each.state is not State.OK]


def test_a_new_archive_works_and_lacks_what_a_new_one_lacks() -> None:
    lacks = {each.about for each in results() if each.state is State.WARNING}
    assert lacks - {"mark"} == {"key file", "copies", "backup"}  # the mark: where the state folder is on this disk
    assert run("doctor").output.splitlines()[-1].endswith(" warnings, 0 failed")


def test_what_is_mended_is_well() -> None:
    run("keys", "copied", "--to", "safe")
    configure("[backup]", f"target = '{Path.cwd() / 'night'}'", "keys = 'none'")
    (missing,) = found("backup")
    assert "mkdir" in missing.remedy
    Path("night").mkdir()
    (none,) = found("backup")
    assert none.remedy == "coffer backup run"
    run("backup", "run")
    assert not found("backup")
    assert not found("copies")


def test_failures_end_with_a_code_and_stand_in_json() -> None:
    Path("data.key").chmod(0o644)
    (open_key,) = found("permissions")
    assert open_key.remedy == f"chmod 600 {Path.cwd() / 'data.key'}"
    done = told("doctor", code=1)
    assert done["failed"] == 2  # nor does the provider take such a file
    assert {"about": "permissions", "state": "failed", "what": open_key.what, "remedy": open_key.remedy} in done[
        "results"
    ]  # type: ignore[operator]
    Path("data.key").chmod(0o600)
    assert not found("permissions")


def test_a_key_that_is_gone(archive: Path) -> None:
    key = Path("data.key")
    key.rename("elsewhere")
    assert [each.about for each in results() if each.state is State.FAILED] == ["permissions", "keys"]
    Path("elsewhere").rename(key)


def test_a_volume_that_has_less_than_the_reserve() -> None:
    configure("[storage]", f"reserve_bytes = {1 << 44}")
    (full,) = found("disk")
    assert full.state is State.FAILED
    assert "free space there" in full.remedy


def test_a_port_that_somebody_else_has() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        configure(port=taken.getsockname()[1])
        (port,) = found("ports")
        assert "Address already in use" in port.what
        assert f"sport = :{taken.getsockname()[1]}" in port.remedy


def test_damage_that_stops_writing(archive: Path) -> None:
    (archive / "checkpoints" / "latest").rename("latest")
    (stopped,) = found("storing")
    assert stopped.state is State.FAILED
    assert stopped.remedy
    Path("latest").rename(archive / "checkpoints" / "latest")
    flip(archive / "checkpoints" / "latest", -5)
    assert [each.state for each in found("storing") + found("keys")] == [State.FAILED]
    flip(archive / "checkpoints" / "latest", -5)


def test_peers_are_called_and_the_server_is_seen() -> None:
    port = free_port()
    peers = [
        f"[[peers]]\nae_title = '{name}'\nhost = '127.0.0.1'\nport = {at}" for name, at in (("US", port), ("GONE", 1))
    ]
    configure(*peers, port=port)
    with Server(load_config(Path("coffer.toml"))):
        seen = {each.about: each for each in results()}
        assert seen["peer US"].what == f"answers a C-ECHO at 127.0.0.1:{port}"
        assert "cannot be reached: Connection refused" in seen["peer GONE"].what
        assert not [each for each in results(connect=False) if each.about.startswith("peer")]


@pytest.mark.parametrize(("days", "state"), [(365, State.OK), (10, State.WARNING)])
def test_a_certificate_that_ends_soon(tmp_path: Path, days: float, state: State) -> None:
    pki = Pki(tmp_path)
    pki.own(days=days)
    configure("[tls]", f"certificate_file = '{pki.tls.certificate_file}'", f"key_file = '{pki.tls.key_file}'",
              f"ca_file = '{pki.ca}'")  # fmt: skip
    (told_of,) = [each for each in results() if each.about == "certificates"]
    assert told_of.state is state
    assert "valid until 20" in told_of.what


def test_nothing_changes(archive: Path) -> None:
    before = {path: path.read_bytes() for path in archive.rglob("*") if path.is_file() and path.name != "lock.mdb"}
    results()
    assert before == {
        path: path.read_bytes() for path in archive.rglob("*") if path.is_file() and path.name != "lock.mdb"
    }
