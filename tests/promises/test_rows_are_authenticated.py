"""Promise: a row of the keyring that Coffer did not write, or has no longer, is found and not acted on. The index has
a promise of its own: `test_the_index_cannot_hide`.

Adversary: who writes the disk. Somebody who can write to the archive folder, knows the formats, has older copies of
every file, and has no key; after each change all sums and counts that need no key are computed anew. Not: who puts back
the whole keyring, and the log with it, as both were at some time.

Found means: `coffer keys audit` and `coffer verify --level decrypt` end with 1 and say so, or it does not open.
Not acted on means: no checkpoint is signed, no event reaches the log, no key is dropped.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import Result

from coffer.keys.errors import IntegrityError
from coffer.keys.keyring.tombstone import Tombstone
from coffer.keys.values.waiting_event import WaitingEvent
from coffer.server.config.load import load_config
from coffer.server.engine.opening import open_writer
from tests.keyless import change, rows_of
from tests.server.filled import copy_archive, run
from tests.server.three_studies import UIDS, configure, put

KEYRING = Path("data/keyring")
SAID = "were removed, altered or put back"
# Every kind of row of the archive below, but `S`, the sums themselves, and `D`, which the attacker's tool computes.
LETTERS = "HEAVKJTCUGLWM"
OPENS_NOTHING = 3, 4, 8, 13  # exit codes of a keyring that does not open


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive that has lived a little, and beside it its keyring as it was before that."""
    base = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(base)
        configure()
        run("init")
        put(*UIDS)
        run("keys", "split", "-n", "2", "-k", "2", "-o", "shares")
        run("hold", "add", UIDS[0], "--reason", "court case")
        run("checkpoint", "sign")
        shutil.copytree(KEYRING, "before")
        run("shred", UIDS[1], "--reason", "r", "--yes")
        run("keys", "rekey", UIDS[2], "--reason", "r", "--yes")
        run("keys", "rotate")
        run("verify", "--level", "decrypt")
        run("keys", "audit")
        copy_archive("data", "filled")
    return base


