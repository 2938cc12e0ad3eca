"""Certificates of erasure by commands: what they prove, for what there is none, and that no altered one is believed."""

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest

from coffer.archive.format.record import Kind, parse_header
from coffer.archive.tree.certificate import (
    EFFECTIVE,
    SCHEDULED,
    TITLES,
    Certificate,
    EpochOpener,
    RecordProof,
    runs,
)
from coffer.archive.tree.proof_bundle import Inclusion
from coffer.keys.errors import CofferError, IntegrityError
from coffer.keys.keyring import signing_key
from coffer.server.config.load import load_config
from coffer.server.engine.opening import open_for_keys, open_reading, open_writer
from tests.archive.auditor import PROVER, prove
from tests.server.filled import part10, run, told
from tests.server.served import serving
from tests.server.three_studies import UIDS, configure, effective_at_once, events, found, put, slices

FILE = Path("study.note")


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An archive of three studies, two of one patient, verified with keys at the end."""
    monkeypatch.chdir(tmp_path)
    effective_at_once()
    run("init")
    put(*UIDS[:2])
    put(UIDS[2], patient_id="P-99")
    yield tmp_path / "data"
    run("verify", "--level", "decrypt")


def shredded() -> list[str]:
    """The ids of all keys that are gone, oldest first."""
    return [each["study_key"] for each in told("shred", "list")["shreds"]]  # type: ignore[attr-defined]


def finish() -> None:
    """Make every shred effective."""
    run("shred", "finish")
    run("shred", "finish", "--destroy")


def issue(*args: str) -> Certificate:
    """Issue one certificate into FILE."""
    FILE.write_text(run("shred", "certificate", *args).stdout, encoding="utf-8")
    made = Certificate.open(FILE.read_bytes(), vkey())
    told_again, _ = PROVER.check_certificate(FILE.read_bytes(), vkey())
    assert told_again == json.loads(json.dumps(msgspec.to_builtins(made)))
    return made


def records(text: str) -> int:
    """How many records a certificate names: two studies that come in together lie mixed."""
    return sum(int(last or first) - int(first) + 1 for first, _, last in (part.partition("-") for part in text.split()))


def vkey() -> str:
    return str(json.loads(Path("data/archive.json").read_text())["vkey"])


def sign(certificate: Certificate, title: str = "") -> bytes:
    """Whatever it says, signed by the archive's own key: as an archive that lies would."""
    body = certificate.serialize()
    if title:
        body = title.encode() + body[body.index(b"\n") :]
    with open_reading(load_config(Path("coffer.toml"))) as engine:
        return signing_key.current(engine.keyring).sign_note(engine.folder.origin, body)


def test_it_says_scheduled_until_it_is_effective(archive: Path) -> None:
    run("shred", UIDS[0], "--reason", "file 17", "--officer", "Meyer", "--yes")
    (key,) = shredded()
    notice = issue(key, "--officer", "Weber")
    assert (notice.type, notice.effective_ms, notice.officer) == (SCHEDULED, None, "Weber")
    assert FILE.read_text().startswith("NOT ERASED YET")
    assert "NOT ERASED YET" in prove(FILE, vkey(), "--archive", "data", code=3)
    assert run("shred", "check", str(FILE), code=1).output.startswith("NOT ERASED YET")
    assert told("shred", "check", str(FILE), code=1)["epochs_to_destroy"] == [1]
    run("shred", "finish")
    assert issue(key).type == SCHEDULED
    run("shred", "finish", "--destroy")
    run("shred", "check", str(FILE), code=1)  # what was written before says no more than before

    made = issue(key)
    assert (made.type, made.scheduled_ms, made.archive) == (EFFECTIVE, notice.scheduled_ms, vkey().partition("+")[0])
    assert [(each.what, each.officer) for each in made.steps] == [("asked", "Meyer")]
    assert [(each.key, each.why, records(each.objects)) for each in made.keys] == [(key, "shredded", 3)]
    ((opener,),) = (epoch.openers for epoch in made.epochs)
    assert (opener.kind, opener.receipt_ms) == ("keyfile", made.effective_ms)
    shown = told("shred", "check", str(FILE))
    assert (shown["state"], shown["epochs_destroyed"]) == ("effective", [1])
    assert shown["checked_against"] == ["verifier key", "log", "keyring"]
    assert told("shred", "check", str(FILE), "--vkey", vkey())["checked_against"] == ["verifier key"]
    issued = [facts for facts in events(Kind.STATE) if facts["what"] == "erasure certificate issued"]
    assert [facts["type"] for facts in issued] == [SCHEDULED, SCHEDULED, EFFECTIVE]
    assert issued[-1]["certificate"] == sha256(FILE.read_bytes()).hexdigest()
    put("1.2.3.9")  # the log grows: what was certified stays so
    run("shred", "check", str(FILE))


