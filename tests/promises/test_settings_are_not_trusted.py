"""Promise: no code is run and no configuration believed because it lies in an archive folder, and no configuration or
secret that others may write or read.

Adversary: who writes the disk (`planting.py`), with modules and configurations, and another account of the machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from coffer.keys.memory.secret import Secret
from coffer.keys.providers.key_file import CHEAPEST_FOR_TESTS, generate_keyfile
from coffer.server.config.settings import Config, Keys, Storage
from coffer.server.engine.opening import open_writer
from tests.archive.events.samples import ANY
from tests.keyless import change, rows_of
from tests.promises import planting
from tests.server.filled import run, told

made = planting.made
base = planting.base


# Code


def test_no_code_of_the_current_folder_is_run(base: Path) -> None:
    """Also not by the processes that share the work, which Python starts by a line of code."""
    keys = Keys(key_file=base / "data.key")
    config = Config(archive=base / "data", keys=keys, storage=Storage(segment_bytes=4000, reserve_bytes=0))
    with open_writer(config) as engine:
        for number in range(8):
            engine.record_event(msgspec.structs.replace(ANY, reason=f"{number} of some: " + "long " * 200))
    assert len(list((base / "data" / "segments").iterdir())) > 2
    ran = base / "ran"
    code = f"open({str(ran)!r}, 'a').write(__name__ + ' ')\nraise SystemExit(99)\n"
    for name in ("pickle", "multiprocessing", "os", "json", "struct", "socket", "signal", "msgspec", "lmdb"):
        (base / "data" / f"{name}.py").write_text(code)
    for name in ("keys", "archive", "index", "server", "concurrent", "encodings"):
        package = base / "data" / name
        package.mkdir(exist_ok=True)
        (package / "__init__.py").write_text(code)
    coffer = str(Path(sys.executable).with_name("coffer"))
    for args in (("verify", "--level", "decrypt", "--jobs", "2"), ("status",)):
        done = subprocess.run(
            [coffer, "--archive", ".", *args], cwd=base / "data", capture_output=True, text=True, check=False
        )
        assert not ran.exists(), (args, ran.read_text())
        assert done.returncode in {0, 1}, done.stderr
        assert "Traceback" not in done.stderr


# Configuration


EVIL = '[keys]\nprovider = "pkcs11"\n[keys.pkcs11]\nmodule = "/evil.so"\ntoken = "t"\npin_env = "P"\n'


def test_no_configuration_is_taken_from_an_archive_folder(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (base / "data" / "coffer.toml").write_text(EVIL)
    for where, args in (
        (base, ()),
        (base / "data", ("--archive", ".")),
        (base / "data" / "segments", ("--archive", "..")),
    ):
        monkeypatch.chdir(where)
        facts = told(*args, "config", "check")
        assert isinstance(facts["config"], dict)
        assert facts["config"]["keys"]["pkcs11"]["module"] != "/evil.so"
    done = run("--archive", str(base / "data"), "verify", code=1)
    assert "coffer.toml is not read" in done.output
    assert "move it to" in done.output
    monkeypatch.chdir(base / "data")
    passed = run("--archive", ".", "config", "check")
    assert "data/coffer.toml is not read: it is in an archive folder" in passed.stderr
    assert "evil" not in passed.output
    monkeypatch.chdir(base)
    assert "coffer.toml is not read" in run("status").output
    assert run("put", "files").exit_code == 0  # it stops nothing
    refused = run("--config", "data/coffer.toml", "status", code=11)
    assert "is in an archive folder" in refused.stderr
    assert "mv data/coffer.toml /etc/coffer/coffer.toml" in refused.stderr
    (base / "data" / "archive.json").rename(base / "elsewhere.json")  # who takes a part out does not get by
    assert run("--config", "data/coffer.toml", "status", code=11).exit_code


def test_a_provider_in_a_clear_row_loads_nothing_that_is_not_configured(base: Path) -> None:
    from coffer.keys.keyring import rows

    for kind in ("pkcs11", "aws-kms"):
        found = rows_of(base / "data" / "keyring")
        row = rows.EpochRow.decode(found[rows.epoch_row_key(1)])
        change(base / "data" / "keyring", {rows.epoch_row_key(1): replace(row, provider=kind).encode()})
        assert f"a{'n' * (kind[0] == 'a')} {kind} provider, which is not configured" in run("find", code=11).stderr


# Files that hold secrets, or are believed


@pytest.fixture
def passphrase(base: Path) -> Path:
    path = base / "phrase"
    path.write_text("correct horse")
    path.chmod(0o600)
    generate_keyfile(base / "other.key", Secret(b"correct horse"), cost=CHEAPEST_FOR_TESTS)
    with (base / "coffer.toml").open("a") as file:
        file.write("[keys]\nkey_file = 'other.key'\npassphrase_file = 'phrase'\n")
    text = (base / "coffer.toml").read_text().replace("'data", "'second")
    (base / "coffer.toml").write_text(text)
    run("init")
    run("put", "files")
    return path


def test_a_passphrase_that_others_may_read_or_write_is_refused(passphrase: Path) -> None:
    for mode in (0o666, 0o640, 0o604, 0o620, 0o602, 0o710):
        passphrase.chmod(mode)
        done = run("find", code=11)
        assert f"is open to others (mode {mode:04o})" in done.stderr
        assert f"chmod 600 {passphrase}" in done.stderr
    passphrase.chmod(0o400)
    run("find")


def test_a_credential_of_systemd_may_be_readable_by_its_group(
    passphrase: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passphrase.chmod(0o440)
    run("put", "files", code=11)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(passphrase.parent))
    if passphrase.stat().st_uid == 0:  # systemd makes it root's, with a right for the account
        run("put", "files")
    passphrase.chmod(0o444)
    run("put", "files", code=11)


@pytest.mark.parametrize("mode", [0o666, 0o664, 0o646])
def test_a_configuration_that_others_may_write_is_refused(
    base: Path, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coffer.keys.disk.permissions._is_own_group", lambda _: False)
    (base / "coffer.toml").chmod(mode)
    assert "chmod go-w" in run("status", code=11).stderr
    (base / "coffer.toml").chmod(0o644)
    base.chmod(0o777)
    assert "others may write the folder of the config file" in run("status", code=11).stderr
    base.chmod(0o1777)  # as /tmp: others make files there, but replace none
    run("status")


def test_what_another_account_owns_is_refused_with_that_account(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root is told to run as the service, not to take its files away."""
    if os.geteuid() == 0:
        os.chown(base / "coffer.toml", 65534, -1)
        done = run("status", code=11)
        assert "belongs to another account, nobody" in done.stderr
        assert "sudo -u nobody coffer" in done.stderr
        assert "chown" not in done.stderr
        os.chown(base / "coffer.toml", 0, -1)
        os.chown(base / "data.key", 65534, -1)
        done = run("find", code=11)
        assert "sudo -u nobody coffer" in done.stderr
        assert "chown" not in done.stderr
    else:
        monkeypatch.setattr("coffer.keys.disk.permissions.os.geteuid", lambda: os.getuid() + 1)
        assert "belongs to another account" in run("status", code=11).stderr


def test_where_a_configuration_is_looked_for(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from coffer.server.config import find

    places = {"etc": tmp_path / "etc.toml", "home": tmp_path / "x" / "coffer" / "coffer.toml"}
    monkeypatch.setattr(find, "SYSTEM", places["etc"])
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "x"))
    (tmp_path / "x" / "coffer").mkdir(parents=True)
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)

    def port(*args: str) -> object:
        config = told(*args, "config", "check")["config"]
        assert isinstance(config, dict)
        return config["dimse"]["port"], config["archive"]

    assert port() == (11112, str(empty / "archive-data"))
    for number, (path, where) in enumerate(
        [(places["etc"], tmp_path), (places["home"], tmp_path / "x" / "coffer"), (empty / "coffer.toml", empty)], 1
    ):
        path.write_text(f"dimse.port = {number}\n")
        assert port() == (number, str(where / "archive-data"))  # beside the file, never its own folder
    (tmp_path / "named.toml").write_text("dimse.port = 9\n")
    assert port("--config", str(tmp_path / "named.toml")) == (9, str(tmp_path / "archive-data"))
    assert port("--archive", "a") == (3, str(empty / "a"))
