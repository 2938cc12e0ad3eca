"""The keyring held against the log: every way it can be the wrong one is told by the command and by the next start."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.writer_lock import WriterLock
from coffer.keys.errors import CofferError
from coffer.keys.keyring import rows
from coffer.keys.keyring.tombstone import Tombstone
from coffer.keys.store.keyring_store import scan
from coffer.keys.store.lmdb_store import LmdbKeyringStore
from coffer.keys.values import waiting_event
from coffer.server.config.load import load_config
from coffer.server.engine.opening import open_for_service, open_writer
from tests import keyless
from tests.server.filled import copy_archive, run
from tests.server.three_studies import UIDS, configure, put

NEW = "1.2.3.77"


def audit(code: int = 1) -> dict[str, object]:
    """What the command says, in JSON."""
    done = run("keys", "audit", "--json", code=code)
    told: dict[str, object] = json.loads(done.stdout)
    return told


def findings(code: int = 1) -> str:
    """All findings as one text."""
    return "\n".join(str(each) for each in audit(code)["findings"])  # type: ignore[attr-defined]


def started() -> str:
    """What a start of the server says is wrong: why it refuses to write or to open, and what it tells otherwise."""
    try:
        with open_for_service(load_config(Path("coffer.toml"))) as engine:
            refusal = engine.log.refusal
            return "\n".join([str(refusal)] * (refusal is not None) + engine.key_trouble)
    except CofferError as error:
        return str(error)


def copy(name: str) -> None:
    shutil.copytree("data/keyring", name)


def put_back(name: str) -> None:
    shutil.rmtree("data/keyring")
    shutil.copytree(name, "data/keyring")


def change(put: list[tuple[bytes, bytes]], removed: list[bytes]) -> None:
    """Change rows as somebody would who knows the format, but not the keys."""
    keyless.change(Path("data/keyring"), {**dict.fromkeys(removed), **dict(put)})


def rows_of(prefix: bytes) -> list[tuple[bytes, bytes]]:
    """The rows under a prefix."""
    store = LmdbKeyringStore(Path("data/keyring"), readonly=True)
    found = scan(store, prefix)
    store.close()
    return found


def row_of(prefix: bytes) -> tuple[bytes, bytes]:
    """The first row under a prefix."""
    return rows_of(prefix)[0]


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An archive of three studies; whatever a test does to its keyring, the right one is put back and all verified."""
    monkeypatch.chdir(tmp_path)
    configure()
    run("init")
    put(*UIDS)
    yield tmp_path / "data"
    if Path("right").exists():
        put_back("right")
    run("verify", "--level", "decrypt")
    run("keys", "audit")


def test_a_good_keyring_has_no_finding(archive: Path) -> None:
    told = audit(0)
    assert told["findings"] == []
    assert (told["in_use"], told["unused"], told["shredded"]) == (3, 0, 0)
    assert "no findings" in run("keys", "audit").output


def test_nothing_that_is_done_to_keys_is_a_finding(archive: Path) -> None:
    run("keys", "rotate")
    run("shred", UIDS[0], "--reason", "r", "--yes")
    assert audit(0)["shredded"] == 1
    run("keys", "rekey", UIDS[1], "--reason", "r", "--yes")
    assert (audit(0)["shredded"], audit(0)["replaced"], audit(0)["in_use"]) == (1, 1, 2)
    with open_writer(load_config(Path("coffer.toml"))) as engine:
        engine.keyring.new_study()
        assert engine.key_trouble == []
    assert audit(0)["unused"] == 1
    assert started() == ""


def test_an_older_keyring_changes_no_key_beside_a_server_that_refuses(archive: Path) -> None:
    copy("before")
    run("hold", "add", UIDS[0], "--reason", "court case")
    copy("right")
    put_back("before")
    with WriterLock(ArchiveFolder.open(archive).lock, "coffer serve", 1):
        refused = run("shred", UIDS[0], "--reason", "r", "--yes", code=13).output
        assert "the keyring is older than the log" in refused
        run("find")  # what it opens is read


def older_by_a_study() -> None:
    copy("before")
    put(NEW)
    copy("right")
    put_back("before")


def older_by_a_rotation() -> None:
    copy("before")
    run("keys", "rotate")
    assert started() == ""  # it records the rotation
    copy("right")
    put_back("before")


def older_by_a_shred() -> None:
    copy("before")
    run("shred", UIDS[0], "--reason", "r", "--yes")
    copy("right")
    put_back("before")


def older_by_a_hold() -> None:
    copy("before")
    run("hold", "add", UIDS[0], "--reason", "court case")
    copy("right")
    put_back("before")


def older_by_the_end_of_a_request() -> None:
    asked = json.loads(run("shred", "request", UIDS[0], "--reason", "r", "--json").stdout)
    copy("before")
    run("shred", "cancel", asked["request"])
    copy("right")
    put_back("before")


