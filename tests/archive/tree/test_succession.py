"""Signing keys in order: who may sign what, what a stolen old key is worth, and every way to tamper with the chain.

All is asked twice: of Coffer, and of the auditor's program, which was written from FORMAT.md.
"""

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest

from coffer.archive.log import LogWriter
from coffer.archive.reader import LogReader
from coffer.archive.repair.divergence import accept_loss, find_divergence, take_from
from coffer.archive.repair.repair import repair
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.checkpoint import Checkpoint, latest_note, open_checkpoint, read_checkpoint
from coffer.archive.tree.checkpoint_history import publish, read_entries
from coffer.archive.tree.key_history import (
    Endorsement,
    KeyHistory,
    adopt,
    continue_from,
    endorse,
    read_key_history,
)
from coffer.archive.tree.proof import root
from coffer.archive.tree.proof_bundle import Consistency, Inclusion, parse_proof
from coffer.archive.tree.tiles import Tiles
from coffer.archive.verify.verify import Options, Verifier
from coffer.keys.crypto.signing import CheckpointSigner
from coffer.keys.errors import FormatError, HistoryError, IntegrityError
from coffer.keys.memory.secret import Secret
from tests.archive.auditor import AUDITOR, PROVER
from tests.archive.conftest import ORIGIN, FaultyCalls, SmallArchive, entry

SIGNERS = [CheckpointSigner(Secret(bytes([seed]) * 32)) for seed in range(1, 5)]
THIEF = CheckpointSigner(Secret(bytes(32)))


class Changing(SmallArchive):
    """A small archive whose signing key changes."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.signers = [self.signer]

    def grow(self, count: int) -> None:
        """Add records and sign with the newest key."""
        log = LogWriter(self.folder, sign=self.signers[-1].sign_statement, now_ms=self.now_ms)
        for number in range(log.next_seq, log.next_seq + count):
            log.append([entry(number)])
        log.checkpoint(partial(self.signers[-1].sign_note, ORIGIN))
        log.close()

    def change(self) -> Endorsement:
        """Let another key sign from here on."""
        self.signers.append(SIGNERS[len(self.signers) - 1])
        last = read_checkpoint(self.folder)
        assert last is not None
        return endorse(self.folder, *self.signers[-2:], last)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Changing]:
    """Three keys: over 3, 8 and 12 records one signed last, and the third signed over 20. Read only."""
    archive = Changing(tmp_path_factory.mktemp("succession") / "archive")
    archive.grow(3)
    archive.change()
    archive.grow(2)
    archive.grow(3)
    archive.change()
    archive.grow(4)
    archive.grow(8)
    yield archive
    archive.close()


@pytest.fixture
def copied(made: Changing, tmp_path: Path) -> ArchiveFolder:
    """A copy to tamper with."""
    shutil.copytree(made.folder.path, tmp_path / "copy")
    return ArchiveFolder.open(tmp_path / "copy")


def writer(folder: ArchiveFolder, signer: CheckpointSigner) -> LogWriter:
    """The log, opened by whoever holds this key."""
    return LogWriter(folder, sign=signer.sign_statement, now_ms=lambda: 1, signers=[signer.vkey(ORIGIN)])


def findings(folder: ArchiveFolder) -> list[str]:
    """What Coffer finds. The auditor's program must find something if and only if Coffer does."""
    found = [each.what for each in Verifier(folder, Options()).findings()]
    try:
        others = AUDITOR.Archive(folder.path, "", []).found
    except ValueError as error:
        others = [str(error)]
    assert bool(others) == bool(found), (found, others)
    return found


def forged(folder: ArchiveFolder, signer: CheckpointSigner, size: int) -> bytes:
    """A true checkpoint over so many records, by whatever key."""
    head = root(size, Tiles(folder, 20).at)
    return signer.sign_note(ORIGIN, Checkpoint(ORIGIN, size, head).serialize())


