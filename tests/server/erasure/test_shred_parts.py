"""Shredding what has a key of its own: a patient's part of a shared study, objects of no study; what is shown first."""

import json
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from coffer.archive.events.officer import Officer
from coffer.archive.format.record import Kind
from coffer.server.access.principal import Principal
from coffer.server.config.load import load_config
from coffer.server.engine.opening import open_reading, open_writer
from coffer.server.erasure.shred import Authorization, Shredding
from coffer.server.main.demo import encoded, sample_study
from coffer.server.retention.selection import by_study
from coffer.server.services.api import StoreRequest
from tests.keyless import rows_of
from tests.server.filled import free_port, part10, run, told
from tests.services import services

STUDY = "1.2.3"
CONFIG = "archive = 'data'\n[storage]\nreserve_bytes = 0\n[dimse]\nport = {}\n[http]\nenabled = false\n"


def one(instance: str, patient: str, **more: str) -> Dataset:
    """An object of the shared study."""
    ds = sample_study()[0]
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = STUDY, f"{STUDY}.1", instance
    ds.PatientID, ds.PatientName, ds.PatientBirthDate = patient, f"Name^{patient}", "19610402"
    ds.StudyDate, ds.StudyDescription = "20240131", "Abdomen"
    for name, value in more.items():
        setattr(ds, name, value)
    return ds


def put(*datasets: Dataset) -> None:
    """Store them, one after the other."""
    for number, ds in enumerate(datasets):
        Path(f"{number}.dcm").write_bytes(part10(ds))
        run("put", f"{number}.dcm")
        Path(f"{number}.dcm").unlink()


