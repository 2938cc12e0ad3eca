"""Promise: what was backed up comes back, bit for bit, from the targets alone; nobody reads it there; damage is found.

Adversary: who has a target, and can change everything at it. He has no key. Crossed with: each thing that can be lost,
an older state than the mark's, another host and path, an identity that is somebody else's, and an erasure between the
backup and the loss.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import zlib
from pathlib import Path

import pytest

from coffer.archive.copies.folder_target import FolderTarget
from coffer.archive.events.clocks import LogEpochBegun
from coffer.archive.events.fields import TreeHead
from coffer.archive.events.marks import MarkRenewed
from coffer.archive.events.officer import Officer
from coffer.archive.store.folder import ArchiveFolder
from coffer.keys.clock import clock_ms
from coffer.server.backup.copies import copies_made
from coffer.server.config.load import load_config
from coffer.server.engine.archive import WritableArchive
from coffer.server.engine.opening import open_reading, open_writer
from coffer.server.main.service import Server
from tests.server.backed_up import base, contents, lose, made, original, settings, snapshots
from tests.server.filled import flip, run, told
from tests.server.three_studies import UIDS, configure, events, found, put

__all__ = ["base", "made"]

REASON = ("--reason", "r")
ME = Officer(name="Meyer", account="meyer")
SECRETS = (b"P-4711", b"P-99", *(uid.encode() for uid in UIDS))


def test_the_archive_folder_is_gone(base: Path) -> None:
    lose("data")
    done = told("restore", "latest", "data")
    assert (done["findings"], done["anchored"], done["marked"]) == ([], True, done["records"])
    run("index", "rebuild")
    assert contents() == original()
    put(UIDS[2])
    assert told("backup", "run")["findings"] == []
    run("backup", "verify", "--all")


def test_a_restored_archive_that_lacks_records_goes_on_in_a_new_epoch_that_names_what_it_left(base: Path) -> None:
    mark = told("mark", "show", code=1)  # on the disk of the archive
    lose("data")
    done = told("restore", snapshots()[0], "data")
    assert done["marked"] == mark["records"] != done["records"]
    assert "the mark outside the folder names" in run("index", "rebuild", code=13).output
    run("recover", "accept-loss", "--to", str(done["records"]))
    run("index", "rebuild")
    assert [found()] == [[UIDS[0]]]
    (renewed,) = events(MarkRenewed)
    assert renewed.old_mark is not None
    assert (renewed.old_mark.records, renewed.old_mark.root) == (mark["records"], mark["root"])
    assert told("mark", "show", code=1)["epoch"] == 1
    with open_reading(load_config(Path("coffer.toml"))) as archive:
        kinds = [header.kind for _, header in archive.reader.records()]
    assert kinds.count(LogEpochBegun.kind) == 1
    put(UIDS[1])
    assert told("backup", "run")["findings"] == []


def test_the_index_is_gone(base: Path) -> None:
    lose("data/index")
    run("index", "rebuild")
    assert contents() == original()


def test_the_keyring_is_gone(base: Path) -> None:
    lose("data/keyring")
    assert run("get", "--study", UIDS[0], "--out", "out", code=None).exit_code
    run("restore", "latest", str(base / "restored"))
    shutil.copytree("restored/keyring", "data/keyring")
    run("recover", "show")
    run("keys", "audit")
    assert contents() == original()


def test_one_segment_is_gone(base: Path) -> None:
    Path("data/segments/00000001.seg").unlink()
    run("restore", "latest", str(base / "restored"))
    run("recover", "from", str(base / "restored"))
    assert contents() == original()


def test_one_segment_is_damaged(base: Path) -> None:
    flip(Path("data/segments/00000001.seg"), 900)
    run("restore", "latest", str(base / "restored"))
    run("repair", "--from", str(base / "restored"))
    assert contents() == original()


def test_the_key_file_is_gone_and_shares_are_at_hand(base: Path) -> None:
    run("keys", "split", "-n", "3", "-k", "2", "-o", "shares")
    told("backup", "run")
    lose("data")
    Path("data.key").unlink()
    run("restore", "latest", "data")
    shares = sorted(Path("shares").iterdir())[:2]
    run("keys", "recover", *(word for path in shares for word in ("--share", str(path))))
    run("index", "rebuild")
    assert contents() == original()


def test_another_host_and_path(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vkey = ArchiveFolder.open(Path("data")).vkey
    here = Path.cwd()
    Path("other").mkdir()
    for name in ("target", "vault", "data.key", "original"):
        shutil.move(name, "other")
    monkeypatch.chdir("other")
    os.environ["XDG_STATE_HOME"], before = str(here / "elsewhere"), os.environ["XDG_STATE_HOME"]
    try:
        where = ("--from", str(Path.cwd() / "target"), "--keys", str(Path.cwd() / "vault"))
        Path("kept").mkdir()
        done = told("restore", "latest", "moved", *where, "--vkey", vkey, "--settings", "kept")
        assert (done["anchored"], done["marked"]) == (True, None)
        assert {path.name for path in Path("kept").iterdir()} == {"coffer.toml.restored"}
        Path("coffer.toml").write_text(
            "archive = 'moved'\n[storage]\nreserve_bytes = 0\n[keys]\nkey_file = 'data.key'\n"
        )
        run("mark", "renew", *REASON)
        run("index", "rebuild")
        assert contents() == original()
        run("verify", "--level", "decrypt")
    finally:
        os.environ["XDG_STATE_HOME"] = before
    shutil.copy(here / "other" / "data.key", here)
    shutil.copytree(here / "other" / "target", here / "target")
    monkeypatch.chdir(here)


def test_what_was_erased_stays_erased(base: Path) -> None:
    run("shred", UIDS[0], "--yes", *REASON)
    told("backup", "run")
    lose("data")
    run("restore", "latest", "data")
    run("index", "rebuild")
    assert found() == [UIDS[1]]
    assert run("get", "--study", UIDS[0], "--out", "out", code=None).exit_code


def test_every_copy_of_the_keyring_is_listed_until_it_is_gone(base: Path) -> None:
    archive_id = ArchiveFolder.open(Path("data")).archive_id
    vault = FolderTarget(base / "vault")
    made = copies_made([vault], archive_id, 35)
    assert [each.id for each in made] == snapshots()
    assert all(each.until_ms > clock_ms() and each.held.records for each in made)
    (base / "vault" / archive_id.hex() / "keyrings" / f"{made[0].id}.json").unlink()
    left = copies_made([vault], archive_id, 35)
    assert [(each.id, each.held.records) for each in left] == [(made[0].id, 0), (made[1].id, made[1].held.records)]


def test_copies_of_the_keyring_go_when_their_days_are_over_but_the_newest(base: Path) -> None:
    settings("keep_last = 1", "keep_daily = 0", "keep_weekly = 0", "keep_monthly = 0")
    archive_id = ArchiveFolder.open(Path("data")).archive_id
    for path in sorted((base / "vault" / archive_id.hex()).rglob("20*")):
        path.rename(path.with_name(path.name.replace(path.name[:4], "2020", 1)))
    before = copies_made([FolderTarget(base / "vault")], archive_id, 35)
    assert len(before) == 2
    done = told("backup", "prune")
    assert len(done["snapshots"]) == 1  # type: ignore[arg-type]
    left = copies_made([FolderTarget(base / "vault")], archive_id, 35)
    assert len(left) <= 1
    run("backup", "verify", "latest", str(base / "target"), "--keys", "none")


def test_a_sealed_keyring_opens_with_an_identity_and_with_nothing_else(base: Path) -> None:
    told("backup", "recipient", "new", "meyer")
    told("backup", "recipient", "new", "schmidt")
    told("backup", "recipient", "new", "thief")
    Path("recipients").write_bytes(Path("meyer.pub").read_bytes() + Path("schmidt.pub").read_bytes())
    settings("recipients = 'recipients'")
    sent = told("backup", "run")
    ids = json.loads(run("backup", "recipient", "show", "recipients", "--json").stdout)
    assert sent["keyring"]["recipients"] == ids  # type: ignore[index]
    rows = Path("data/keyring/data.mdb").read_bytes()
    pieces = list((base / "vault").glob(f"*/keyring-pieces/{sent['snapshot']}/*"))
    assert pieces
    wrapped = {rows[at : at + 32] for at in range(0, len(rows) - 32, 32)} - {bytes(32)}
    for path in pieces:
        data = path.read_bytes()
        assert not any(row in data for row in list(wrapped)[:400])
    lose("data")
    assert "sealed to the recipients" in run("restore", "latest", "data", code=8).output
    assert run("restore", "latest", "data", "--identity", "thief", code=8).output
    assert run("restore", "latest", "data", "--identity", "meyer.pub", code=11).output
    run("restore", "latest", "data", "--identity", "schmidt")
    run("index", "rebuild")
    assert contents() == original()


def test_nothing_readable_is_at_a_target(base: Path) -> None:
    files = [path for place in ("target", "vault") for path in (base / place).rglob("*") if path.is_file()]
    assert len(files) > 8
    for path in files:
        data = path.read_bytes()
        assert not any(secret in data for secret in SECRETS), path
        assert zlib.crc32(data) != 0
        assert path.stat().st_mode & 0o77 == 0
    key = Path("data.key").read_bytes()
    assert not any(key[-32:] in path.read_bytes() for path in files)


def test_whatever_is_changed_at_a_target_is_found(base: Path) -> None:
    """Each object in turn: a bit flipped, cut, gone, or put in the place of another."""
    newest = snapshots()[-1]
    where = [path for place in ("target", "vault") for path in sorted((base / place).rglob("*")) if path.is_file()]
    needed = [path for path in where if snapshots()[0] not in str(path)]
    only_first = set()
    for path in needed:
        data = path.read_bytes()
        flip(path, len(data) // 2)
        done = run("backup", "verify", newest, code=None)
        path.write_bytes(data)
        if done.exit_code == 0:
            only_first.add(path)
    kept = json.loads(
        (base / "target").joinpath(*_list_of(base, newest)).read_bytes().rpartition(b"\n")[0].rpartition(b"\n")[0]
    )
    pieces = {piece for each in (*kept["segments"], *kept["parts"]) for piece in each["pieces"]}
    assert only_first == {path for path in needed if "pieces" in path.parts and path.name not in pieces} - {
        path for path in needed if "keyring-pieces" in path.parts
    }
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() == path.name for path in only_first)


def _list_of(base: Path, snapshot: str) -> tuple[str, ...]:
    (path,) = (base / "target").glob(f"*/snapshots/{snapshot}.json")
    return path.relative_to(base / "target").parts


def test_another_archive_at_the_target_is_no_snapshot_of_this_one(base: Path) -> None:
    archive_id = ArchiveFolder.open(Path("data")).archive_id.hex()
    Path("stranger").mkdir()
    Path("stranger/coffer.toml").write_text("archive = 'data'\n[storage]\nreserve_bytes = 0\n")
    run("--config", "stranger/coffer.toml", "init")
    Path("forged").mkdir()
    run("--config", "stranger/coffer.toml", "backup", "run", str(base / "forged"), "--no-keys")
    (theirs,) = Path("forged").iterdir()
    theirs.rename(Path("forged") / archive_id)
    assert run("backup", "verify", "latest", str(base / "forged"), code=None).exit_code in {1, 3}
    assert run("restore", "latest", "new", "--from", str(base / "forged"), "--no-keys", code=None).exit_code in {1, 3}


def stored(archive: WritableArchive) -> None:
    archive.record_event(MarkRenewed(old_mark=None, mark=TreeHead(records=0, root="0" * 64), reason="r", by=ME))


def test_a_backup_ends_at_what_is_signed_and_says_what_is_not(base: Path) -> None:
    """Beside a writer that is no server and takes no orders."""
    before, begun = told("status")["records"], clock_ms()
    with open_writer(load_config(Path("coffer.toml"))) as archive:
        stored(archive)
        done = told("backup", "run")
        assert (done["records"], done["findings"]) == (before, [])
        left = done["left_out"]
        assert left["records"] == 1  # type: ignore[index]
        assert begun <= left["since_ms"] <= clock_ms()  # type: ignore[index]
        assert left["why"]  # type: ignore[index]
        assert "1 records, the first stored at " in run("backup", "run").output
        archive.sign_checkpoint()
        done = told("backup", "run")
        assert (done["records"], done["left_out"]) == (before + 1, None)  # type: ignore[operator]
    assert snapshots()[-1] == done["snapshot"]


def test_a_backup_has_what_a_server_stored_a_moment_ago(base: Path) -> None:
    before = told("status")["records"]
    with Server(load_config(Path("coffer.toml"))) as server:
        stored(server.services.archive)
        Path("data.key").rename("safe.key")  # the command needs no key
        done = told("backup", "run")
        Path("safe.key").rename("data.key")
        assert done["left_out"] is None
        assert done["records"] > before  # type: ignore[operator]  # it may write events of its own


def test_a_backup_signs_what_a_stopped_server_left_if_the_key_is_there(base: Path) -> None:
    before = told("status")["records"]
    with open_writer(load_config(Path("coffer.toml"))) as archive:
        stored(archive)
        shutil.copytree("data", "killed/data")
        shutil.copytree("state", "killed/state")
    lose("data", "state")
    for name in ("data", "state"):
        Path("killed", name).rename(name)
    Path("data.key").rename("safe.key")
    done = told("backup", "run")
    assert (done["records"], done["left_out"]["records"]) == (before, 1)  # type: ignore[index]
    assert "data.key" in done["left_out"]["why"]  # type: ignore[index]
    Path("safe.key").rename("data.key")
    done = told("backup", "run")
    assert done["records"] > before  # type: ignore[operator]
    assert done["left_out"] is None


def test_a_drill_opens_what_comes_back_and_is_signed(base: Path) -> None:
    done = told("backup", "drill", "--open", "--sample", "100", "-o", "drill.note")
    assert done["opened"] == done["records"] == done["bodies"]
    assert (done["same"], done["findings"]) == (True, [])
    text = Path("drill.note").read_text()
    assert text.startswith("RESTORABLE")
    assert "\n— " in text
    assert not any(uid in text for uid in UIDS)
    keyless = told("backup", "drill", "--sample", "100", "-o", "keyless.note")
    assert (keyless["opened"], keyless["bodies"], keyless["signed"]) == (None, done["records"], True)
    assert "\n— " in Path("keyless.note").read_text()
    Path("data.key").rename("safe.key")
    unsigned = told("backup", "drill", "--sample", "1", "-o", "unsigned.note")
    assert (unsigned["findings"], unsigned["signed"]) == ([], False)
    assert unsigned["bodies"] == done["records"]  # 1 % of so few would be none
    assert "\n— " not in Path("unsigned.note").read_text()
    Path("safe.key").rename("data.key")
    first = next(iter(sorted((base / "target").glob("*/pieces/*/*"), key=lambda path: -path.stat().st_size)))
    flip(first, 3000)
    assert told("backup", "drill", "--sample", "100", code=1)["findings"]
    flip(first, 3000)


def test_who_says_nothing_about_the_keyring_is_asked(base: Path) -> None:
    configure("[integrity]", "mark = 'state/mark'")
    assert "nobody said where copies of the keyring go" in run("backup", "run", str(base / "target"), code=11).output
    assert "is not there" in run("backup", "run", str(base / "absent"), "--no-keys", code=6).output
    assert "inside one another" in run("backup", "run", str(base / "data/x"), "--no-keys", code=11).output
    run("backup", "run", str(base / "target"), "--no-keys")


def test_no_snapshot_is_made_of_an_archive_that_was_put_back(base: Path) -> None:
    """It would count as the newest, and `prune` would remove good ones for it."""
    shutil.copytree("data", "older")
    put(UIDS[1])
    run("checkpoint", "sign")
    told("backup", "run")
    before = snapshots()
    Path("data").rename("newest")
    Path("older").rename("data")
    assert "the mark outside the folder" in run("backup", "run", code=13).stderr
    assert snapshots() == before
    shutil.rmtree("data")
    Path("newest").rename("data")
    told("backup", "run")