def test_each_key_signs_its_own_records_and_no_others(made: Changing) -> None:
    keys = read_key_history(made.folder)
    assert [keys.span(generation) for generation in (1, 2, 3)] == [(0, 3), (3, 8), (8, None)]
    assert keys.current == made.signers[2].vkey(ORIGIN)
    theirs = AUDITOR.Keys(made.folder.vkey, keys.notes)
    for size, (at, signer) in itertools.product(range(1, 21), enumerate(made.signers)):
        least, most = keys.span(at + 1)
        note = forged(made.folder, signer, size)
        if least <= size <= (most or size):
            assert open_checkpoint(note, made.folder).size == theirs.open(note)[0] == size
        else:
            with pytest.raises(IntegrityError, match="not in force"):
                open_checkpoint(note, made.folder)
            with pytest.raises(ValueError, match="in force"):
                theirs.open(note)
    lie = made.signers[0].sign_note(ORIGIN, Checkpoint(ORIGIN, 3, bytes(32)).serialize())
    with pytest.raises(IntegrityError, match="contradicts"):
        open_checkpoint(lie, made.folder)
    with pytest.raises(ValueError, match="contradicts"):
        theirs.open(lie)
    with pytest.raises(IntegrityError, match="not signed by this key"):
        open_checkpoint(forged(made.folder, THIEF, 20), made.folder)
    assert findings(made.folder) == []


def test_whoever_trusts_one_key_follows_to_all(made: Changing) -> None:
    notes = read_key_history(made.folder).notes
    latest = made.folder.checkpoint.read_bytes()
    for signer in made.signers:
        keys = KeyHistory.of(signer.vkey(ORIGIN), notes)
        assert (keys.vkeys, keys.notes) == (read_key_history(made.folder).vkeys, notes)
        assert AUDITOR.Archive(made.folder.path, signer.vkey(ORIGIN), []).found == []
    for vkey, given in ((THIEF.vkey(ORIGIN), notes), (made.folder.vkey, notes[1:])):
        with pytest.raises(IntegrityError, match=r"do not lead|out of order"):
            KeyHistory.of(vkey, given)
        with pytest.raises(ValueError):
            AUDITOR.Keys(vkey, given).open(latest)
    assert AUDITOR.Archive(made.folder.path, THIEF.vkey(ORIGIN), []).found


def test_proofs_over_a_change_hold_for_who_has_the_first_key(made: Changing) -> None:
    reader = LogReader(made.folder)
    headers = [header.serialize() for _, header in reader.records()]
    reader.close()
    notes = [each.note for each in read_entries(made.folder)]
    proofs: list[Inclusion | Consistency] = [Inclusion.make(made.folder, headers[at], notes[-1]) for at in (0, 5, 19)]
    proofs += [Consistency.make(made.folder, old, new) for old, new in itertools.combinations(notes, 2)]
    for proof in proofs:
        data = proof.serialize()
        again = parse_proof(data)
        assert again == proof
        again.check(made.folder.vkey)
        assert PROVER.check_proof(json.loads(data), made.folder.vkey)
    bare = Inclusion(proofs[0].record, proofs[0].path, notes[-1])  # type: ignore[union-attr]
    with pytest.raises(IntegrityError, match="not signed"):
        bare.check(made.folder.vkey)
    with pytest.raises(ValueError, match="in force"):
        PROVER.check_proof(json.loads(bare.serialize()), made.folder.vkey)


def signed(text: bytes, *signers: CheckpointSigner) -> bytes:
    return text + b"\n" + b"".join(each.line(ORIGIN, text) for each in signers)


