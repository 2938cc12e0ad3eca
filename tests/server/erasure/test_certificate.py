"""Certificates of erasure by commands: what they prove, for what there is none, and issuing them beside a server."""

from hashlib import sha256
from pathlib import Path

import pytest

from coffer.archive.events.shreds import CertificateIssued
from coffer.archive.format.record import Kind
from coffer.archive.tree.certificate import EFFECTIVE, SCHEDULED, Certificate, runs
from coffer.keys.errors import CofferError
from coffer.server.config.load import load_config
from coffer.server.engine.opening import open_for_keys, open_reading
from tests.archive.auditor import prove
from tests.server import certified
from tests.server.certified import FILE, finish, issue, shredded, vkey
from tests.server.filled import run, told
from tests.server.served import serving
from tests.server.three_studies import UIDS, codes, configure, events, found, put

archive = certified.archive


def records(text: str) -> int:
    """How many records a certificate names: two studies that come in together lie mixed."""
    return sum(int(last or first) - int(first) + 1 for first, _, last in (part.partition("-") for part in text.split()))


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
    issued = events(CertificateIssued)
    assert [each.is_effective for each in issued] == [False, False, True]
    assert issued[-1].certificate == sha256(FILE.read_bytes()).hexdigest()
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
    before = len(codes(Kind.STATE))
    made = told("shred", "certificate", request, "-o", "out")["certificates"]
    assert len(codes(Kind.STATE)) == before + 2
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
    assert codes(Kind.STATE) == ["certificate.issued"] * 2


def test_a_log_that_lost_the_record_of_a_shred_gives_no_certificate(archive: Path) -> None:
    run("shred", UIDS[0], "--reason", "r", "--yes")
    (key,) = shredded()
    with open_for_keys(load_config(Path("coffer.toml"))) as engine:
        from coffer.server.access.principal import Principal
        from coffer.server.erasure.certificate import Certifier

        certifier = Certifier(engine, Principal.here("Meyer"))
        certifier._history.shreds.clear()
        with pytest.raises(CofferError, match="no record of the end"):
            certifier.issue([key])
    assert codes(Kind.STATE) == []
    assert found() == [UIDS[1], UIDS[2]]


@pytest.mark.parametrize(
    ("numbers", "text"), [([], ""), ([0], "0"), ([0, 1, 2], "0-2"), ([1, 2, 4, 6, 7], "1-2 4 6-7")]
)
def test_runs(numbers: list[int], text: str) -> None:
    assert runs(numbers) == text