def alone(instance: str, patient: str) -> Dataset:
    """An object that names no study."""
    ds = one(instance, patient)
    del ds.StudyInstanceUID
    return ds


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty archive."""
    monkeypatch.chdir(tmp_path)
    Path("coffer.toml").write_text(CONFIG.format(free_port()))
    run("init")
    return tmp_path / "data"


def got(instance: str) -> bool:
    """Whether an object can be got."""
    with open_reading(load_config(Path("coffer.toml"))) as engine:
        found = list(engine.index.locate({0x00080018: (instance,)}))
        for each in found:
            with engine.open_body(each.study_key_id, each.version) as body:
                assert body.length == sum(map(len, body.chunks()))
        return bool(found)


def test_one_patient_s_part_of_a_shared_study_goes_and_the_other_stays(archive: Path) -> None:
    put(one("1.9.1", "A"), one("1.9.2", "A"), one("1.9.3", "B"))
    refused = run("shred", STUDY, "--reason", "r", "--yes", code=12).output
    assert "objects of 2 patients" in refused
    assert "Name^A, born 19610402, Patient ID A" in refused
    assert "Name^B" in refused
    both = run("shred", STUDY, "--reason", "r", "--yes", "--json", code=12).stdout
    assert [each["patient_id"] for each in json.loads(both.splitlines()[0])["patients"]] == ["A", "B"]
    run("shred", STUDY, "--patient-id", "C", "--reason", "r", "--yes", code=5)
    done = told("shred", STUDY, "--patient-id", "A", "--reason", "r", "--yes")
    assert (done["studies"], done["instances"], len(done["study_keys"])) == (1, 2, 1)  # type: ignore[arg-type]
    for is_again in (False, True):
        if is_again:
            run("index", "rebuild")
        assert [got(f"1.9.{number}") for number in (1, 2, 3)] == [False, False, True]
        rows = json.loads(run("find", "--json").stdout)
        assert [(row["PatientID"], str(row["NumberOfStudyRelatedInstances"])) for row in rows] == [("B", "1")]
    assert run("shred", STUDY, "--reason", "r", "--yes").output.startswith("1 study with 1 instance:")
    run("shred", STUDY, "--reason", "r", "--yes", code=5)
    run("verify", "--level", "decrypt")


def test_all_patients_and_a_patient_in_many_studies(archive: Path) -> None:
    put(one("1.9.1", "A"), one("1.9.2", "B"), one("1.9.3", "A", StudyInstanceUID="1.2.4", SeriesInstanceUID="1.2.4.1"))
    run("shred", STUDY, "--all-patients", "--patient-id", "A", "--reason", "r", "--yes", code=2)
    shown = told("shred", "--patient", "A", "--dry-run")
    assert (shown["studies"], shown["instances"]) == (2, 2)
    assert [each["patient_id"] for each in shown["stays"]] == ["B"]  # type: ignore[attr-defined]
    done = told("shred", "--patient", "A", "--reason", "r", "--yes")
    assert (done["studies"], done["instances"]) == (2, 2)
    assert [got(f"1.9.{number}") for number in (1, 2, 3)] == [False, True, False]
    put(one("1.9.1", "A"))
    done = told("shred", STUDY, "--all-patients", "--reason", "r", "--yes")
    assert (done["studies"], done["instances"], len(done["study_keys"])) == (1, 2, 2)  # type: ignore[arg-type]


def test_two_issuers_of_one_id_are_told_apart(archive: Path) -> None:
    put(one("1.9.1", "A", IssuerOfPatientID="X"), one("1.9.2", "A", IssuerOfPatientID="Y"), one("1.9.3", "A"))
    assert "objects of 3 patients" in run("shred", STUDY, "--patient-id", "A", "--reason", "r", "--yes", code=12).output
    assert "3 issuers" in run("shred", "--patient", "A", "--reason", "r", "--yes", code=12).output
    run("shred", STUDY, "--issuer", "X", "--reason", "r", "--yes", code=2)
    run("shred", STUDY, "--patient-id", "A", "--issuer", "", "--reason", "r", "--yes")
    assert [got(f"1.9.{number}") for number in (1, 2, 3)] == [True, True, False]
    run("shred", "--patient", "A", "--issuer", " X ", "--reason", "r", "--yes")
    assert [got(f"1.9.{number}") for number in (1, 2, 3)] == [False, True, False]


def test_patients_who_were_one_by_other_rules_go_together_or_not_at_all(archive: Path) -> None:
    plain = Path("coffer.toml").read_text()
    Path("coffer.toml").write_text(plain + "[patients]\ndefault_issuer = 'X'\n")
    put(one("1.9.1", "A"), one("1.9.2", "A", IssuerOfPatientID="X"), one("1.9.3", "A", IssuerOfPatientID="Y"))
    Path("coffer.toml").write_text(plain)
    run("index", "rebuild")
    for words in ((STUDY, "--patient-id", "A", "--issuer", "X"), ("--patient", "A", "--issuer", "")):
        assert "share a key" in run("shred", *words, "--reason", "r", "--yes", code=12).output
    run("shred", STUDY, "--patient-id", "A", "--issuer", "Y", "--reason", "r", "--yes")
    assert [got(f"1.9.{number}") for number in (1, 2, 3)] == [True, True, False]
    run("shred", STUDY, "--all-patients", "--reason", "r", "--yes")
    assert [got(f"1.9.{number}") for number in (1, 2, 3)] == [False, False, False]


def test_an_index_made_anew_by_the_process_that_shredded_shows_what_is_left(archive: Path) -> None:
    put(one("1.9.1", "A"), one("1.9.2", "B"))
    with open_writer(load_config(Path("coffer.toml"))) as engine:
        Shredding(engine).shred(by_study(engine, STUDY, "A"), Authorization("r", (Officer("Meyer", "a"),)))
        engine.reconcile()
        engine.rebuild_index(lambda _done, _total: None)  # the part of B gets the number that the part of A had
        assert [part.patient_id for part in engine.index.parts(STUDY)] == ["B"]
        assert len(engine.index.versions("1.9.2")) == 1


def test_an_absent_issuer_is_the_only_one_that_the_study_names(archive: Path) -> None:
    put(one("1.9.1", "A", IssuerOfPatientID="X"), one("1.9.2", "A"))
    shown = told("shred", STUDY, "--dry-run")
    assert [(each["patient_id"], each["issuer"]) for each in shown["erases"]] == [("A", "X")] * 2  # type: ignore[attr-defined]
    assert told("shred", "--patient", "A", "--reason", "r", "--yes")["instances"] == 2


def test_a_corrected_patient_id_leaves_an_older_version_that_is_shown_and_can_go(archive: Path) -> None:
    put(one("1.9.1", "A"), one("1.9.1", "B"), one("1.9.2", "B"))
    shown = told("shred", STUDY, "--patient-id", "B", "--dry-run")
    assert [each["instances"] for each in shown["erases"]] == [2]  # type: ignore[attr-defined]
    (stays,) = shown["stays"]  # type: ignore[misc]
    assert (stays["patient_id"], stays["instances"], stays["older_versions"], stays["served_again"]) == ("A", 0, 1, 1)
    assert (
        "1 older version of what is erased is found and served again"
        in run("shred", STUDY, "--patient-id", "B", "--dry-run").output
    )
    assert told("shred", "--patient", "A", "--dry-run")["older_versions"] == 1
    run("shred", STUDY, "--patient-id", "B", "--reason", "r", "--yes")
    (row,) = json.loads(run("find", "--json").stdout)
    assert row["PatientID"] == "A"
    run("shred", "--patient", "A", "--reason", "r", "--yes")
    assert not got("1.9.1")


def broken(instance: str) -> None:
    """Store an object whose header cannot be read."""
    with open_writer(load_config(Path("coffer.toml"))) as engine:
        request = StoreRequest("1.2.840.10008.5.1.4.1.1.7", instance, "1.2.840.10008.1.2.1", Principal.peer("PEER"))
        reception = services(engine).ingest.begin(request)
        reception.write(b"\x08\x00\x16\x00UI\xff\xffno header")
        assert reception.finish().error is None


def test_objects_of_no_study_go_one_by_one(archive: Path) -> None:
    put(alone("1.9.1", "A"), alone("1.9.2", "A"), alone("1.9.3", "B"), one("1.9.4", "A"))
    broken("1.9.5")
    broken("1.9.6")
    assert "belongs to a study" in run("shred", "--instance", "1.9.4", "--reason", "r", "--yes", code=12).output
    run("shred", "--instance", "1.9.7", "--reason", "r", "--yes", code=5)
    run("shred", "--instance", " ", "--reason", "r", "--yes", code=12)
    run("shred", STUDY, "--instance", "1.9.1", "--reason", "r", "--yes", code=2)
    (shown,) = told("shred", "--instance", "1.9.5", "--dry-run")["erases"]  # type: ignore[misc]
    assert (shown["patient_id"], shown["study"], shown["instance"], shown["instances"]) == ("", "", "1.9.5", 1)
    for instance in ("1.9.1", "1.9.5"):
        assert told("shred", "--instance", instance, "--reason", "r", "--yes")["instances"] == 1
    assert [got(f"1.9.{number}") for number in range(1, 7)] == [False, True, True, True, False, True]
    run("index", "rebuild")
    assert [got(f"1.9.{number}") for number in range(1, 7)] == [False, True, True, True, False, True]
    assert told("shred", "--patient", "A", "--reason", "r", "--yes")["studies"] == 2  # the study, and the lone object
    assert [got(f"1.9.{number}") for number in range(1, 7)] == [False, False, True, False, False, True]


def test_a_lone_object_of_two_patients_is_one_of_each(archive: Path) -> None:
    put(alone("1.9.1", "A"), alone("1.9.1", "B"))
    assert "objects of 2 patients" in run("shred", "--instance", "1.9.1", "--reason", "r", "--yes", code=12).output
    run("shred", "--instance", "1.9.1", "--patient-id", "B", "--reason", "r", "--yes")
    assert got("1.9.1")
    run("hold", "add", "--instance", "1.9.1", "--reason", "court case")
    assert "court case" in run("shred", "--instance", "1.9.1", "--reason", "r", "--yes", code=10).output


def said_by(keyring: Path) -> dict[bytes, bytes]:
    """Its rows, without those that say which of its copies was opened to be written."""
    return {key: value for key, value in rows_of(keyring).items() if key[:1] != b"S"}


def test_a_dry_run_shows_everything_and_changes_nothing(archive: Path) -> None:
    put(one("1.9.1", "A"), one("1.9.1", "A", ImageComments="again"), one("1.9.2", "A"))
    run("hold", "add", "--patient", "A", "--reason", "court case")
    before = said_by(archive / "keyring"), told("status")["records"]
    shown = told("shred", STUDY, "--dry-run")
    (erased,) = shown["erases"]  # type: ignore[misc]
    assert erased == {
        "patient_name": "Name^A",
        "birth_date": "19610402",
        "patient_id": "A",
        "issuer": "",
        "study": STUDY,
        "instance": "",
        "study_date": "20240131",
        "description": "Abdomen",
        "instances": 2,
        "older_versions": 1,
    }
    assert (shown["dry_run"], shown["instances"], shown["older_versions"], shown["stays"]) == (True, 2, 1, [])
    assert "court case" in shown["refused"]["cause"]  # type: ignore[index]
    told_people = run("shred", STUDY, "--dry-run").output
    assert "Name^A, born 19610402, Patient ID A" in told_people
    assert "of 20240131, Abdomen: 2 instances, 1 older version" in told_people
    assert "would be refused: hold" in told_people
    told("shred", "request", STUDY, "--dry-run")
    assert told("shred", "list") == {"requests": [], "shreds": []}
    assert (said_by(archive / "keyring"), told("status")["records"]) == before
    run("shred", STUDY, "--dry-run", code=0)
    run("shred", STUDY, code=2)  # a deed needs a reason


def asked(*words: str, answer: bytes) -> tuple[int, str]:
    """A command at a terminal, where somebody answers."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", "from coffer.server.cli import main; main()", *words]
    child = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "COLUMNS": "200"})
    os.close(theirs)
    os.write(ours, answer)
    seen = bytearray()
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        seen += piece
    os.close(ours)
    return child.wait(), seen.decode()


