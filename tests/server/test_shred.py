"""Shredding by commands: who may, what is refused and why, and that a stop anywhere leaves nothing half-gone."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from archive.record import Kind
from keys import rows, shred
from server.config_load import load_config
from server.demo import sample_study
from server.engine import Engine
from tests.server.filled import free_port, part10, run, told

ROOT = Path(__file__).resolve().parents[2]
BASE = "archive = 'data'\n[storage]\nreserve_bytes = 0\n[dimse]\nport = {}\n[http]\nenabled = false\n"
UIDS = ("1.2.3.1", "1.2.3.2", "1.2.3.3")


def slices(study_uid: str, patient_id: str) -> Iterator[Dataset]:
    """The sample study's slices under other names."""
    for number, ds in enumerate(sample_study()):
        ds.StudyInstanceUID, ds.SeriesInstanceUID = study_uid, study_uid + ".1"
        ds.SOPInstanceUID = f"{study_uid}.1.{number + 1}"
        ds.PatientID, ds.StudyDate = patient_id, "20240131"
        yield ds


def put(*studies: str, patient_id: str = "P-4711") -> None:
    """Store studies by the command."""
    folder = Path("files")
    folder.mkdir(exist_ok=True)
    for study_uid in studies:
        for ds in slices(study_uid, patient_id):
            (folder / f"{ds.SOPInstanceUID}.dcm").write_bytes(part10(ds))
    run("put", *map(str, sorted(folder.iterdir())))
    shutil.rmtree(folder)


def configure(*tables: str) -> None:
    """Write the config file."""
    Path("coffer.toml").write_text(BASE.format(free_port()) + "\n".join(tables))


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An archive of three studies, two of one patient, verified with keys at the end."""
    monkeypatch.chdir(tmp_path)
    configure()
    run("init")
    put(*UIDS[:2])
    put(UIDS[2], patient_id="P-99")
    yield tmp_path / "data"
    run("verify", "--level", "decrypt")


def found() -> list[str]:
    """The studies that can be found."""
    rows = json.loads(run("find", "--json").stdout)
    return sorted(str(row["StudyInstanceUID"]) for row in rows)


def events(*kinds: Kind) -> list[dict[str, object]]:
    """The facts of the log's events of these kinds."""
    with Engine.open(load_config(Path("coffer.toml"))) as engine:
        return [dict(event.facts) for _, event in engine.events(frozenset(kinds))]


def test_a_shred_is_recorded_and_the_study_is_gone_everywhere(archive: Path) -> None:
    shown = told("shred", UIDS[0], "--reason", "request 17", "--officer", "Meyer", "--yes")
    assert (shown["studies"], shown["instances"], shown["state"], shown["recorded"]) == (1, 3, "scheduled", True)
    assert found() == [UIDS[1], UIDS[2]]
    run("get", "--study", UIDS[0], code=5)
    run("get", "--instance", UIDS[0] + ".1.1", code=5)
    run("index", "rebuild")
    assert found() == [UIDS[1], UIDS[2]]
    run("get", "--study", UIDS[0], code=5)
    (facts,) = events(Kind.SHRED_SCHEDULED)
    assert (facts["reason"], facts["instances"]) == ("request 17", 3)
    assert [each["officer"] for each in facts["officers"]] == ["Meyer"]  # type: ignore[attr-defined]
    assert not {UIDS[0], "P-4711"} & {str(value) for value in facts.values()}
    verified = told("verify", "--level", "decrypt")
    assert (verified["findings"], verified["shredded"]) == ([], 4)
    listed = told("shred", "list")
    assert listed["requests"] == []
    assert [each["state"] for each in listed["shreds"]] == ["scheduled"]  # type: ignore[attr-defined]
    run("shred", UIDS[0], "--reason", "again", "--yes", code=5)


def test_all_studies_of_a_patient(archive: Path) -> None:
    assert told("shred", "--patient", "P-4711", "--reason", "r", "--yes")["studies"] == 2
    assert found() == [UIDS[2]]
    put(UIDS[0])
    assert found() == [UIDS[0], UIDS[2]]
    assert len(told("get", "--study", UIDS[0], "--out", "out")["files"]) == 3  # type: ignore[arg-type]
    assert told("shred", "--patient", "P-4711", "--reason", "r", "--yes")["studies"] == 1
    assert found() == [UIDS[2]]


