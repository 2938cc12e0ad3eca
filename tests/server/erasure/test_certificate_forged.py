"""Altered certificates of erasure, and archives that lie or are older: none of them is believed."""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from coffer.archive.events.shreds import StudyShredded
from coffer.archive.format.record import Kind, parse_header
from coffer.archive.tree.certificate import EFFECTIVE, SCHEDULED, TITLES, Certificate, EpochOpener, RecordProof, runs
from coffer.archive.tree.proof_bundle import Inclusion
from coffer.keys.errors import IntegrityError
from coffer.keys.keyring import signing_key
from coffer.server.config.load import load_config
from coffer.server.engine.opening import open_reading, open_writer
from tests.archive.auditor import PROVER, prove
from tests.archive.events.samples import sample
from tests.server import certified
from tests.server.certified import FILE, finish, issue, shredded, vkey
from tests.server.filled import part10, run, told
from tests.server.three_studies import UIDS, configure, slices

archive = certified.archive


def sign(certificate: Certificate, title: str = "") -> bytes:
    """Whatever it says, signed by the archive's own key: as an archive that lies would."""
    body = certificate.serialize()
    if title:
        body = title.encode() + body[body.index(b"\n") :]
    with open_reading(load_config(Path("coffer.toml"))) as engine:
        return signing_key.current(engine.keyring).sign_note(engine.folder.origin, body)


@dataclass(frozen=True, slots=True)
class Made:
    """An archive with one effective certificate and the notice from before; the lies are signed by its own key."""

    certificate: Certificate
    notice: Certificate

    def refused(self, lie: Certificate) -> str:
        """Why it is not believed, without any archive."""
        note = sign(lie)
        with pytest.raises(IntegrityError) as refusal:
            Certificate.open(note, vkey())
        with pytest.raises((ValueError, KeyError)):  # nor by the auditor's program
            PROVER.check_certificate(note, vkey())
        return str(refusal.value)


@pytest.fixture
def made(archive: Path) -> Made:
    configure("[keys]", "shred_approvals = 2", "shred_hold_days = 0")
    run("keys", "rekey", UIDS[0], "--reason", "r", "--yes")
    request = str(told("shred", "request", UIDS[0], "--reason", "r", "--officer", "Meyer")["request"])
    run("shred", "approve", request, "--officer", "Schmidt")
    key = shredded()[-1]
    notice = issue(key)
    finish()
    return Made(issue(key), notice)


