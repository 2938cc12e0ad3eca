"""Promise: what a certificate calls erased opens nowhere, and what opens it yet is named on the notice.

Adversaries: an insider who kept every copy of archive, key files and HSM that there ever was, except of what was kept
longer than promised (docs/keys.md); and somebody who writes the archive's disk. Crossed with: an HSM that was replaced,
a recovery from shares, a rotation, a provider that is lost, an old key file and an old keyring that are put back, a
rekey, an index that is made anew.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from coffer.archive.tree.certificate import EFFECTIVE, SCHEDULED, Certificate
from coffer.keys.keyring import rows
from coffer.keys.keyring.keepers import Keeper, KeeperState
from coffer.keys.keyring.rows import EpochRow
from coffer.keys.store.keyring_store import scan
from coffer.keys.store.lmdb_store import LmdbKeyringStore
from coffer.keys.values.epoch import EpochState
from coffer.server.cli import main
from tests import keyless
from tests.archive.auditor import prove
from tests.keys import softhsm
from tests.server.filled import free_port, run, study_files, told

UID = "1.2.3.4"
FILE = Path("study.note")
BASE = "archive = 'data'\n[storage]\nreserve_bytes = 0\n[dimse]\nport = {}\n[http]\nenabled = false\n"


def configure(provider: str = "file", key_file: str = "data.key", hsm: softhsm.SoftHsm | None = None) -> str:
    """Write coffer.toml: no backups are kept, so that what is shredded is due at once."""
    keys = f'[keys]\nprovider = "{provider}"\nkey_file = "{key_file}"\nshred_hold_days = 0\n'
    if hsm is not None:
        keys += f'[keys.pkcs11]\nmodule = "{hsm.module}"\ntoken = "{softhsm.LABEL}"\npin_file = "pin"\n'
    text = BASE.format(free_port()) + keys
    Path("coffer.toml").write_text(text)
    return text


def filled() -> None:
    """An archive with the sample study."""
    run("init")
    shutil.rmtree("files", ignore_errors=True)
    run("put", *map(str, study_files(Path("files"))))
    run("keys", "split", "-n", "3", "-k", "2", "-o", "shares")


def uid() -> str:
    """The study's."""
    return str(json.loads(run("find", "--level", "study", "--json").stdout)[0]["StudyInstanceUID"])


def shares() -> list[str]:
    """Two of the three."""
    return [word for path in sorted(Path("shares").iterdir())[:2] for word in ("--share", str(path))]


def burn() -> None:
    """What officers say of the shares."""
    group = min(Path("shares").iterdir()).name.split("-")[2]
    assert told("keys", "burn", group, "1", "3")["opens"] is False


def shredded() -> str:
    """Shred the study; the id of its key."""
    run("shred", uid(), "--reason", "r", "--yes")
    return keys_gone()[-1]


def keys_gone() -> list[str]:
    """The ids of all keys that are gone, oldest first."""
    return [str(each["study_key"]) for each in told("shred", "list")["shreds"]]  # type: ignore[attr-defined]


def vkey() -> str:
    return str(json.loads(Path("data/archive.json").read_text())["vkey"])


def certified(key: str, *opened_by: str) -> Certificate:
    """A certificate of this moment. Everything that says whether the study is erased says the same: what opens it."""
    FILE.write_text(run("shred", "certificate", key).stdout, encoding="utf-8")
    made = Certificate.open(FILE.read_bytes(), vkey())
    standing = [each for epoch in made.epochs for each in epoch.openers if each.record is None]
    is_erased = not opened_by
    assert made.type == (EFFECTIVE if is_erased else SCHEDULED), standing
    assert sorted(each.kind for each in standing) == sorted(opened_by)
    said = prove(FILE, vkey(), "--archive", "data", code=0 if is_erased else 3)
    assert all(f"{each.kind} {each.name}" in said for each in standing)
    checked = told("shred", "check", str(FILE), code=0 if is_erased else 1)
    assert (checked["state"], len(checked["opened_by"])) == ("effective" if is_erased else "scheduled", len(standing))  # type: ignore[arg-type]
    listed = [each for each in told("shred", "list")["shreds"] if each["study_key"] == key]  # type: ignore[attr-defined]
    assert [(each["state"], bool(each["opened_by"])) for each in listed] == [(checked["state"], not is_erased)]
    return made