def older_by_a_rekey() -> None:
    copy("before")
    run("keys", "rekey", UIDS[1], "--reason", "r", "--yes")
    copy("right")
    put_back("before")


def with_a_cut_event() -> None:
    copy("right")
    change([(waiting_event.PREFIX + bytes(16), b"cut")], [])


def forked() -> None:
    copy_archive("data", "fork")
    put(NEW)
    copy("right")
    copy_archive("data", "main")
    shutil.rmtree("data")
    copy_archive("fork", "data")
    put("1.2.3.78")
    shutil.move("data", "forked")
    copy_archive("main", "data")
    put_back("forked/keyring")


def of_another_archive() -> None:
    copy("right")
    shutil.move("data", "main")
    run("init")
    put(*UIDS)
    shutil.move("data", "other")
    shutil.move("main", "data")
    put_back("other/keyring")


# The second where the key's row happens to be in the bucket that every opening checks.
WITHOUT_KEY = "1 studies of the index have no key|rows of the keyring were removed"


def without_a_study() -> None:
    copy("right")
    change([], [row_of(rows.STUDY_PREFIX)[0]])


def with_another_study_instead() -> None:
    copy("right")
    key, value = row_of(rows.STUDY_PREFIX)
    change([(rows.STUDY_PREFIX + os.urandom(16), value)], [key])


def with_a_grave_nobody_dug() -> None:
    copy("right")
    key, _ = row_of(rows.STUDY_PREFIX)
    change([(rows.TOMBSTONE_PREFIX + key[1:], Tombstone(1, 1, 2, bytes(16)).encode())], [key])


def without_an_epoch() -> None:
    copy("right")
    change([], [row_of(rows.EPOCH_PREFIX)[0]])


def cut() -> None:
    copy("right")
    os.truncate("data/keyring/data.mdb", 3 * 4096)


def empty() -> None:
    copy("right")
    Path("data/keyring/data.mdb").write_bytes(b"")


@pytest.mark.parametrize(
    ("make", "told", "at_start"),
    [
        (older_by_a_study, r"older than the log.*\n.*is missing: \d objects cannot be opened", "older than the log"),
        (older_by_a_rotation, "the keyring is older than the log", "moved to epoch 2 since"),
        (older_by_a_shred, "was shredded, and is alive in this keyring", "older than the log"),
        (
            older_by_a_hold,
            "the keyring is older than the log",
            "1 holds, requests .* are missing",
        ),
        (older_by_the_end_of_a_request, "the keyring is older than the log", "1 .* that were ended are in it"),
        (older_by_a_rekey, "was replaced by a rekey, and is alive in this keyring", "1 keys that a rekey replaced are"),
        (with_a_cut_event, "an event in the keyring is truncated", "an event in the keyring is truncated"),
        (forked, "belongs to another history", "keyring, history and mark differ"),
        (of_another_archive, "the keyring of another archive", "the keyring of another archive"),
        (without_a_study, "is missing: [1-9] objects cannot be opened", WITHOUT_KEY),
        (
            with_another_study_instead,
            "is missing: [1-9] objects cannot be opened",
            WITHOUT_KEY,
        ),
        (
            with_a_grave_nobody_dug,
            r"was destroyed \(shredded\), and the log has no record",
            WITHOUT_KEY,
        ),
        (without_an_epoch, "epoch 1, (which )?is not in this keyring", "no key|not in this keyring"),
        (cut, "the keyring", "keyring"),
        (empty, "the keyring", "keyring"),
    ],
)
def test_the_wrong_keyring_is_found(archive: Path, make: Callable[[], None], told: str, at_start: str) -> None:
    make()
    found = findings()
    assert re.search(told, found), found
    said = started()
    assert said
    assert re.search(at_start, said), said
    assert findings()  # the start has healed nothing in silence


def test_claims_and_keys_that_contradict_each_other_are_found(archive: Path) -> None:
    copy("right")
    (first, mine), (second, theirs), _ = rows_of(rows.CLAIM_PREFIX)
    key, tokens = mine[:16].hex(), (first[1:].hex(), second[1:].hex())
    for put_, removed, told in (
        ([], [first], f"key {key} has claim {tokens[0]}, which is not there"),
        ([(first, theirs)], [], f"claim {tokens[0]} leads to key {theirs[:16].hex()}, which is not its own"),
        ([(first, theirs)], [], f"key {key} and key {theirs[:16].hex()} have one claim"),
        ([(first, bytes(24))], [], f"claim {tokens[0]} leads to key {bytes(16).hex()}, which is not in use"),
        ([(first, b"short")], [], "a claim of the keyring has the wrong length"),
    ):
        change(put_, removed)
        assert told in findings()
        put_back("right")
