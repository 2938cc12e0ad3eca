"""Once an erasure is effective, nothing that the archive's keys open can be compared with a guessed UID."""

from __future__ import annotations

import shutil
from pathlib import Path

from coffer.archive.events.recorded import Recorded
from coffer.keys.crypto import derive
from coffer.keys.keyring import rows, shred
from coffer.server.config.load import load_config
from coffer.server.engine.erasure_state import forget_names
from coffer.server.engine.opening import open_reading, open_writer
from tests.server import three_studies
from tests.server.certified import issue, shredded
from tests.server.filled import run, told
from tests.server.three_studies import UIDS, effective_at_once, found, put, put_back, states

archive = three_studies.archive


def remembered(study_uid: str) -> list[str]:
    """Where the keyring, its rows opened, and the log, its events opened, hold the token of a UID."""
    with open_reading(load_config(Path("coffer.toml"))) as engine:
        token, keyring = engine.index.study_token(study_uid), engine.keyring
        where = [chr(key[0]) for key, value in keyring.rows(b"") if token in value or token in key]
        event_key = keyring.archive_key(derive.EVENT)
        for position, header in engine.reader.records():
            if header.content_id.strip(b"\0") and header.kind not in {1, 2}:
                read = Recorded.open(event_key, engine.folder.archive_id, header, engine.reader.read_body(position))
                if token.hex() in str(read.event) or token in engine.reader.read_body(position):
                    where.append(read.event.code)
    return where


def erase(study_uid: str) -> None:
    run("shred", study_uid, "--reason", "r", "--yes")
    run("shred", "finish")
    run("shred", "finish", "--destroy")


def test_only_until_it_is_effective_can_a_uid_be_compared(archive: Path) -> None:
    effective_at_once()
    run("keys", "rekey", UIDS[0], "--reason", "r", "--yes")  # its old key has a tombstone as well
    run("shred", UIDS[0], "--reason", "r", "--yes")
    run("shred", "finish")
    assert remembered(UIDS[0]) == ["T", "T"]
    (key, *_) = shredded()
    issue(key, "--study-uid", UIDS[0])
    run("shred", "finish", "--destroy")
    assert set(states()) == {"effective"}
    assert remembered(UIDS[0]) == []
    last = issue(key)
    assert len(last.keys) == 2  # what belongs together still does
    assert last.study == issue(key).study
    said = run("shred", "certificate", key, "--study-uid", UIDS[0], code=12).output
    assert "forgotten" in said
    run("keys", "audit")


def test_a_study_that_comes_again_is_a_new_one(archive: Path) -> None:
    effective_at_once()
    erase(UIDS[0])
    (key,) = shredded()
    put(UIDS[0])
    assert found() == sorted(UIDS)
    assert issue(key).keys[0].key == key  # about that key: what came since is under another
    with open_reading(load_config(Path("coffer.toml"))) as engine:
        assert key not in {each.hex() for each in engine.index.key_ids_of(UIDS[0])}
        assert engine.index.is_stored(engine.index.study_token(UIDS[0]))


def test_an_older_keyring_shreds_again_and_forgets_again(archive: Path) -> None:
    """The event in the log has the token that finds the rows in the index, hidden under the key of the old keyring."""
    effective_at_once()
    shutil.copytree("data/keyring", "older")
    run("shred", UIDS[0], "--reason", "r", "--yes")
    put_back("older")
    run("index", "rebuild", code=13)  # as every command that writes; it was shredded again all the same
    put_back("older")
    size = told("recover", "show", code=1)["records"]
    run("recover", "accept-loss", "--to", str(size))
    assert found() == sorted(UIDS[1:])
    assert states() == ["scheduled"]
    assert remembered(UIDS[0]) == ["T"]
    run("shred", "finish")
    run("shred", "finish", "--destroy")
    assert states() == ["effective"]
    assert remembered(UIDS[0]) == []


def test_it_is_remembered_while_another_key_of_the_study_can_be_opened_or_lives(archive: Path) -> None:
    effective_at_once()
    put(UIDS[0], patient_id="P-2")  # another patient under the same UID
    run("shred", UIDS[0], "--patient-id", "P-4711", "--reason", "r", "--yes")
    run("shred", "finish")
    run("shred", "finish", "--destroy")
    with open_writer(load_config(Path("coffer.toml"))) as engine:
        token = engine.index.study_token(UIDS[0])
        assert engine.index.is_stored(token)
        assert [each.name for each in shred.tombstones(engine.keyring).values()] == [token]
        assert forget_names(engine.keyring, lambda _: False) == 1
        (row,) = engine.keyring.rows(rows.TOMBSTONE_PREFIX)
        assert token not in row[1]