def test_it_tells_nobody_who_it_was_unless_asked_to(archive: Path) -> None:
    run("shred", UIDS[0], "--reason", "file 17", "--yes")
    run("shred", UIDS[1], "--reason", "file 18", "--yes")
    key, other = shredded()
    made = issue(key)
    assert not [word for word in (*UIDS, "P-4711", "file 17") if word in FILE.read_text()]
    with open_reading(load_config(Path("coffer.toml"))) as engine:
        assert (
            engine.index.study_token(UIDS[0]).hex() not in FILE.read_text()
        )  # it would find the study in an old index
    assert issue(key).study == made.study != issue(other).study
    named = issue(key, "--study-uid", UIDS[0], "--with-reason")
    assert (named.study_uid, named.reason, named.study) == (UIDS[0], "file 17", made.study)
    assert "another study" in run("shred", "certificate", key, "--study-uid", UIDS[1], code=12).output


def test_a_request_gives_one_for_each_study_and_names_all_officers(archive: Path) -> None:
    configure("[keys]", "shred_approvals = 3", "shred_hold_days = 0")
    request = str(told("shred", "request", "--patient", "P-4711", "--reason", "r", "--officer", "Meyer")["request"])
    run("shred", "approve", request, "--officer", "Schmidt")
    assert "waits" in run("shred", "certificate", request, code=12).output
    run("shred", "approve", request, "--officer", "Braun")
    finish()
    assert "2 studies" in run("shred", "certificate", request, code=12).output
    before = len(events(Kind.STATE))
    made = told("shred", "certificate", request, "-o", "out")["certificates"]
    assert len(events(Kind.STATE)) == before + 2
    assert isinstance(made, list)
    files = sorted(Path("out").iterdir())
    assert sorted(each["file"] for each in made) == [str(path) for path in files]
    assert {path.name.split("-")[0] for path in files} == {"erased"}
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    studies = set()
    for path in files:
        one = Certificate.open(path.read_bytes(), vkey())
        steps = [(each.what, each.officer) for each in one.steps]
        assert steps == [("asked", "Meyer"), ("approved", "Schmidt"), ("approved", "Braun")]
        assert [each.ms for each in one.steps] == sorted({each.ms for each in one.steps})
        assert one.steps[-1].ms == one.scheduled_ms
        studies.add(one.study)
        run("shred", "check", str(path))
    assert len(studies) == 2
    (shown,) = told("shred", "certificate", shredded()[0])["certificates"]  # type: ignore[misc]
    FILE.write_text(shown["note"], encoding="utf-8")
    run("shred", "check", str(FILE))


def test_there_is_none_for_what_lives(archive: Path) -> None:
    run("keys", "rekey", UIDS[0], "--reason", "r", "--yes")
    (old,) = shredded()
    assert "successor" in run("shred", "certificate", old, code=12).output
    finish()  # the old key's epoch is destroyed, and the study lives
    assert "successor" in run("shred", "certificate", old, code=12).output
    with open_reading(load_config(Path("coffer.toml"))) as engine:
        living = [key.hex() for key in engine.index.key_ids_of(UIDS[2])]
    assert "lives" in run("shred", "certificate", *living, code=12).output
    for unknown in ("00" * 16, "5f1c0a77", "-", " ", "1.2.3.1"):
        run("shred", "certificate", "--", unknown, code=5)
    run("shred", UIDS[2], "--reason", "r", "--yes")
    gone = shredded()[-1]
    assert issue(gone).type == SCHEDULED
    put(UIDS[2])
    assert "stored again" in run("shred", "certificate", gone, code=12).output