def tamperings(made: Changing) -> dict[str, list[bytes]]:
    """Other endorsements in place of the archive's two, and what each of them is."""
    first, second = read_key_history(made.folder).notes
    one, two, three = made.signers
    text = first[: first.rindex(b"\n\n") + 1]
    made_first = Endorsement.parse(text)
    stolen = Endorsement(ORIGIN, 2, one.vkey(ORIGIN), THIEF.vkey(ORIGIN), 3, made_first.root).serialize()
    false = Endorsement(ORIGIN, 2, one.vkey(ORIGIN), two.vkey(ORIGIN), 3, bytes(32)).serialize()
    early = Endorsement(
        ORIGIN, 2, one.vkey(ORIGIN), two.vkey(ORIGIN), 2, root(2, Tiles(made.folder, 20).at)
    ).serialize()
    unseen = Endorsement(ORIGIN, 2, one.vkey(ORIGIN), two.vkey(ORIGIN), 4, bytes(32)).serialize()
    foreign = text.replace(ORIGIN.encode(), b"archive.example/other")
    return {
        "none": [],
        "the first is missing": [second],
        "the second is missing": [first],
        "swapped": [second, first],
        "one twice": [first, first, second],
        "without the old key's word": [signed(text, two), second],
        "without the new key's word": [signed(text, one), second],
        "by a later key": [signed(text, three, two), second],
        "by a stranger": [signed(stolen, THIEF), second],
        "the old key endorses a stranger": [signed(stolen, one, THIEF)],
        "over another root": [signed(false, one, two), second],
        "over fewer records": [signed(early, one, two), second],
        "over another root where no checkpoint is": [signed(unseen, one, two), second],
        "of another archive": [signed(foreign, one, two), second],
        "another text": [first.replace(b"\n3\n", b"\n4\n"), second],
        "another form of a number": [signed(text.replace(b"\n3\n", b"\n03\n"), one, two), second],
        "another generation": [signed(text.replace(b"\n2\n", b"\n02\n"), one, two), second],
        "no note": [first, second, b"and more\n"],
        "cut": [first, second[:-9]],
        "zeros": [first, bytes(len(second))],
    }


def test_every_tampering_with_the_endorsements_is_found(made: Changing, copied: ArchiveFolder) -> None:
    whole = copied.endorsements.read_bytes()
    for what, notes in tamperings(made).items():
        copied.endorsements.write_bytes(b"".join(notes))
        assert findings(copied), what
    copied.endorsements.unlink()
    assert findings(copied)
    for at in range(0, len(whole), 3):
        copied.endorsements.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert any(what.startswith("the signing keys: ") for what in findings(copied)), at
    copied.endorsements.write_bytes(whole)
    assert findings(copied) == []


def test_another_first_key_in_archive_json_is_found(made: Changing, copied: ArchiveFolder) -> None:
    """Although it is one of the archive's: endorsements begin with the one that it was made with."""
    path = copied.path / "archive.json"
    path.write_text(path.read_text().replace(copied.vkey, read_key_history(copied).vkeys[1]))
    assert findings(ArchiveFolder.open(copied.path))


def test_checkpoints_by_the_wrong_key_are_found(made: Changing, copied: ArchiveFolder) -> None:
    """By the old key after the change, by a new key that nobody endorsed; as the latest, and deep in the history."""
    history, latest = copied.checkpoint_history.read_bytes(), copied.checkpoint.read_bytes()
    notes = [each.note for each in read_entries(copied)]
    for at, signer in itertools.product((3, 5), (THIEF, *made.signers[:2])):
        size = list(read_entries(made.folder))[at].checkpoint.size
        if size == 8 and signer in made.signers[1:]:
            continue
        lie = forged(copied, signer, size)
        copied.checkpoint_history.write_bytes(b"".join(lie if n == at else note for n, note in enumerate(notes)))
        copied.checkpoint.write_bytes(lie if at == 5 else latest)
        assert findings(copied), (at, size)
    copied.checkpoint_history.write_bytes(history)
    copied.checkpoint.write_bytes(latest)
    assert findings(copied) == []