def test_it_shows_whom_before_it_asks(archive: Path) -> None:
    put(one("1.9.1", "A", PatientName="Name^\x1b[31mA"), one("1.9.2", "B"))
    code, seen = asked("shred", STUDY, "--patient-id", "A", "--reason", "r", answer=b"n\n")
    assert code == 1
    assert seen.index("to be erased for good") < seen.index("Name^") < seen.index("what stays") < seen.index("Destroy")
    assert "\x1b[31m" not in seen
    assert got("1.9.1")
    code, seen = asked("shred", STUDY, "--patient-id", "A", "--reason", "r", answer=b"y\n")
    assert code == 0
    assert not got("1.9.1")
    assert got("1.9.2")


def test_names_are_shown_and_kept_nowhere(archive: Path) -> None:
    put(one("1.9.1", "A-4711"))
    run("shred", STUDY, "--dry-run")
    refused = run("hold", "add", "--patient", "A-4711", "--issuer", "HOSP-ISSUER", "--reason", "court case")
    assert "A-4711" not in refused.output
    assert "A-4711" not in run("shred", STUDY, "--reason", "r", "--yes", code=10).output
    run("hold", "remove", json.loads(run("hold", "list", "--json").stdout)[0]["hold"])
    assert "A-4711" not in run("shred", STUDY, "--reason", "r", "--yes").output
    with open_reading(load_config(Path("coffer.toml"))) as engine:
        told_ = [str(each.event) for each in engine.events(frozenset({Kind.STATE, Kind.SHRED_SCHEDULED}))]
    assert len(told_) == 3
    assert not [each for each in told_ if "A-4711" in each or "HOSP-ISSUER" in each or STUDY in each]
    on_disk = b"".join(path.read_bytes() for path in archive.rglob("*") if path.is_file())
    assert b"A-4711" not in on_disk
    assert b"HOSP-ISSUER" not in on_disk


