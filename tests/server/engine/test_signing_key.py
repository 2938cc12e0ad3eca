"""Another signing key by command: with and without a server, stopped anywhere, and what everybody sees of it."""

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coffer.archive.events.signing_keys import SigningKeyOrdered, SigningKeyRotated
from coffer.archive.reader import LogReader
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.writer_lock import WriterLock
from coffer.archive.tree.certificate import Certificate
from coffer.archive.tree.checkpoint import read_checkpoint
from coffer.archive.tree.key_history import endorse, read_key_history
from coffer.keys.crypto.signing import CheckpointSigner
from coffer.keys.disk.syscalls import SystemCalls
from coffer.keys.errors import IntegrityError
from coffer.keys.keyring import rows, signing_key
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.memory.secret import Secret
from coffer.keys.store.lmdb_store import LmdbKeyringStore
from coffer.server.access.principal import Principal
from coffer.server.config.load import load_config
from coffer.server.engine.checkpoint_signer import order
from coffer.server.engine.opening import open_for_keys, open_writer
from coffer.server.engine.providers import open_keyring, provider_of
from coffer.server.keyops.epochs import EpochAdmin
from tests.archive.auditor import AUDITOR, PROVER
from tests.archive.events.samples import ANY
from tests.server.filled import run, told
from tests.server.served import serving
from tests.server.three_studies import UIDS, configure, effective_at_once, events, put

EFFECTIVE_FILE = Path("erased.note")


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An archive of two studies; at the end Coffer and the auditor's program find nothing in it."""
    monkeypatch.chdir(tmp_path)
    configure()
    run("init")
    put(*UIDS[:2])
    yield tmp_path / "data"
    run("verify", "--level", "decrypt")
    assert AUDITOR.Archive(Path("data"), "", []).found == []


def folder() -> ArchiveFolder:
    return ArchiveFolder.open(Path("data"))


def keyring() -> Keyring:
    config = load_config(Path("coffer.toml"))
    return open_keyring(folder(), provider_of(config.keys, folder().archive_id))


def test_a_new_key_is_endorsed_and_the_old_one_is_gone(archive: Path) -> None:
    first = folder().vkey
    ring = keyring()
    old = ring.row(rows.SIGNING_KEY)
    ring.close()
    run("checkpoint", "show")
    shutil.copy("data/checkpoints/latest", "kept.note")
    run("checkpoint", "prove-inclusion", "2", "-o", "before.json")
    made = told("keys", "rotate-signing", "--reason", "yearly", "--officer", "Meyer")
    assert (made["generation"], made["old_verifier_key"], made["resumed"]) == (2, first, False)
    ring = keyring()
    assert signing_key.current(ring).vkey(folder().origin) == made["verifier_key"] == read_key_history(folder()).current
    assert (ring.row(rows.NEXT_SIGNING_KEY), ring.row(rows.SIGNING_KEY) == old) == (None, False)
    ring.close()
    assert "reason" in run("keys", "rotate-signing", "--reason", " ", code=12).output
    (ordered,) = events(SigningKeyOrdered)
    assert (ordered.by.name, ordered.reason, ordered.vkey) == ("Meyer", "yearly", made["verifier_key"])
    (done,) = events(SigningKeyRotated)
    assert (done.generation, done.vkey, done.old_vkey) == (2, made["verifier_key"], first)
    assert done.endorsed.records == made["from_records"]

    put(UIDS[2])
    shown = told("checkpoint", "show")
    assert (shown["verifier_key"], shown["signing_key"], shown["generation"]) == (first, made["verifier_key"], 2)
    signing = told("keys", "list")["signing_key"]
    assert isinstance(signing, dict)
    assert (signing["generation"], signing["verifier_key"], signing["changing"]) == (2, made["verifier_key"], False)
    assert made["verifier_key"] in run("keys", "list").output
    run("checkpoint", "prove-consistency", "kept.note", "-o", "growth.json")
    run("checkpoint", "prove-inclusion", "2", "-o", "after.json")
    for proof in ("before.json", "growth.json", "after.json"):
        for vkey in (first, *([] if proof == "before.json" else [str(made["verifier_key"])])):
            run("checkpoint", "check", proof, "--vkey", vkey)
            PROVER.check_proof(json.loads(Path(proof).read_text()), vkey)
    run("verify", "--since", "kept.note")
    run("scrub", "show")
    assert told("recover", "show")["complaint"] is None