def test_a_log_shorter_than_an_endorsement_is_found(made: Changing, copied: ArchiveFolder) -> None:
    """Everything put back to before the second change but the endorsements."""
    notes = [each.note for each in read_entries(copied)][:2]
    copied.checkpoint_history.write_bytes(b"".join(notes))
    copied.checkpoint.write_bytes(notes[-1])
    shutil.rmtree(copied.tiles)
    cut_behind(copied, 5)
    assert any("endorsement" in what for what in findings(copied))


def test_a_writer_without_the_key_in_force_stores_nothing(made: Changing, copied: ArchiveFolder) -> None:
    opened = partial(LogWriter, copied, sign=made.signers[2].sign_statement, now_ms=made.now_ms)
    for signer in (*made.signers[:2], THIEF):
        with pytest.raises(HistoryError, match="signing key"):
            opened(signers=[signer.vkey(ORIGIN)])
    log = opened(signers=[signer.vkey(ORIGIN) for signer in (THIEF, made.signers[2])])
    log.append([entry(20)])
    for signer in (*made.signers[:2], THIEF):  # nor does a checkpoint by another key come into the archive
        with pytest.raises(IntegrityError):
            log.checkpoint(partial(signer.sign_note, ORIGIN))
    log.close()
    with pytest.raises(IntegrityError):
        endorse(copied, made.signers[0], THIEF, Checkpoint(ORIGIN, 20, bytes(32)))
    assert findings(copied) == []


@pytest.mark.parametrize("damage", [b"", b"nothing readable"], ids=["missing", "damaged"])
def test_a_repair_takes_endorsements_from_a_copy(made: Changing, copied: ArchiveFolder, damage: bytes) -> None:
    copied.endorsements.write_bytes(damage)
    report = repair(copied, made.folder)
    assert (report.endorsements, report.remaining) == (True, [])
    assert findings(copied) == []
    assert not repair(copied, made.folder).endorsements


def test_two_keys_in_one_place_are_evidence_and_not_repaired(made: Changing, copied: ArchiveFolder) -> None:
    first, _ = read_key_history(copied).notes
    copied.endorsements.write_bytes(first)
    endorse(copied, made.signers[1], THIEF, Checkpoint(ORIGIN, 8, root(8, Tiles(copied, 20).at)))
    before = copied.endorsements.read_bytes()
    with pytest.raises(IntegrityError, match="two different keys"):
        adopt(copied, made.folder, [latest_note(made.folder)])
    assert not repair(copied, made.folder).endorsements
    assert copied.endorsements.read_bytes() == before


def cut_behind(folder: ArchiveFolder, records: int) -> None:
    """Lose the end of the log."""
    reader = LogReader(folder)
    offset = next(place.offset for place, _ in reader.records(records))
    reader.close()
    folder.segment_files.path(1).write_bytes(folder.segment_files.path(1).read_bytes()[:offset])


def test_a_loss_is_endorsed_and_all_goes_on(made: Changing, copied: ArchiveFolder) -> None:
    """The log loses records behind which two keys were changed; the newest key says so and signs what is left."""
    cut_behind(copied, 6)
    accept_loss(copied, find_divergence(copied, None), made.signers[2], lambda _: None)
    keys = read_key_history(copied)
    assert [keys.span(generation) for generation in (1, 2, 3, 4)] == [(0, 3), (3, 6), (8, 6), (6, None)]
    assert keys.vkeys[2] == keys.vkeys[3]
    log = writer(copied, made.signers[2])
    log.append([entry(100 + n) for n in range(6)])  # the log is longer than the lost endorsement, and another one
    log.checkpoint(partial(made.signers[2].sign_note, ORIGIN))
    log.close()
    assert findings(copied) == []
    with pytest.raises(IntegrityError, match="not in force"):
        open_checkpoint(forged(made.folder, made.signers[1], 8), copied)
    with pytest.raises(HistoryError):  # whoever kept a checkpoint sees it
        Consistency.make(copied, made.folder.checkpoint.read_bytes(), copied.checkpoint.read_bytes())