def test_a_hold_by_issuer_counts_for_that_one_and_where_none_is_named(archive: Path) -> None:
    put(
        one("1.9.1", "A", IssuerOfPatientID="X"),
        one("1.9.2", "A", IssuerOfPatientID="Y", StudyInstanceUID="1.2.4"),
        one("1.9.3", "A", StudyInstanceUID="1.2.5"),
    )
    assert told("hold", "add", "--patient", " A ", "--issuer", "X", "--reason", "court case")["keeps_now"] == 2
    run("hold", "add", STUDY, "--issuer", "X", "--reason", "r", code=12)
    shred = ("--reason", "r", "--yes")
    run("shred", STUDY, *shred, code=10)
    run("shred", "1.2.5", *shred, code=10)
    run("shred", "1.2.4", *shred)


def test_versions_of_an_object_are_listed_and_got(archive: Path) -> None:
    sent = [one("1.9.1", "A"), one("1.9.1", "A", ImageComments="again"), one("1.9.1", "B")]
    put(*sent)
    listed = json.loads(run("versions", "1.9.1", "--json").stdout)
    assert [(each["version"], each["served"], each["patient_id"]) for each in listed] == [
        (1, False, "A"),
        (2, False, "A"),
        (3, True, "B"),
    ]
    assert [each["bytes"] for each in listed] == [len(encoded(ds)) for ds in sent]
    assert {each["transfer_syntax"] for each in listed} == {"1.2.840.10008.1.2.1"}
    assert {(each["study"], each["series"]) for each in listed} == {(STUDY, f"{STUDY}.1")}
    lines = run("versions", "1.9.1").stdout.splitlines()
    assert lines[0].split("\t") == [
        "version", "received", "from", "transfer_syntax", "bytes", "served", "patient_id",
    ]  # fmt: skip
    assert lines[3].split("\t")[5:] == ["served", "B"]
    for number, ds in enumerate(sent, 1):
        (path,) = told("get", "--instance", "1.9.1", "--version", str(number), "--out", "out")["files"]  # type: ignore[misc]
        assert Path(path).read_bytes().endswith(encoded(ds))
        assert Path(path).name == f"1.9.1.version-{number}.dcm"
    assert "this object has 3" in run("get", "--instance", "1.9.1", "--version", "4", code=5).output
    run("get", "--instance", "1.9.1", "--version", "0", code=2)
    run("get", "--study", STUDY, "--version", "1", code=2)
    run("get", "--instance", "1.9.1", "--instance", "1.9.2", "--version", "1", code=2)
    run("get", "--instance", "1.9.9", "--version", "1", code=5)
    run("versions", "1.9.9", code=5)
    shutil.rmtree("out")


def test_a_uid_in_two_studies_has_versions_in_each(archive: Path) -> None:
    other = one("1.9.1", "B", StudyInstanceUID="1.2.4", SeriesInstanceUID="1.2.4.1")
    put(one("1.9.1", "A"), one("1.9.1", "A", ImageComments="again"), other)
    listed = json.loads(run("versions", "1.9.1", "--json").stdout)
    assert [(each["study"], each["version"], each["served"]) for each in listed] == [
        (STUDY, 1, False),
        (STUDY, 2, True),
        ("1.2.4", 1, True),
    ]
    assert "in 2 studies or series" in run("get", "--instance", "1.9.1", "--version", "1", code=12).output
    (path,) = told("get", "--instance", "1.9.1", "--version", "1", "--study", "1.2.4", "--out", "out")["files"]  # type: ignore[misc]
    assert Path(path).read_bytes().endswith(encoded(other))
    told("get", "--instance", "1.9.1", "--version", "2", "--series", f"{STUDY}.1", "--out", "out")
    run("get", "--instance", "1.9.1", "--version", "2", "--study", "1.2.4", code=5)