def leaves(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The place of every number and text in a JSON value."""
    if isinstance(value, dict | list):
        for name, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(part, (*path, name))
    else:
        yield path


def test_every_field_is_under_the_signature(made: Made) -> None:
    note = FILE.read_bytes()
    body, signature = note[: note.rindex(b"\n\n") + 1], note[note.rindex(b"\n\n") + 1 :]
    title, fields = body.split(b"\n", 1)
    places = list(leaves(json.loads(fields)))
    assert len(places) > 60
    for place in places:
        told_here = json.loads(fields)
        part = told_here
        for step in place[:-1]:
            part = part[step]
        old = part[place[-1]]
        part[place[-1]] = old + 1 if isinstance(old, int) else f"{old}0"
        altered = json.dumps(told_here, indent=1, ensure_ascii=False).encode()
        with pytest.raises(IntegrityError, match="does not verify"):
            Certificate.open(title + b"\n" + altered + b"\n" + signature, vkey())
        with pytest.raises((ValueError, KeyError)):
            PROVER.check_certificate(title + b"\n" + altered + b"\n" + signature, vkey())
    with pytest.raises(IntegrityError):
        Certificate.open(note.replace(TITLES[EFFECTIVE].encode(), TITLES[SCHEDULED].encode()), vkey())
    run("shred", "check", str(FILE))


def test_what_its_records_do_not_bear_out_is_refused_even_when_signed(made: Made) -> None:
    good, replace = made.certificate, msgspec.structs.replace
    last, first = good.keys
    epoch = good.epochs[0]
    opener = epoch.openers[0]

    def opened(*openers: EpochOpener) -> Certificate:
        return replace(good, epochs=(replace(epoch, openers=openers),))

    assert "proves other records" in made.refused(opened())
    assert "names nothing that opened it" in made.refused(opened(replace(opener, kind="shares")))
    assert "twice" in made.refused(opened(opener, opener))
    assert "opens an epoch" in made.refused(
        opened(opener, EpochOpener("pkcs11", "00" * 16, "another", None, None, None, "it is away"))
    )
    assert "epoch" in made.refused(replace(made.notice, type=EFFECTIVE))  # the notice again, as effective
    assert "effective" in made.refused(replace(good, type=SCHEDULED))
    for name in ("effective_ms", "scheduled_ms", "backups_until_ms"):
        assert made.refused(replace(good, **{name: getattr(good, name) + 1}))
    assert "before it was effective" in made.refused(replace(good, issued_ms=(good.effective_ms or 0) - 1))
    assert "another archive" in made.refused(replace(good, archive="coffer/other"))
    assert made.refused(replace(good, keys=()))
    assert "replaced by a key" in made.refused(replace(good, keys=(first, last)))
    assert "proves other records" in made.refused(replace(good, keys=(last,)))
    assert "proves other records" in made.refused(replace(good, proofs=good.proofs[1:]))
    assert "order" in made.refused(replace(good, proofs=good.proofs[::-1]))
    assert "every epoch" in made.refused(replace(good, keys=(replace(last, last_epoch=2), first)))
    assert "every epoch" in made.refused(replace(good, epochs=(epoch, replace(epoch, epoch=2))))
    for key in good.keys:
        for change in ({"key": "00" * 16}, {"why": "lost"}, {"successor": "00" * 16}, {"record": opener.record}):
            lie = replace(key, **change)
            assert made.refused(replace(good, keys=tuple(lie if each is key else each for each in good.keys)))
    lie = replace(last, gone_ms=last.gone_ms - 1)
    assert "another time" in made.refused(replace(good, keys=(lie, first)))
    twice = replace(first, why="shredded", successor="", gone_ms=good.scheduled_ms)
    assert "not a shred" in made.refused(replace(good, keys=(last, twice)))
    for change in ({"receipt_ms": 1 << 50}, {"effective_ms": None}, {"record": last.record}, {"record": None}):
        assert made.refused(opened(replace(opener, **change)))
    asked, approved = good.steps
    for steps in ((), (approved, asked), (asked,), (replace(asked, ms=1 << 50), approved), (approved,)):
        assert made.refused(replace(good, steps=steps))
    assert made.refused(replace(good, steps=(replace(asked, what="approved"), approved)))
    rekeyed = next(parse_header(bytes.fromhex(each.record)) for each in good.proofs if is_record(each, first.record))
    unnamed = tuple(each for each in good.proofs if not is_record(each, asked.record))
    other = replace(asked, record=first.record, ms=rekeyed.time_ms)
    assert "not an officer's step" in made.refused(replace(good, steps=(other, approved), proofs=unnamed))
    assert "another time" in made.refused(replace(good, scheduled_ms=1 << 50))
    proof = good.proofs[0]
    head = dataclasses.replace(parse_header(bytes.fromhex(proof.record)), body_len=1).serialize()
    for lie_of_it in (
        replace(proof, hashes=proof.hashes[1:]),
        replace(proof, hashes=("00" * 32, *proof.hashes[1:])),
        replace(proof, record=proof.record.upper()),
        replace(proof, record=head.hex()),
    ):
        assert made.refused(replace(good, proofs=(lie_of_it, *good.proofs[1:])))
    assert made.refused(replace(good, not_promised=good.not_promised[1:]))
    assert made.refused(replace(good, checkpoint=made.notice.checkpoint))
    note = sign(good, TITLES[SCHEDULED])
    with pytest.raises(IntegrityError, match="canonical form"):
        Certificate.open(note, vkey())
    with pytest.raises(ValueError, match="canonical form"):
        PROVER.check_certificate(note, vkey())
    body = good.serialize().replace(b"\n ", b"\n")
    with open_reading(load_config(Path("coffer.toml"))) as engine:
        signer = signing_key.current(engine.keyring)
        for other in (body, b"{}\n", b"x\n", good.serialize().replace(b'"type"', b'"typo"')):
            note = signer.sign_note(engine.folder.origin, other)
            with pytest.raises(IntegrityError):
                Certificate.open(note, vkey())
            with pytest.raises(ValueError):  # whatever the cause
                PROVER.check_certificate(note, vkey())


def is_record(proof: RecordProof, number: int) -> bool:
    """Whether a proof is that of this record."""
    return parse_header(bytes.fromhex(proof.record)).seq == number


def check_fails(note: bytes, *words: str, code: int = 3) -> None:
    """`coffer shred check` on the archive refuses a note, and says why."""
    FILE.write_bytes(note)
    shown = run("shred", "check", str(FILE), code=code).output
    assert not [word for word in words if word not in shown], shown


def test_a_study_that_lives_cannot_be_passed_off_as_erased(made: Made) -> None:
    """By an archive that signs whatever it likes: the log and the keyring contradict it."""
    good, replace = made.certificate, msgspec.structs.replace
    last, first = good.keys
    check_fails(sign(replace(good, keys=(replace(last, objects="0-9"), first))), "other objects")
    assert prove(FILE, vkey()).endswith(": ERASED\n")  # alone it holds together
    assert "other objects" in prove(FILE, vkey(), "--archive", "data", code=1)
    check_fails(sign(replace(good, keys=(last, replace(first, objects="")))), "other objects")
    lie = replace(first, backups_until_ms=first.backups_until_ms - 1)
    check_fails(sign(replace(good, keys=(last, lie))), "tombstone")
    (opener,) = good.epochs[0].openers
    shown = replace(opener, effective_ms=(opener.effective_ms or 0) - 1)
    effective = max(good.scheduled_ms, good.backups_until_ms, shown.effective_ms or 0)
    epochs = (replace(good.epochs[0], openers=(shown,)),)
    check_fails(sign(replace(good, epochs=epochs, effective_ms=effective)), "another receipt")
    epochs = (replace(good.epochs[0], openers=(replace(opener, id="00" * 16),)),)
    check_fails(sign(replace(good, epochs=epochs)), "does not know of keyfile", "1 more could open it")

    with open_writer(load_config(Path("coffer.toml"))) as engine:  # a record of a shred that never was
        (living,) = engine.index.key_ids_of(UIDS[2])
        engine.record_event(sample(StudyShredded), living)
    with open_reading(load_config(Path("coffer.toml"))) as engine:
        note = engine.folder.checkpoint.read_bytes()
        heads = {h.seq: h for _, h in engine.reader.records()}
        shred_seq = max(seq for seq, h in heads.items() if h.kind == Kind.SHRED_SCHEDULED)
        head = heads[shred_seq]
        objects = [s for s, h in heads.items() if h.kind == Kind.OBJECT and h.study_key_id == living]
        wanted = sorted((shred_seq, opener.record or 0))
        proofs = [Inclusion.make(engine.folder, heads[seq].serialize(), note) for seq in wanted]
    key = replace(last, key=living.hex(), record=shred_seq, gone_ms=head.time_ms, objects=runs(objects))
    lie_of_all = replace(
        good,
        keys=(key,),
        scheduled_ms=head.time_ms,
        effective_ms=max(head.time_ms, good.backups_until_ms, opener.effective_ms or 0),
        issued_ms=head.time_ms + 10,
        steps=(replace(good.steps[0], ms=head.time_ms, record=shred_seq),),
        proofs=tuple(
            replace(good.proofs[0], record=p.record.hex(), hashes=tuple(step.hex() for step in p.path)) for p in proofs
        ),
        checkpoint=note.decode(),
    )
    Certificate.open(sign(lie_of_all), vkey())  # alone it holds together
    check_fails(sign(lie_of_all), "no tombstone", "lives")
    shutil.copytree("data", "copy")
    shutil.rmtree("copy/keyring")
    assert run("--archive", "copy", "shred", "check", str(FILE)).exit_code == 0  # nothing in the log says otherwise yet
    Path("more.dcm").write_bytes(one_more(UIDS[2]))
    run("put", "more.dcm")
    check_fails(FILE.read_bytes(), "1 objects were stored under the key since")
    assert prove(FILE, vkey(), "--archive", "copy").endswith(": ERASED\n")
    assert "the key lives" in prove(FILE, vkey(), "--archive", "data", code=1)


def one_more(study_uid: str) -> bytes:
    ds = next(slices(study_uid, "P-99"))
    ds.SOPInstanceUID = study_uid + ".1.77"
    return part10(ds)


def test_another_archive_and_older_copies(made: Made, tmp_path: Path) -> None:
    note = FILE.read_bytes()
    run("--archive", "other", "init")
    assert "not signed by this key" in run("--archive", "other", "shred", "check", str(FILE), code=3).output
    other = json.loads(Path("other/archive.json").read_text())["vkey"]
    assert "no checkpoint of this archive" in prove(FILE, other, code=1)
    assert "another key than was given" in prove(FILE, vkey(), "--archive", "other", code=1)
    assert prove(FILE, vkey(), "--archive", "data").endswith(": ERASED\n")
    prove(FILE, "nonsense", code=1)
    shutil.copytree("data", "copy")
    shutil.rmtree("copy/index")
    copied = ("--archive", "copy", "shred", "check", str(FILE))
    Path("coffer.toml").rename("kept.toml")
    Path("data.key").rename("kept.key")
    assert run(*copied).exit_code == 0  # no key, no index, no configuration
    shutil.rmtree("copy/keyring")
    assert told(*copied)["checked_against"] == ["verifier key", "log"]
    Path("kept.toml").rename("coffer.toml")
    Path("kept.key").rename("data.key")
    segment = max(Path("copy/segments").iterdir())
    whole = segment.read_bytes()
    places = [at for at in range(len(whole)) if whole.startswith(b"CFRC", at)]
    for at, code, words in ((places[1] + 60, 13, "ends at 1 "), (places[-2], 13, "ends at")):  # a header altered
        segment.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert words in run(*copied, code=code).output
    head = parse_header(whole[places[1] : places[1] + 160])
    lie = dataclasses.replace(head, content_id=bytes(32)).serialize()  # altered, and its checksum with it
    segment.write_bytes(whole[: places[1]] + lie + whole[places[1] + 160 :])
    assert "are not those" in run(*copied, code=13).output
    assert "does not chain" in prove(FILE, vkey(), "--archive", "copy", code=1)
    for bad, code in ((note[:-9], 4), (b"", 4), (note.split(b"\n\n")[0], 4), (note + note, 3)):
        FILE.write_bytes(bad)
        run("shred", "check", str(FILE), code=code)
        prove(FILE, vkey(), code=1)
    run("shred", "check", "missing.note", code=12)
    FILE.write_bytes(note)
    run("shred", "check", str(FILE), "--vkey", "nonsense", code=4)


def test_an_older_keyring_is_told_from_the_one_that_was_certified(archive: Path) -> None:
    shutil.copytree("data", "before")
    run("shred", UIDS[0], "--reason", "r", "--yes")
    shutil.copytree("data", "scheduled")
    finish()
    issue(*shredded())
    for older, word in (("before", "no tombstone"), ("scheduled", "not destroyed")):
        shutil.rmtree("scratch", ignore_errors=True)
        shutil.copytree("data", "scratch")
        shutil.rmtree("scratch/keyring")
        shutil.copytree(f"{older}/keyring", "scratch/keyring")
        assert word in run("--archive", "scratch", "shred", "check", str(FILE), code=3).output
    path = Path("scratch/keyring/data.mdb")
    path.write_bytes(path.read_bytes()[:4096] + os.urandom(4096) + path.read_bytes()[8192:])
    assert "keyring" in run("--archive", "scratch", "shred", "check", str(FILE), code=3).output