def test_with_an_older_keyring_its_key_goes_on_and_the_lost_one_is_evidence(
    made: Changing, copied: ArchiveFolder
) -> None:
    before = copied.endorsements.read_bytes()
    history = find_divergence(copied, None)
    with pytest.raises(HistoryError, match="not one of this archive's"):
        accept_loss(copied, history, THIEF, lambda _: None)
    assert not [*copied.lost_and_found.iterdir(), *copied.path.glob("pending.json")]
    continue_from(copied, made.signers[1], Checkpoint(ORIGIN, 20, history.root))
    assert read_key_history(copied).current == made.signers[1].vkey(ORIGIN)
    (kept,) = copied.lost_and_found.glob("endorsements-*.notes")
    assert kept.read_bytes() == before
    copied.checkpoint.unlink()
    copied.checkpoint_history.unlink()
    publish(copied, made.signers[1].sign_note(ORIGIN, Checkpoint(ORIGIN, 20, history.root).serialize()))
    log = writer(copied, made.signers[1])
    log.checkpoint(partial(made.signers[1].sign_note, ORIGIN))
    log.close()
    assert findings(copied) == []
    whole = KeyHistory.of(made.folder.vkey, read_key_history(made.folder).notes)
    with pytest.raises(IntegrityError, match="not in force"):  # whoever kept the endorsements does not believe it
        whole.require_in_force(whole.signers(copied.checkpoint.read_bytes()), 20)


def test_records_and_keys_are_taken_from_a_newer_copy(made: Changing, tmp_path: Path) -> None:
    shutil.copytree(made.folder.path, tmp_path / "older")
    older = ArchiveFolder.open(tmp_path / "older")
    first, _ = read_key_history(older).notes
    notes = [each.note for each in read_entries(older)][:2]
    older.endorsements.write_bytes(first)
    older.checkpoint_history.write_bytes(b"".join(notes))
    older.checkpoint.write_bytes(notes[-1])
    shutil.rmtree(older.tiles)
    cut_behind(older, 5)
    assert findings(older) == []
    assert take_from(older, find_divergence(older, None), made.folder, made.signers[-1], lambda _: None) == [1]
    assert read_key_history(older) == read_key_history(made.folder)
    assert findings(older) == []


def test_a_failed_endorsement_changes_nothing(made: Changing, copied: ArchiveFolder) -> None:
    """At every system call of it: the endorsements are the old ones or the new ones."""
    before = copied.endorsements.read_bytes()
    at, after = Checkpoint(ORIGIN, 20, root(20, Tiles(copied, 20).at)), set()
    for step in range(20):
        faulty = FaultyCalls()
        faulty.arm(step, after_effect=bool(step % 2))
        try:
            endorse(copied, made.signers[2], SIGNERS[3], at, faulty)
        except IntegrityError:
            raise
        except Exception:  # noqa: BLE001  # injected
            assert len(read_key_history(copied).vkeys) in (3, 4)
        after.add(copied.endorsements.read_bytes())
        copied.endorsements.write_bytes(before)
        if len(faulty.made) <= step:
            break
    assert len(after) == 2


@pytest.mark.parametrize(
    "alter",
    [
        lambda t: t.replace(b"\n3\n", b"\n03\n"),
        lambda t: t.replace(b"\n3\n", b"\n-3\n"),
        lambda t: t.replace(b"\n3\n", b"\n\n3\n"),
        lambda t: t + b"more\n",
        lambda t: t[:-5] + b"\n",
        lambda t: t.replace(b"v1", b"v2"),
        lambda t: b"\xff" + t,
    ],
)
def test_an_endorsement_has_one_form(alter: Callable[[bytes], bytes]) -> None:
    text = Endorsement(ORIGIN, 2, SIGNERS[0].vkey(ORIGIN), SIGNERS[1].vkey(ORIGIN), 3, sha256(b"").digest()).serialize()
    assert Endorsement.parse(text).serialize() == text
    with pytest.raises(FormatError):
        Endorsement.parse(alter(text))