def test_a_patient_id_of_two_issuers_is_not_one_patient(archive: Path) -> None:
    ds = next(slices("1.2.3.9", "P-99"))
    ds.IssuerOfPatientID = "other"
    Path("other.dcm").write_bytes(part10(ds))
    run("put", "other.dcm")
    assert "--issuer" in run("shred", "--patient", "P-99", "--reason", "r", "--yes", code=12).output
    assert told("shred", "--patient", "P-99", "--issuer", "other", "--reason", "r", "--yes")["studies"] == 1
    assert found() == list(UIDS)


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("1.2.3.1", "--reason", "r"), 2),  # nobody to ask
        (("1.2.3.1", "--reason", " ", "--yes"), 12),
        (("--reason", "r", "--yes"), 2),
        (("1.2.3.1", "--patient", "P-4711", "--reason", "r", "--yes"), 2),
        (("1.2.3.1", "--yes"), 2),
        (("1.2.3", "--reason", "r", "--yes"), 5),
        (("--patient", "P-471*", "--reason", "r", "--yes"), 5),
        (("", "--reason", "r", "--yes"), 12),
        (("1.2.3.1", "--reason", "r", "--yes", "--officer", "\t"), 12),
        (("approve", "5f1c0a77"), 5),
        (("approve", "no id"), 5),
        (("cancel", "5f1c0a77"), 5),
    ],
)
def test_what_is_wrong_is_refused_and_changes_nothing(archive: Path, args: tuple[str, ...], code: int) -> None:
    run("shred", *args, code=code)
    assert found() == list(UIDS)


def test_a_hold_refuses_and_says_who_and_why(archive: Path) -> None:
    study = str(told("hold", "add", UIDS[0], "--reason", "court case", "--officer", "Meyer")["hold"])
    patient = told("hold", "add", "--patient", "P-99", "--reason", "trial", "--until", "2999-12-31")["hold"]
    refused = run("shred", "--patient", "P-4711", "--reason", "r", "--yes", code=10).output
    assert "Meyer" in refused
    assert "court case" in refused
    assert "trial" in run("shred", UIDS[2], "--reason", "r", "--yes", code=10).output
    run("shred", UIDS[1], "--reason", "r", "--yes")
    assert found() == [UIDS[0], UIDS[2]]
    holds = json.loads(run("hold", "list", "--json").stdout)
    assert [(each["study"], each["patient"], each["until"]) for each in holds] == [
        (UIDS[0], "", ""),
        ("", "P-99", "2999-12-31"),
    ]
    run("hold", "remove", study, "--officer", "Schmidt")
    run("hold", "remove", study, code=5)
    run("shred", UIDS[0], "--reason", "r", "--yes")
    assert [f["what"] for f in events(Kind.STATE)] == ["hold added", "hold added", "hold removed"]
    assert not any({UIDS[0], "P-99"} & {str(value) for value in facts.values()} for facts in events(Kind.STATE))
    run("hold", "add", "--reason", "r", code=12)
    run("hold", "add", UIDS[2], "--reason", "r", "--until", "2001-01-01", code=2)
    assert patient


def test_a_hold_that_is_over_holds_nothing(archive: Path) -> None:
    import datetime as dt

    from server.holds import Hold, Subject
    from server.officers import Officer

    hold = Hold("1.2", "", "r", "2026-03-31", Officer("a", "b"), 0)
    subject = Subject("1.2", "P", "20240131", 0)
    assert hold.applies(subject, dt.date(2026, 3, 31))
    assert not hold.applies(subject, dt.date(2026, 4, 1))


def test_the_retention_refuses_and_names_the_day(archive: Path) -> None:
    configure("[retention]", "years = 100")
    assert "2124-01-" in run("shred", UIDS[0], "--reason", "r", "--yes", code=10).output
    assert "retention" in run("shred", "request", UIDS[0], "--reason", "r", code=10).output
    configure("[retention]", "years = 0.5")
    run("shred", UIDS[0], "--reason", "r", "--yes")
    undated = next(slices("1.2.3.8", "P-8"))
    undated.StudyDate = ""
    Path("undated.dcm").write_bytes(part10(undated))
    run("put", "undated.dcm")
    run("shred", "1.2.3.8", "--reason", "r", "--yes", code=10)  # counts from its receipt