def opens(study: str, copy: str, key_file: str = "") -> bool:
    """Whether an insider with a copy of the archive, and what is configured now, opens the study with Coffer itself."""
    kept = Path("coffer.toml").read_text()
    shutil.rmtree("attack", ignore_errors=True)
    shutil.copytree(copy, "attack")
    if key_file:
        shutil.copy(key_file, "attack.key")
        configure(key_file="attack.key")
    shutil.rmtree("out", ignore_errors=True)
    done = CliRunner().invoke(
        main, ("--config", "coffer.toml", "--archive", "attack", "get", "--study", study, "--out", "out")
    )
    Path("coffer.toml").write_text(kept)
    return done.exit_code == 0 and any(Path("out").rglob("*.dcm"))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_an_hsm_that_kept_the_epoch_before_a_recovery_has_to_give_its_receipt(here: Path) -> None:
    hsm = softhsm.make(here / "hsm")
    Path("pin").write_text(softhsm.PIN)
    Path("pin").chmod(0o600)
    configure("pkcs11", "rescue.key", hsm)
    filled()
    study = uid()
    shutil.copytree("data", "before")
    with hsm.away():
        run("keys", "recover", *shares(), "--key-file", "rescue.key")
        configure("file", "rescue.key", hsm)
        key = shredded()
        run("shred", "finish")
        done = told("shred", "finish", "--destroy", code=6)
        assert (done["destroyed"], len(done["no_receipt"])) == ([], 1)  # type: ignore[arg-type]
        certified(key, "pkcs11", "shares")
        burn()
        certified(key, "pkcs11")
        assert 'pkcs11 token "archive"' in run("keys", "list").output
    configure("pkcs11", "rescue.key", hsm)
    assert opens(study, "before")  # which is what the notice says
    configure("file", "rescue.key", hsm)
    assert told("shred", "finish", "--destroy")["destroyed"] == [1]
    certified(key)
    configure("pkcs11", "rescue.key", hsm)
    assert not opens(study, "before")


def test_a_lost_key_file_that_is_found_gives_its_receipt_from_where_it_lies(here: Path) -> None:
    configure()
    filled()
    study = uid()
    shutil.copytree("data", "before")
    Path("data.key").rename("lost.key")
    run("keys", "recover", *shares(), "--key-file", "rescue.key")
    configure(key_file="rescue.key")
    run("keys", "rotate")
    key = shredded()
    burn()
    run("shred", "finish")
    said = run("shred", "finish", "--destroy", code=6).output
    assert "NOT destroyed, epoch 1, keyfile" in said
    run("keys", "destroy", "1", "--yes", "--provider-lost", "--reason", "nobody knows where it is")
    certified(key, "keyfile")
    assert opens(study, "before", "lost.key")
    run("index", "rebuild")
    certified(key, "keyfile")
    Path("lost.toml").write_text('[keys]\nkey_file = "lost.key"\n')
    assert told("keys", "destroy", "1", "--yes", "--keys-of", "lost.toml")["destroyed"] is True
    certified(key)
    assert not opens(study, "before", "lost.key")
    said = run("keys", "destroy", "1", "--yes", "--provider-lost", "--reason", "it was never there").output
    assert "Epoch 1 is destroyed" in said
    assert "NOT" not in said


def test_no_step_asks_for_a_copy_of_what_is_about_to_be_destroyed(here: Path) -> None:
    configure()
    filled()
    study = uid()
    run("keys", "rekey", uid(), "--reason", "r", "--yes")  # a study that had several keys
    copies: list[tuple[str, str]] = []

    def obeyed(*args: str) -> None:
        """Run a command, and copy archive and key file where it says so."""
        output = run(*args).output
        if "back up the keyring" in output or "copy the key file" in output.lower():
            copies.append((f"copy{len(copies)}", f"copy{len(copies)}.key"))
            shutil.copytree("data", copies[-1][0])
            shutil.copy("data.key", copies[-1][1])

    shutil.copytree("data", "before")
    assert opens(study, "before", "data.key")
    key = shredded()
    obeyed("shred", "finish")
    assert copies == []
    obeyed("shred", "finish", "--destroy")
    assert len(copies) == 1
    burn()
    made = certified(key)
    assert len(made.keys) == 2
    for folder in ("before", copies[0][0]):
        for key_file in ("data.key", copies[0][1]):
            assert not opens(study, folder, key_file)


def test_an_old_key_file_that_is_back_ends_the_certainty_until_it_is_destroyed_again(here: Path) -> None:
    configure()
    filled()
    key = shredded()
    burn()
    run("shred", "finish")
    shutil.copy("data.key", "between.key")
    run("shred", "finish", "--destroy")
    certified(key)
    shutil.copy("between.key", "data.key")
    certified(key, "keyfile")
    assert told("shred", "finish")["destroyed"] == [1]  # it needs no second step
    certified(key)