@pytest.fixture
def base(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to change."""
    shutil.copytree(made, tmp_path / "base")
    monkeypatch.chdir(tmp_path / "base")
    copy_archive("filled", "data")  # with the mark, which another test has raised
    return tmp_path / "base"


def require_found(*command: str) -> Result:
    """A finding that names what happened; or the keyring does not open at all, because what opens it was changed."""
    done = run(*command, code=None)
    said = (SAID, "the keyring has no header", "lacks a key of the archive", "of key 00000000 was altered")
    is_named = any(what in done.output for what in said)
    assert (done.exit_code == 1 and is_named) or done.exit_code in OPENS_NOTHING, done.output
    return done


def of(letter: str, rows: dict[bytes, bytes]) -> bytes:
    """The first row of a kind."""
    return min(key for key in rows if key[:1] == letter.encode())


def test_the_archive_has_rows_of_every_kind_here(base: Path) -> None:
    assert {chr(key[0]) for key in rows_of(KEYRING)} == {*LETTERS, "S", "D"}


@pytest.mark.parametrize("how", ["removed", "altered"])
@pytest.mark.parametrize("letter", LETTERS)
def test_a_row_removed_or_altered(base: Path, letter: str, how: str) -> None:
    rows = rows_of(KEYRING)
    key = of(letter, rows)
    value = rows[key]
    change(KEYRING, {key: None if how == "removed" else value[:-1] + bytes([value[-1] ^ 1])})
    require_found("keys", "audit")
    require_found("verify", "--level", "decrypt")


def test_a_row_put_back_as_it_was(base: Path) -> None:
    before, now = rows_of(Path("before")), rows_of(KEYRING)
    older = [key for key in before if key[:1] not in b"SD" and before[key] != now.get(key)]
    assert {chr(key[0]) for key in older} >= {*"HAVKJW"}
    for letter in "HAVKJW":
        key = min(each for each in older if each[:1] == letter.encode())
        change(KEYRING, {key: before[key]})
        require_found("keys", "audit")
        change(KEYRING, {key: now.get(key)})
    run("keys", "audit")


@pytest.mark.parametrize("letter", "TPOLQRIFX")
def test_a_row_planted(base: Path, letter: str) -> None:
    change(KEYRING, {letter.encode() + bytes([200]) * 16: bytes(56)})
    require_found("keys", "audit")


def test_a_sum_put_back_removed_or_swapped(base: Path) -> None:
    before, now = rows_of(Path("before")), rows_of(KEYRING)
    moved = next(key for key in now if key[:1] == b"S" and now[key] != before[key])
    for bad in ({moved: before[moved]}, {moved: None}, {moved: now[b"S\xfe"], b"S\xfe": now[moved]}):
        change(KEYRING, bad)
        require_found("keys", "audit")
        change(KEYRING, {moved: now[moved], b"S\xfe": now[b"S\xfe"]})
    run("keys", "audit")


def bucket_of(key: bytes) -> int:
    return key[1] if len(key) > 1 else 0


@pytest.mark.parametrize("what", "LTKJ")
def test_a_bucket_put_back_with_its_sum(base: Path, what: str) -> None:
    """Whoever kept a copy puts back a whole bucket: a hold, or a shred, is gone, and every sum is right."""
    run("hold", "add", UIDS[2], "--reason", "another")
    run("checkpoint", "sign")
    before, now = rows_of(Path("before")), rows_of(KEYRING)
    fresh = min(key for key in now if key[:1] == what.encode() and before.get(key) != now[key])
    bucket = bucket_of(fresh)
    older = {key: None for key in now if bucket_of(key) == bucket} | {
        key: value for key, value in before.items() if bucket_of(key) == bucket
    }
    change(KEYRING, {key: value for key, value in older.items() if key[:1] != b"D"})
    assert rows_of(KEYRING).get(fresh) != now[fresh]
    require_found("keys", "audit")
    assert all(SAID in run(of, "list", code=3).output for of in ("hold", "shred"))
    put_file("1.2.9")
    signed = Path("data/checkpoints/latest").read_bytes()
    run("put", "files", code=None)
    assert Path("data/checkpoints/latest").read_bytes() == signed


@pytest.mark.parametrize("since", ["nothing", "an object", "another hold"])
def test_a_bucket_that_a_copy_of_the_archive_wrote(base: Path, since: str) -> None:
    """A restore drill on another host removes a hold; its bucket has right sums and a higher generation."""
    rows = rows_of(KEYRING)
    held = of("L", rows)
    shutil.copytree("data", "drill/data")
    shutil.copy("data.key", "drill/data.key")
    Path("drill/coffer.toml").write_text(Path("coffer.toml").read_text() + "[integrity]\nmark = 'mark'\n")
    run("--config", "drill/coffer.toml", "hold", "remove", held[1:].hex())
    if since == "an object":
        put_file("1.2.9")
        run("put", "files")
        shutil.rmtree("files")
    if since == "another hold":
        run("hold", "add", UIDS[2], "--reason", "another")
    bucket, theirs = bucket_of(held), rows_of(Path("drill/data/keyring"))
    ours = {key: None for key in rows_of(KEYRING) if bucket_of(key) == bucket}
    change(KEYRING, ours | {key: value for key, value in theirs.items() if bucket_of(key) == bucket})
    assert held not in rows_of(KEYRING)
    for command in (("keys", "audit"), ("verify", "--level", "decrypt")):
        require_found(*command)
    signed = Path("data/checkpoints/latest").read_bytes()
    put_file("1.2.10")
    assert run("put", "files", code=None).exit_code == 3
    assert run("shred", UIDS[0], "--reason", "r", "--yes", code=None).exit_code == 3
    assert Path("data/checkpoints/latest").read_bytes() == signed


def test_claims_that_changed_places_decide_nothing(base: Path) -> None:
    """Objects were stored, and nothing said that no checkpoint could be signed over them."""
    rows = rows_of(KEYRING)
    one, two = [key for key in rows if key[:1] == b"J"][:2]
    change(KEYRING, {one: rows[two], two: rows[one]})
    signed = Path("data/checkpoints/latest").read_bytes()
    put_file("1.2.9")
    assert SAID in run("put", "files", code=3).output
    shutil.rmtree("files")
    put_file(UIDS[0])
    assert run("put", "files", code=None).exit_code in {3, 12}
    assert Path("data/checkpoints/latest").read_bytes() == signed


def test_a_planted_tombstone_erases_nothing(base: Path) -> None:
    """A7: the server dropped the key of a living study."""
    rows = rows_of(KEYRING)
    tombstone = rows[of("T", rows)]
    living = next(key for key in rows if key[:1] == b"K" and b"T" + key[1:] not in rows)
    number = int.from_bytes(rows[b"C"], "big") + 1
    entry = {b"C": number.to_bytes(8, "big"), b"C" + number.to_bytes(8, "big"): living[1:]}
    change(KEYRING, {b"T" + living[1:]: tombstone, **entry})
    signed = Path("data/checkpoints/latest").read_bytes()
    put_file("1.2.9")
    assert run("put", "files", code=None).exit_code == 3
    assert living in rows_of(KEYRING)
    assert Path("data/checkpoints/latest").read_bytes() == signed
    require_found("verify", "--level", "decrypt")


def test_a_planted_event_does_not_reach_the_log(base: Path) -> None:
    """A7: it became a genuinely signed record of a shred of a living study."""
    rows = rows_of(KEYRING)
    living = next(key for key in rows if key[:1] == b"K" and b"T" + key[1:] not in rows)
    when = (1_800_000_000_000).to_bytes(8, "big")
    body = (4).to_bytes(2, "big") + when + living[1:] + bytes(32) + b"\xff" * 8 + bytes(400)
    change(KEYRING, {b"P" + when + bytes(8): body})
    segments, signed = sizes(), Path("data/checkpoints/latest").read_bytes()
    put_file("1.2.9")
    assert run("put", "files", code=None).exit_code == 3
    assert run("checkpoint", "sign", code=None).exit_code == 3
    assert (sizes(), Path("data/checkpoints/latest").read_bytes()) == (segments, signed)


def test_what_is_planted_while_the_writer_runs_erases_nothing_either(base: Path) -> None:
    with open_writer(load_config(Path("coffer.toml"))) as engine:
        engine.sign_checkpoint()
        key = engine.keyring.new_study().key_id
        before, number = engine.log.next_seq, engine.keyring.changes() + 1
        tombstone = Tombstone(2, 1, 2, bytes(16)).encode()
        feed = [(b"C", number.to_bytes(8, "big")), (b"C" + number.to_bytes(8, "big"), key)]
        event = WaitingEvent(4, 1_800_000_000_000, key, bytes(32), bytes(400), bytes(8))
        with engine.keyring._store._file._env.begin(write=True) as txn:  # LMDB's file, behind the store's back
            for row_key, value in [(b"T" + key, tombstone), *feed, event.row]:
                txn.put(row_key, value)
        with pytest.raises(IntegrityError, match=SAID):
            engine.reconcile()
        assert engine.log.next_seq == before
        with engine.keyring._store._file._env.begin(write=True) as txn:
            txn.delete(event.row_key)
        with pytest.raises(IntegrityError, match=SAID):
            engine.reconcile()
        assert engine.keyring.row(b"K" + key) is not None


def test_an_epochs_end_that_nobody_saw_is_not_believed(base: Path) -> None:
    """A keeper's receipt that was planted would make an erasure effective while its provider still opens everything."""
    rows = rows_of(KEYRING)
    keeper = of("U", rows)
    ended = bytearray(rows[keeper])
    ended[2], ended[40:48], ended[48:56] = 3, bytes(7) + b"\1", bytes(7) + b"\1"
    change(KEYRING, {keeper: bytes(ended)})
    assert run("keys", "destroy", "1", "--yes", code=None).exit_code == 3
    assert run("shred", UIDS[0], "--reason", "r", "--yes", code=None).exit_code in {3, 10}
    require_found("keys", "audit")


def test_without_the_key_the_audit_says_what_it_did_not_check(base: Path) -> None:
    Path("data.key").rename("away")
    rows = rows_of(KEYRING)
    change(KEYRING, {of("L", rows): None})
    assert "not checked with the key" in run("keys", "audit", code=None).output
    Path("away").rename("data.key")
    require_found("keys", "audit")


def sizes() -> dict[str, int]:
    return {path.name: path.stat().st_size for path in Path("data/segments").iterdir()}


def put_file(study: str) -> None:
    """Make a file of another study to store."""
    from tests.server.filled import part10
    from tests.server.three_studies import slices

    Path("files").mkdir()
    Path("files/1.dcm").write_bytes(part10(next(iter(slices(study, "P-1")))))