def test_two_officers_must_agree(archive: Path) -> None:
    configure("[keys]", "shred_approvals = 3")
    assert "coffer shred request" in run("shred", UIDS[0], "--reason", "r", "--yes", code=10).output
    asked = told("shred", "request", "--patient", "P-4711", "--reason", "r", "--officer", "Meyer")
    request = str(asked["request"])
    assert asked["approvals_missing"] == 2
    put("1.2.3.7")  # comes in later: not covered
    assert "another officer" in run("shred", "approve", request, "--officer", " MEYER ", code=10).output
    assert told("shred", "approve", request, "--officer", "Schmidt")["state"] == "requested"
    run("shred", "approve", request, "--officer", "Schmidt", code=10)
    assert found() == [*UIDS, "1.2.3.7"]
    hold = str(told("hold", "add", UIDS[1], "--reason", "since yesterday")["hold"])
    assert "since yesterday" in run("shred", "approve", request, "--officer", "Braun", code=10).output
    run("hold", "remove", hold)
    assert told("shred", "approve", request, "--officer", "Braun")["studies"] == 2
    assert found() == [UIDS[2], "1.2.3.7"]
    run("shred", "approve", request, "--officer", "Weber", code=5)
    officers = [[each["officer"] for each in f["officers"]] for f in events(Kind.SHRED_SCHEDULED)]  # type: ignore[attr-defined]
    assert officers == [["Meyer", "Schmidt", "Braun"]] * 2


def test_a_request_can_be_taken_back(archive: Path) -> None:
    configure("[keys]", "shred_approvals = 2")
    request = str(told("shred", "request", UIDS[0], "--reason", "r")["request"])
    assert [each["request"] for each in told("shred", "list")["requests"]] == [request]  # type: ignore[attr-defined]
    run("shred", "cancel", request)
    run("shred", "approve", request, "--officer", "Schmidt", code=5)
    assert found() == list(UIDS)
    assert [f["what"] for f in events(Kind.STATE)] == ["shred requested", "shred request cancelled"]


STOPPER = """
import os, sys
from pathlib import Path
from index.store import IndexStore
from keys.durable import SystemCalls
from keys.store import RowStore
from server.cli import main

left = int(sys.argv[1])

def stopping(owner, name):
    real = getattr(owner, name)
    def call(*args, **options):
        global left
        for when in ("before", "after"):
            if when == "after":
                done = real(*args, **options)
            left -= 1
            if left == 0:
                os._exit(77)
        return done
    setattr(owner, name, staticmethod(call) if owner is SystemCalls else call)

stopping(RowStore, "put")
stopping(IndexStore, "write")
for name in ("fdatasync", "fsync", "rename", "link", "unlink"):
    stopping(SystemCalls, name)
main(sys.argv[2:])
"""


def stopped(number: int, *args: str) -> int:
    """Run a command that dies before or after its `number`th durable step; its exit code, 77 when it died."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COFFER_ARCHIVE": "", "COFFER_CONFIG": ""}
    return subprocess.run([sys.executable, "-c", STOPPER, str(number), *args], env=env, capture_output=True).returncode


def test_killed_at_every_step_it_is_whole_or_gone_and_the_next_one_finishes(archive: Path) -> None:
    command = ("shred", UIDS[0], "--reason", "r", "--yes")
    untouched = Path("untouched")
    shutil.copytree("data", untouched)
    number, seen = 0, set()
    while True:
        number += 1
        code = stopped(number, *command)
        assert code in (0, 77)
        is_gone = UIDS[0] not in found()
        seen.add(is_gone)
        run("get", "--study", UIDS[0], "--out", f"out{number}", code=5 if is_gone else 0)
        run(*command, code=5 if is_gone else 0)  # opened for writing, it finishes either way
        with Engine.open(load_config(Path("coffer.toml"))) as engine:
            assert not engine.keyring.rows(rows.EVENT_PREFIX)
            assert len(shred.tombstones(engine.keyring)) == 1
            assert not shred.waiting(engine.keyring)
            assert engine.index.stats().unreadable_studies == 0
        assert found() == [UIDS[1], UIDS[2]]
        assert len(events(Kind.SHRED_SCHEDULED)) == 1
        if code == 0:
            break
        shutil.rmtree("data")
        shutil.copytree(untouched, "data")
    assert seen == {True, False}
    assert number > 10