def test_an_older_keyring_learns_again_what_opens_its_epochs(here: Path) -> None:
    configure()
    filled()
    shutil.copytree("data/keyring", "older")
    shutil.copy("data.key", "lost.key")
    Path("data.key").unlink()
    run("keys", "recover", *shares(), "--key-file", "rescue.key")
    run("keys", "list")
    configure(key_file="rescue.key")
    run("checkpoint", "sign")
    shutil.rmtree("data/keyring")
    shutil.copytree("older", "data/keyring")  # the newest is lost: so is what it knew of the rescue file
    configure(key_file="lost.key")
    size = told("recover", "show", code=1)["records"]
    run("recover", "accept-loss", "--to", str(size))
    key = shredded()
    burn()
    run("shred", "finish")
    assert told("shred", "finish", "--destroy", code=6)["destroyed"] == []
    certified(key, "keyfile")
    Path("rescue.toml").write_text('[keys]\nkey_file = "rescue.key"\n')
    run("keys", "destroy", "1", "--yes", "--keys-of", "rescue.toml")
    certified(key)


def test_who_writes_the_disk_gets_no_certificate_that_says_more(here: Path) -> None:
    configure()
    filled()
    Path("data.key").rename("lost.key")
    run("keys", "recover", *shares(), "--key-file", "rescue.key")
    configure(key_file="rescue.key")
    key = shredded()
    run("shred", "finish")
    run("shred", "finish", "--destroy", code=6)
    shutil.copytree("data/keyring", "kept")
    (lost,) = [each for each in keepers() if each.epoch == 1 and not each.is_ended]
    (receipt,) = [each for each in keepers() if each.is_ended and each.epoch == 1]
    forged = Keeper(1, lost.id, lost.kind, lost.name, KeeperState.ENDED, receipt.receipt_ms, receipt.effective_ms)
    group = next(place for place, _ in all_rows() if place[:1] == rows.SHARES_PREFIX)
    for put, removed in (
        ([], [lost.row_key]),
        ([(forged.row_key, forged.encode())], []),
        ([], [group, rows.BURNED_PREFIX + group[1:]]),
        ([], [each.row_key for each in keepers() if each.epoch == 1]),
    ):
        alter([*put, destroyed_row()], removed)
        assert "altered or put back" in run("shred", "certificate", key, code=3).output
        shutil.rmtree("data/keyring")
        shutil.copytree("kept", "data/keyring")
    certified(key, "keyfile", "shares")


def test_a_study_is_not_erased_while_another_key_of_it_can_be_opened(here: Path) -> None:
    configure()
    filled()
    study = uid()
    first = shredded()
    burn()
    run("shred", "finish")
    run("keys", "destroy", "1", "--yes")  # the study's name is forgotten a little later
    certified(first)
    run("put", "files")  # stored again
    shutil.copytree("data", "before")
    run("shred", study, "--reason", "r", "--yes")
    (second,) = {*keys_gone()} - {first}
    assert opens(study, "before")
    assert "can still be opened" in run("shred", "certificate", first, "--study-uid", study, code=12).output
    assert f"key {second[:8]}: it belongs to the same study" in run("shred", "check", str(FILE), code=3).output
    certified(second, "keyfile")
    run("shred", "finish")
    run("shred", "finish", "--destroy")
    assert not opens(study, "before")
    certified(second)
    certified(first)


def test_the_end_of_an_epoch_names_the_shares_that_open_it_yet(here: Path) -> None:
    configure()
    filled()
    study = uid()
    shutil.copytree("data", "before")
    run("keys", "rotate")
    group = min(Path("shares").iterdir()).name.split("-")[2]
    for _ in range(2):
        said = run("keys", "destroy", "1", "--yes").output
        assert f"STILL OPENS IT, with an old copy of the keyring: shares of group {group}, any 2 of 3" in said
    shutil.move("data", "kept")
    shutil.move("before", "data")
    said = run("keys", "recover", *shares(), "--key-file", "rescue.key", code=6).output  # its mark is newer
    assert "the key is recovered and kept by" in said
    assert opens(study, "data", "rescue.key")
    shutil.move("data", "before")
    shutil.move("kept", "data")
    burn()
    assert told("keys", "destroy", "1", "--yes")["opened_by"] == []


def all_rows() -> list[tuple[bytes, bytes]]:
    store = LmdbKeyringStore(Path("data/keyring"), readonly=True)
    try:
        return scan(store, b"")
    finally:
        store.close()


def keepers() -> list[Keeper]:
    return [Keeper.decode(value) for place, value in all_rows() if place[:1] == rows.KEEPER_PREFIX]


def destroyed_row() -> tuple[bytes, bytes]:
    """Epoch 1, as if everything had ended."""
    row = EpochRow.decode(dict(all_rows())[rows.epoch_row_key(1)])
    return rows.epoch_row_key(1), EpochRow(
        EpochState.DESTROYED, 1, row.kek_id, row.created_ms, row.provider, b""
    ).encode()


def alter(put: list[tuple[bytes, bytes]], removed: list[bytes]) -> None:
    """Change rows, and what is kept of them without a key."""
    keyless.change(Path("data/keyring"), {**dict.fromkeys(removed), **dict(put)})