def test_public_keys_are_exported_without_any_key(archive: Path) -> None:
    run("keys", "rotate-signing", "--reason", "r")
    Path("data.key").rename("away.key")
    shutil.move("data/keyring", "away")
    exported = told("keys", "export", "--public")
    first, second = exported["keys"]  # type: ignore[misc]
    assert (first["verifier_key"], first["from_records"], first["endorsement"]) == (folder().vkey, 0, None)
    assert (first["to_records"], second["to_records"]) == (second["from_records"], None)
    text = run("keys", "export", "--public").output
    for part in (first["verifier_key"], second["verifier_key"], second["endorsement"].rstrip("\n")):
        assert part in text
    assert AUDITOR.Keys(first["verifier_key"], [second["endorsement"].encode()]).vkeys[-1] == second["verifier_key"]
    run("keys", "export", "--public", "-o", "keys.txt")
    assert Path("keys.txt").read_text() == text
    run("keys", "export", "--public", "--json", "-o", "keys.json")
    assert json.loads(Path("keys.json").read_text()) == exported
    run("keys", "export", code=2)
    run("keys", "export", "--public", "-o", "missing/keys.txt", code=12)
    shutil.move("away", "data/keyring")
    Path("away.key").rename("data.key")


def test_beside_a_running_server_the_server_does_it(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = folder().vkey
    with serving():
        made = told("keys", "rotate-signing", "--reason", "r")
        assert made["old_verifier_key"] == first
        assert read_key_history(folder()).current == made["verifier_key"]
    assert len(events(SigningKeyRotated)) == 1
    keys = read_key_history(folder())
    assert keys.signers(folder().checkpoint.read_bytes()) == [2]
    monkeypatch.setattr("coffer.server.engine.checkpoint_signer._WAIT_SECONDS", 0.2)
    with WriterLock(folder().lock, "coffer put", 0):  # whoever writes here looks at no order
        assert "coffer put" in run("keys", "rotate-signing", "--reason", "r", code=6).output
    assert told("keys", "rotate-signing", "--reason", "r")["resumed"] is True
    assert len(events(SigningKeyRotated)) == 2


def test_certificates_over_a_change_hold_for_who_has_the_first_key(archive: Path) -> None:
    first = folder().vkey
    effective_at_once()
    for turn in range(2):
        run("shred", UIDS[turn], "--reason", "r", "--yes")
        run("shred", "finish")
        run("shred", "finish", "--destroy")
        key = told("shred", "list")["shreds"][-1]["study_key"]  # type: ignore[index]
        run("keys", "rotate-signing", "--reason", "r")
        EFFECTIVE_FILE.write_text(run("shred", "certificate", key).stdout)
        run("shred", "check", str(EFFECTIVE_FILE))
        for vkey in read_key_history(folder()).vkeys:
            run("shred", "check", str(EFFECTIVE_FILE), "--vkey", vkey)
            PROVER.check_certificate(EFFECTIVE_FILE.read_bytes(), vkey)
    made = Certificate.open(EFFECTIVE_FILE.read_bytes(), first)
    assert len(made.endorsements) == 2
    body = made.serialize()
    ring = keyring()
    now = signing_key.current(ring)
    ring.close()
    run("keys", "rotate-signing", "--reason", "r")
    assert Certificate.open(now.sign_note(folder().origin, body), first) == made  # by the old key, made again
    EFFECTIVE_FILE.write_text(run("shred", "certificate", key).stdout)
    newer = Certificate.open(EFFECTIVE_FILE.read_bytes(), first)
    by_the_thief = now.sign_note(folder().origin, newer.serialize())
    with pytest.raises(IntegrityError, match="not in force"):
        Certificate.open(by_the_thief, first)
    with pytest.raises(ValueError, match="in force"):
        PROVER.check_certificate(by_the_thief, first)
    with pytest.raises(IntegrityError, match="not signed by this key"):
        Certificate.open(CheckpointSigner(Secret(bytes(32))).sign_note(folder().origin, body), first)


def stopped_after_the_endorsement(ring: Keyring) -> str:
    """Order another key and endorse it; the verifier key that is to sign."""
    new = order(ring, folder(), "r", Principal.person("Meyer", "meyer"))
    signer, last = signing_key.pending(ring), read_checkpoint(folder())
    assert signer is not None
    assert last is not None
    endorse(folder(), signing_key.current(ring), signer, last)
    return new


def test_the_old_key_signs_all_that_came_before_and_nothing_after(archive: Path) -> None:
    with open_writer(load_config(Path("coffer.toml"))) as engine:
        engine.record_event(ANY)
        order(engine.keyring, engine.folder, "r", Principal.person("Meyer", "meyer"))
        records = engine.log.next_seq
        engine.reconcile()
        (made,) = read_key_history(engine.folder).endorsements
        assert made.size == records
        new = stopped_after_the_endorsement(engine.keyring)
        engine.record_event(ANY)
        assert engine.sign_checkpoint() is not None
        keys = read_key_history(engine.folder)
        assert keys.signers(engine.folder.checkpoint.read_bytes()) == [3]
        assert keys.current == signing_key.current(engine.keyring).vkey(engine.folder.origin) == new


def test_a_loss_between_endorsement_and_change_loses_no_key(archive: Path) -> None:
    ring = keyring()
    new = stopped_after_the_endorsement(ring)
    ring.close()
    reader = LogReader(folder())
    places = {position.seq: position for position, _ in reader.records()}
    group = next(header.group for _, header in reader.records(max(places)))
    reader.close()
    (segment,) = Path("data/segments").iterdir()
    segment.write_bytes(segment.read_bytes()[: places[group].offset])
    run("checkpoint", "sign", code=13)
    run("recover", "accept-loss", "--to", str(group))
    assert not list(Path("data/lost+found").glob("endorsements-*"))
    assert read_key_history(folder()).current == new
    shutil.rmtree("data/index")
    run("index", "rebuild")


def test_epochs_and_signing_keys_change_beside_each_other(archive: Path) -> None:
    """A rotation of the keyring while one of the signing key is under way moves both seeds."""
    ring = keyring()
    who = Principal.person("Meyer", "meyer")
    new = order(ring, folder(), "r", who)
    EpochAdmin(folder(), ring, load_config(Path("coffer.toml")).keys, who, "coffer keys rotate").rotate()
    assert signing_key.pending(ring) is not None
    ring.close()
    assert told("keys", "list")["signing_key"]["changing"] is True  # type: ignore[index]
    assert told("keys", "rotate-signing", "--reason", "r")["verifier_key"] == new
    run("keys", "destroy", "1", "--yes")
    run("keys", "rotate")
    put(UIDS[2])


def rotate_until(base: Path, at: int) -> None:
    """In a process of its own: change the signing key, and die at a durable step, before it or after it by turns."""
    left = at

    def stopping(inner: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **more: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                os._exit(9)
            done = inner(*args, **more)
            left -= 1
            if left < 0:
                os._exit(9)
            return done

        return call

    os.chdir(base)
    with open_for_keys(load_config(Path("coffer.toml"))) as engine:
        LmdbKeyringStore.put = stopping(LmdbKeyringStore.put)  # type: ignore[method-assign, assignment]
        for name in ("fsync", "fdatasync", "rename"):
            setattr(SystemCalls, name, staticmethod(stopping(getattr(SystemCalls, name))))
        order(engine.keyring, engine.folder, "r", Principal.person("Meyer", "meyer"))
        engine.reconcile()
        os._exit(0)


def test_killed_at_every_durable_step_it_goes_on(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keyring commits, and every sync and rename of files; the next command finishes, once, and all verifies."""
    context = multiprocessing.get_context("fork")
    codes, generations, mark = [], [], str(told("mark", "show")["mark"])
    for at in range(0, 200, 1 if os.environ.get("COFFER_EVERY_STEP") else 7):
        base = tmp_path / f"at{at}"
        base.mkdir()
        for name in ("data", "data.key", "coffer.toml"):
            source = tmp_path / name
            shutil.copytree(source, base / name) if source.is_dir() else shutil.copy(source, base / name)
        shutil.copy(mark, base / "data.mark")
        with (base / "coffer.toml").open("a") as settings:
            settings.write("\n[integrity]\nmark = 'data.mark'\n")
        process = context.Process(target=rotate_until, args=(base, at))
        process.start()
        process.join(60)
        codes.append(process.exitcode)
        monkeypatch.chdir(base)
        for told_by in (folder().checkpoint, folder().endorsements):
            assert not told_by.exists() or told_by.read_bytes().endswith(b"\n")
        run("verify", "--level", "headers")
        was_begun = told("keys", "list")["signing_key"]["changing"]  # type: ignore[index]
        was_done = len(read_key_history(folder()).vkeys) == 2
        if was_begun or not was_done:
            run("keys", "rotate-signing", "--reason", "r")
        run("checkpoint", "sign")
        generations.append(len(read_key_history(folder()).vkeys))
        run("verify", "--level", "decrypt")
        assert AUDITOR.Archive(Path("data"), "", []).found == []
        assert len(events(SigningKeyRotated)) == 1
        monkeypatch.chdir(tmp_path)
        shutil.rmtree(base)
        if process.exitcode == 0:
            break
    assert codes[-1] == 0, "the steps did not come to an end"
    assert len(codes) > 5
    assert set(generations) == {2}