def test_a_study_that_was_rekeyed_before_is_erased_with_all_its_keys(archive: Path) -> None:
    for _ in range(2):
        run("keys", "rekey", UIDS[0], "--reason", "r", "--yes")
    run("shred", UIDS[0], "--reason", "r", "--yes")
    oldest, older, last = shredded()
    made = [issue(key) for key in (oldest, older, last)]
    assert {each.type for each in made} == {SCHEDULED}
    assert len({each.keys for each in made}) == 1
    finish()
    keys = issue(oldest).keys
    assert [(each.key, each.why, each.successor) for each in keys] == [
        (last, "shredded", ""),
        (older, "rekeyed", last),
        (oldest, "rekeyed", older),
    ]
    assert len({each.objects for each in keys}) == 3
    run("shred", "check", str(FILE))


def test_both_keys_of_a_rekey_that_a_shred_ended_are_in_one(archive: Path) -> None:
    with open_for_keys(load_config(Path("coffer.toml"))) as engine:
        from coffer.server.access.principal import Principal
        from coffer.server.keyops.rekey_order import one_study, order

        order(engine, one_study(engine, UIDS[0]), "r", Principal.here("Meyer"))
    run("shred", UIDS[0], "--reason", "r", "--yes")
    both = shredded()
    assert len(both) == 2
    finish()
    assert sorted(each.key for each in issue(both[0]).keys) == sorted(both)
    assert issue(both[1]).keys == issue(both[0]).keys
    run("shred", "check", str(FILE))


# Forgeries


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
    for change in ({"receipt_ms": 1}, {"effective_ms": None}, {"record": last.record}, {"record": None}):
        assert made.refused(opened(replace(opener, **change)))
    asked, approved = good.steps
    for steps in ((), (approved, asked), (asked,), (replace(asked, ms=1), approved), (approved,)):
        assert made.refused(replace(good, steps=steps))
    assert made.refused(replace(good, steps=(replace(asked, what="approved"), approved)))
    rekeyed = next(parse_header(bytes.fromhex(each.record)) for each in good.proofs if is_record(each, first.record))
    unnamed = tuple(each for each in good.proofs if not is_record(each, asked.record))
    other = replace(asked, record=first.record, ms=rekeyed.time_ms)
    assert "not an officer's step" in made.refused(replace(good, steps=(other, approved), proofs=unnamed))
    earlier = replace(first, gone_ms=rekeyed.time_ms - 1)
    assert "another time" in made.refused(replace(good, keys=(last, earlier)))
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
        engine.record_event(Kind.SHRED_SCHEDULED, {"what": "study shredded"}, living)
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


def test_it_is_issued_and_checked_beside_a_server(archive: Path) -> None:
    run("shred", UIDS[0], "--reason", "r", "--yes")
    (key,) = shredded()
    with serving():
        made = issue(key, "--officer", "Weber")
        run("shred", "check", str(FILE), code=1)
        finish()
        assert issue(key).is_effective
        run("shred", "check", str(FILE))
    assert made.officer == "Weber"
    assert [f["what"] for f in events(Kind.STATE)] == ["erasure certificate issued"] * 2


def test_a_log_that_lost_the_record_of_a_shred_gives_no_certificate(archive: Path) -> None:
    run("shred", UIDS[0], "--reason", "r", "--yes")
    (key,) = shredded()
    with open_for_keys(load_config(Path("coffer.toml"))) as engine:
        from coffer.server.access.principal import Principal
        from coffer.server.erasure.certificate import Certifier

        certifier = Certifier(engine, Principal.here("Meyer"))
        certifier._deeds.gone.clear()
        with pytest.raises(CofferError, match="no record of the end"):
            certifier.issue([key])
    assert events(Kind.STATE) == []
    assert found() == [UIDS[1], UIDS[2]]


@pytest.mark.parametrize(
    ("numbers", "text"), [([], ""), ([0], "0"), ([0, 1, 2], "0-2"), ([1, 2, 4, 6, 7], "1-2 4 6-7")]
)
def test_runs(numbers: list[int], text: str) -> None:
    assert runs(numbers) == text
