"""`coffer keys split`, `drill` and `recover` on real archives: key files, an HSM, a running server, stops midway."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from coffer.archive.format.record import Kind
from coffer.keys.errors import UnavailableError
from coffer.keys.keyring import rotation
from coffer.keys.keyring.rows import EpochRow
from coffer.keys.memory.secret import Secret
from coffer.keys.providers.key_file import CHEAPEST_FOR_TESTS, generate_keyfile
from coffer.keys.shares.recovery import Recovery
from coffer.keys.store.lmdb_store import LmdbKeyringStore
from coffer.keys.store.sums import SUM_PREFIX
from coffer.keys.values import waiting_event
from coffer.keys.values.epoch import EpochState
from coffer.server.config.providers import Pkcs11
from coffer.server.config.settings import Config, Dimse, Http, Keys
from coffer.server.engine.create import create_archive
from coffer.server.engine.opening import open_writer
from coffer.server.main.service import Server
from tests.keyless import change, rows_of
from tests.keys import softhsm
from tests.server.filled import free_port, run, study_files, told
from tests.server.keyops.test_key_provider import ready, store, wait_for


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An archive of one study, with its shares in `shares`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "coffer.toml").write_text('archive = "archive"\n[keys]\nkey_file = "key"\n[http]\nenabled = false\n')
    run("init")
    run("put", *map(str, study_files(tmp_path / "files")))
    run("keys", "split", "-n", "5", "-k", "3", "-o", "shares")
    return tmp_path


def given(folder: Path, *numbers: int) -> list[str]:
    paths = sorted(folder.glob("shares/*.txt"))
    return [word for number in numbers for word in ("--share", str(paths[number - 1]))]


def fails(*args: str, code: int) -> str:
    return run(*args, code=code).output


def test_split_writes_private_files_that_name_their_epoch(archive: Path) -> None:
    paths = sorted((archive / "shares").iterdir())
    assert len(paths) == 5
    assert {path.stat().st_mode & 0o777 for path in paths} == {0o600}
    assert (archive / "shares").stat().st_mode & 0o777 == 0o700
    assert "Share: 2 of 5, any 3 give the key" in paths[1].read_text()
    (epoch,) = json.loads(run("keys", "list", "--json").stdout)["epochs"]
    assert epoch["shares"][0].startswith("3 of 5, group ")
    assert "already exists" in fails("keys", "split", "-n", "2", "-k", "2", "-o", "shares", code=11)
    assert "inside the archive" in fails("keys", "split", "-n", "2", "-k", "2", "-o", "archive/s", code=11)
    assert "2 of 5" not in fails("keys", "split", "-n", "5", "-k", "1", "-o", "other", code=2)
    assert "4 of 3" in fails("keys", "split", "-n", "3", "-k", "4", "-o", "other", code=12)
    assert not (archive / "other").exists()


def state(archive: Path) -> dict[str, bytes]:
    """Every file and every row of the keyring, events on their way into the log left out."""
    found = {str(path): path.read_bytes() for path in archive.rglob("*") if path.is_file() and path.suffix != ".mdb"}
    store = LmdbKeyringStore(archive / "archive" / "keyring", readonly=True)
    store.walk(b"", lambda key, value: found.setdefault(key.hex(), value))
    store.close()
    return {key: value for key, value in found.items() if key[:2] not in (waiting_event.PREFIX.hex(), SUM_PREFIX.hex())}


def test_a_drill_opens_everything_and_changes_nothing(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (archive / "key").rename(archive / "away")  # it needs no provider
    assert "3 of 5" in run("keys", "list").output  # and so does the list
    before = state(archive)
    facts = told("keys", "drill", *given(archive, 5, 1, 3))
    assert (facts["epoch"], facts["study_keys_opened"], facts["study_keys"], facts["wrong_shares"]) == (1, 1, 1, [])
    assert facts["recorded"] is True
    assert "The drill succeeded" in run("keys", "drill", *given(archive, 1, 2, 3)).output
    assert state(archive) == before

    def read_only(*_: object) -> None:
        raise UnavailableError("cannot open the keyring: Read-only file system")

    monkeypatch.setattr(Recovery, "record", read_only)  # a copy of the archive on a medium that cannot be written
    assert (
        "warning: it is not recorded in the log: cannot open" in run("keys", "drill", *given(archive, 1, 2, 3)).output
    )


def test_a_drill_while_a_rotation_is_under_way_says_that_it_is_not_recorded(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> int:
        raise UnavailableError("stopped before a key has moved")

    with monkeypatch.context() as patched:
        patched.setattr(rotation, "_rewrap", stop)
        fails("keys", "rotate", code=6)
    said = run("keys", "drill", *given(archive, 1, 2, 3)).output
    assert "It opens 1 of 1 study keys" in said
    assert "warning: it is not recorded in the log: the archive's own key" in said
    run("keys", "recover", *given(archive, 1, 2, 3))


def test_after_a_rotation_old_shares_are_stale_and_say_so(archive: Path) -> None:
    run("keys", "rotate")
    assert "The shares are stale: none yields the key of epoch 2" in run("keys", "list").output
    for command in ("drill", "recover"):
        said = fails("keys", command, *given(archive, 1, 2, 3), code=8)
        assert "no key is under epoch 1 any more, the current one is 2" in said
    run("keys", "split", "-n", "3", "-k", "2", "-o", "second")
    assert "stale" not in run("keys", "list").output
    shares = [word for path in (archive / "second").iterdir() for word in ("--share", str(path))]
    assert told("keys", "drill", *shares)["epoch"] == 2
    (archive / "key").rename(archive / "lost")
    run("keys", "recover", *shares)
    run("verify", "--level", "decrypt")
    assert "has no secret for epoch 1" in fails("keys", "destroy", "1", "--yes", code=8)  # which the lost one has
    (archive / "lost.toml").write_text('[keys]\nkey_file = "lost"\n')
    assert told("keys", "destroy", "1", "--yes", "--keys-of", "lost.toml")["destroyed"] is True
    assert "destroyed on purpose" in fails("keys", "drill", *given(archive, 1, 2, 3), code=9)


def test_shares_that_do_not_do_are_refused_by_name(archive: Path) -> None:
    assert "give 1 more of this group" in fails("keys", "drill", *given(archive, 1, 2), code=12)
    assert "cannot read the share none.txt" in fails("keys", "drill", "--share", "none.txt", code=12)
    path = min((archive / "shares").iterdir())
    text = path.read_text()
    path.write_text(text.replace("\n3 ", "\n3 A"))
    assert f"{path}: line 3 is mistyped" in fails("keys", "drill", *given(archive, 1, 2, 3), code=12)
    path.write_text(text)
    run("keys", "split", "-n", "3", "-k", "2", "-o", "second")
    other = next((archive / "second").iterdir())
    assert f"{other}: group " in fails("keys", "drill", *given(archive, 1, 2), "--share", str(other), code=12)


def test_shares_of_another_archive_and_of_another_epoch_open_nothing(archive: Path) -> None:
    run("--archive", "two", "init")
    assert "the shares are of archive" in fails("--archive", "two", "keys", "drill", *given(archive, 1, 2, 3), code=8)
    folder = archive / "archive" / "keyring"
    right = rows_of(folder)[b"E\0\0\0\1"]
    row = EpochRow.decode(right)
    destroyed, other = replace(row, state=EpochState.DESTROYED), replace(row, kek_id=bytes(16))
    for changed, code, cause in ((destroyed, 9, "destroyed on purpose"), (other, 8, "another key of epoch 1")):
        change(folder, {b"E\0\0\0\1": changed.encode()})
        assert cause in fails("keys", "drill", *given(archive, 1, 2, 3), code=code)
        assert cause in fails("keys", "recover", *given(archive, 1, 2, 3), code=code)
    change(folder, {b"E\0\0\0\1": right})
    run("verify", "--level", "decrypt")


@pytest.mark.parametrize("loss", ["gone", "another", "damaged and moved", "passphrase forgotten"])
def test_a_lost_key_file_is_replaced(archive: Path, loss: str, monkeypatch: pytest.MonkeyPatch) -> None:
    key, target = archive / "key", archive / "key"
    if loss == "passphrase forgotten":
        shutil.rmtree(archive / "archive")
        shutil.rmtree(archive / "shares")
        key.unlink()
        config = archive / "coffer.toml"
        config.write_text(config.read_text().replace('"key"\n', '"key"\npassphrase_env = "PHRASE"\n'))
        generate_keyfile(key, Secret(b"the first"), cost=CHEAPEST_FOR_TESTS)
        monkeypatch.setenv("PHRASE", "the first")
        run("init")
        run("put", *map(str, sorted((archive / "files").iterdir())))
        run("keys", "split", "-n", "5", "-k", "3", "-o", "shares")
        monkeypatch.setenv("PHRASE", "the second")
    else:
        key.unlink()
    if loss == "another":
        generate_keyfile(key)
    if loss == "damaged and moved":
        key.write_bytes(b"something else" * 20)
        key.chmod(0o600)
        assert "move it away" in fails("keys", "recover", *given(archive, 1, 2, 3), code=11)
        target = archive / "new key"
    assert "error" in fails("status", code=4 if loss == "damaged and moved" else 8)
    for _ in range(2):  # repeating does no harm
        facts = told("keys", "recover", *given(archive, 2, 4, 5), "--key-file", str(target))
        assert facts["key_file"] == str(target)
        assert facts["study_keys_opened"] == 1
    if target != key:
        config = archive / "coffer.toml"
        config.write_text(config.read_text().replace('"key"', f'"{target}"'))
    assert target.stat().st_mode & 0o777 == 0o600
    run("verify", "--level", "decrypt")
    run("put", *map(str, sorted((archive / "files").iterdir())))


def test_a_key_file_inside_the_archive_is_refused(archive: Path) -> None:
    told_ = fails("keys", "recover", *given(archive, 1, 2, 3), "--key-file", "archive/new.key", code=11)
    assert "inside the archive" in told_
    assert not (archive / "archive" / "new.key").exists()


def test_a_running_server_whose_hsm_is_lost_for_ever_stores_again_after_a_recovery(tmp_path: Path) -> None:
    hsm = softhsm.make(tmp_path / "hsm")
    (tmp_path / "pin").write_text(softhsm.PIN)
    (tmp_path / "pin").chmod(0o600)
    settings = Pkcs11(module=hsm.module, token=softhsm.LABEL, pin_file=tmp_path / "pin")
    keys = Keys(provider="pkcs11", pkcs11=settings, check_seconds=0.1, key_file=tmp_path / "rescue.key")
    ports = {"dimse": Dimse(port=free_port(), processes=1), "http": Http(port=free_port())}
    config = Config(archive=tmp_path / "archive", keys=keys, **ports)
    create_archive(config)
    file = tmp_path / "coffer.toml"
    file.write_text(
        f'archive = "archive"\n[keys]\nprovider = "pkcs11"\nkey_file = "rescue.key"\n'
        f'[keys.pkcs11]\nmodule = "{hsm.module}"\ntoken = "archive"\npin_file = "pin"\n'
    )
    coffer = [sys.executable, "-c", "from coffer.server.cli import main; main()", "--config", str(file)]

    def command(*args: str) -> str:
        done = subprocess.run([*coffer, *args], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    with Server(config) as server:
        assert store(config, 0) == 0
        command("keys", "split", "-n", "3", "-k", "2", "-o", str(tmp_path / "shares"))
        hsm.provider(archive_id=server.services.archive.folder.archive_id).destroy_epoch(1)
        wait_for(lambda: ready(config)[0] == 503, "stores refused")
        said = command("keys", "recover", *given(tmp_path, 1, 3))
        assert "New epochs still go to pkcs11" in said
        wait_for(lambda: ready(config)[0] == 200, "stores again")
        assert store(config, 1) == 0
        command("keys", "drill", *given(tmp_path, 2, 3))
        what = ["shares.made", "key.recovered", "shares.drilled"]

        def told() -> list[str]:
            return [each.event.code for each in server.services.archive.events(frozenset({Kind.STATE}))]

        wait_for(lambda: told() == what, "events in the log")
    with open_writer(config) as engine:
        assert engine.stats().objects == 2
        assert [epoch.provider for epoch in engine.keyring.epochs()] == ["keyfile"]
