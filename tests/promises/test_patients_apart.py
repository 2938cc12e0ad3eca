"""Promise: patients are never mixed. What one object says of its patient is in no answer about another patient, a
Patient Root retrieval sends one patient's objects, and erasing one patient's part of a study leaves the rest.

Adversary "accident": a scanner or a gateway that gives two patients one Study Instance UID, corrects an ID, or forgets
the issuer. Adversary "who connects": any peer that may store sends objects into somebody else's study. Crossed with:
restart, kill, index removed and rebuilt, rekey of either part, shred of either part, corrections, rules, real sockets.
"""

import contextlib
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO

from coffer.index.dicom.identifier import encode_identifier
from coffer.keys.errors import AmbiguousPatientError
from coffer.keys.keyring.shred import schedule
from coffer.server.access.principal import Principal
from coffer.server.config.settings import Config, Http, Keys, Patients, Versions
from coffer.server.dimse.protocol.status import SEVERAL_PATIENTS, status_of
from coffer.server.engine.archive import WritableArchive
from coffer.server.engine.create import create_archive
from coffer.server.engine.opening import open_writer
from coffer.server.keyops.rekey_order import all_before, carry_out, order
from coffer.server.main.demo import encoded
from coffer.server.services.api import StoreRequest
from coffer.server.services.find import Finder
from coffer.server.services.retrieve import Retriever
from tests.peers.coffer_process import CofferProcess
from tests.peers.dicom_client import Item, find, store
from tests.services import services

SC, EXPLICIT_LE = "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.1.2.1"
LEVEL, PATIENT_ID, ISSUER, NAME, BORN = 0x00080052, 0x00100020, 0x00100021, 0x00100010, 0x00100030
STUDY_UID, SERIES_UID, SOP_UID, INSTANCES = 0x0020000D, 0x0020000E, 0x00080018, 0x00201208
STUDY = "2.25.8001"


@dataclass(frozen=True)
class Thing:
    """One object as a sender makes it."""

    sop: str
    patient: str
    study: str = STUDY
    series: str = ""
    issuer: str = ""
    name: str = ""
    born: str = ""
    sender: str = "SCANNER"
    remark: str = ""

    @property
    def data_set(self) -> Dataset:
        ds = Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = SC, self.sop, "OT"
        ds.SeriesInstanceUID = self.series or f"{self.study or '2.25.1'}.{len(self.patient)}"
        for keyword, value in (
            ("StudyInstanceUID", self.study),
            ("PatientID", self.patient),
            ("IssuerOfPatientID", self.issuer),
            ("PatientName", self.name),
            ("PatientBirthDate", self.born),
            ("ImageComments", self.remark),
        ):
            if value:
                setattr(ds, keyword, value)
        return ds


A = [Thing(f"2.25.81{n}", "A", name="ADAM^A", born="19310203") for n in range(3)]
B = [Thing(f"2.25.82{n}", "BB", name="BEA^B") for n in range(2)]


@dataclass
class Archive:
    """A real archive, opened and closed as the tests need it."""

    config: Config
    rules: dict[str, object] = field(default_factory=dict)

    @contextlib.contextmanager
    def open(self) -> Iterator[WritableArchive]:
        with open_writer(msgspec.structs.replace(self.config, **self.rules)) as engine:
            yield engine

    def put(self, *things: Thing) -> None:
        with self.open() as engine:
            for each in things:
                request = StoreRequest(SC, each.sop, EXPLICIT_LE, Principal.peer(each.sender))
                reception = services(engine).ingest.begin(request)
                reception.write(encoded(each.data_set))
                assert reception.finish().error is None


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """An empty one."""
    config = Config(archive=tmp_path / "archive", http=Http(enabled=False), keys=Keys(key_file=tmp_path / "key"))
    create_archive(config)
    return Archive(config)


def plan(engine: WritableArchive, model: str, level: str, keys: dict[int, str]) -> tuple[list[str], str]:
    """The data sets' own Patient IDs and SOP Instance UIDs that a retrieval sends, and its remark."""
    values = {LEVEL: (level,), **{tag: (value,) for tag, value in keys.items()}}
    found = Retriever(engine).plan(
        encode_identifier(values, (), implicit=True), implicit=True, model=model, caller=Principal.peer("VIEWER")
    )
    sent = []
    for instance in found.instances:
        data = DicomBytesIO(b"".join(instance.open()))
        ds = pydicom.filereader.read_dataset(data, is_implicit_VR=False, is_little_endian=True)
        sent.append(f"{ds.get('PatientID', '')} {ds.SOPInstanceUID}")
    return sorted(sent), found.remark


def shown(engine: WritableArchive) -> dict[tuple[str, str, str], list[str]]:
    """Every study that a query shows: whose it is and what it is called, and what Patient Root sends of it."""
    out = {}
    keys = {LEVEL: ("STUDY",), **dict.fromkeys((STUDY_UID, PATIENT_ID, ISSUER, NAME, BORN, INSTANCES), ())}
    for row in Finder(engine).rows(keys, model="study", caller=Principal.peer("VIEWER")):
        told = {tag: str(row[tag][0]) if row[tag] else "" for tag in keys}
        who = told[PATIENT_ID], told[NAME], told[BORN]
        assert who in {("A", "ADAM^A", "19310203"), ("BB", "BEA^B", ""), ("", "", "")}
        asked = {PATIENT_ID: told[PATIENT_ID], STUDY_UID: told[STUDY_UID]}
        sent, remark = plan(engine, "patient", "STUDY", asked) if told[PATIENT_ID] else ([], "")
        assert {each.split()[0] for each in sent} <= {told[PATIENT_ID]}
        assert remark == ""
        if told[PATIENT_ID]:
            assert len(sent) == int(told[INSTANCES])
        out[told[STUDY_UID], told[PATIENT_ID], told[ISSUER]] = sent
    return out


def sent_of(*things: Thing) -> list[str]:
    return sorted(f"{each.patient} {each.sop}" for each in things)


def rekey(archive: Archive, *patients: str) -> None:
    """Seal the parts of these patients again under new keys."""
    with archive.open() as engine:
        engine.keyring.rotate()
        chosen = all_before(engine, engine.keyring.epoch)
        parts = {key_id: part.patient_id for part in engine.index.all_parts() for key_id in part.key_ids}
        names = {key_id: name for key_id, name in chosen.names.items() if parts[key_id] in patients}
        assert names
        begun = order(engine, replace(chosen, names=names), "a test", Principal.person("Test", "test"))
        carry_out(engine, begun, lambda _done, _total: None)


def erase(archive: Archive, patient: str) -> None:
    """Destroy the keys of a patient's parts."""
    with archive.open() as engine:
        names = {key: part.name for part in engine.index.parts_of_patient(patient) for key in part.key_ids}
        assert names
        assert set(schedule(engine.keyring, names, now_ms=1, until_ms=2)) == set(names)
        engine.reconcile()


def remove_index(archive: Archive) -> None:
    shutil.rmtree(archive.config.archive / "index")


def rebuild(archive: Archive) -> None:
    with archive.open() as engine:
        assert engine.rebuild_index(lambda _done, _total: None).damaged == []


EVENTS: dict[str, Callable[[Archive], None]] = {
    "restart": lambda _: None,
    "index removed": remove_index,
    "rebuild": rebuild,
    "rekey of the older part": lambda archive: rekey(archive, "A"),
    "rekey of both": lambda archive: rekey(archive, "A", "BB"),
}


@pytest.mark.parametrize("event", EVENTS)
def test_two_patients_under_one_study_uid_stay_apart(archive: Archive, event: str) -> None:
    """Interleaved, with a third part that names nobody."""
    nobody = Thing("2.25.839", "")
    archive.put(A[0], B[0], nobody, A[1], B[1], A[2])
    for after in (lambda _: None, EVENTS[event], rebuild):
        after(archive)
        with archive.open() as engine:
            assert shown(engine) == {
                (STUDY, "A", ""): sent_of(*A),
                (STUDY, "BB", ""): sent_of(*B),
                (STUDY, "", ""): [],
            }
            sent, remark = plan(engine, "study", "STUDY", {STUDY_UID: STUDY})
            assert sent == sorted([*sent_of(*A, *B), f" {nobody.sop}"])
            assert remark == "objects of 3 patients have the requested UIDs"
            assert engine.stats().shared_studies == 1
            keys = [part.key_ids for part in engine.index.parts(STUDY)]
            assert len(keys) == 3
            assert not any(one & other for one in keys for other in keys if one is not other)


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("gone", ["A", "BB"])
def test_erasing_one_patient_leaves_the_other_readable(archive: Archive, event: str, gone: str) -> None:
    archive.put(A[0], B[0], A[1], B[1])
    EVENTS[event](archive)
    erase(archive, gone)
    left = {(STUDY, "A", ""): sent_of(*A[:2]), (STUDY, "BB", ""): sent_of(*B)}
    del left[STUDY, gone, ""]
    for after in (lambda _: None, rebuild):
        after(archive)
        with archive.open() as engine:
            assert shown(engine) == left
            assert [part.patient_id for part in engine.index.parts(STUDY)] == [p for p in ("A", "BB") if p != gone]


@pytest.mark.parametrize("event", EVENTS)
def test_a_corrected_patient_id_counts_in_every_answer_and_its_older_version_stays_with_the_old_patient(
    archive: Archive, event: str
) -> None:
    """A rekey gives the older version a later record: it must not become the newer one by that."""
    corrected = Thing(A[1].sop, "BB", series=f"{STUDY}.1", name="BEA^B")
    archive.put(A[0], A[1], corrected)
    for after in (lambda _: None, EVENTS[event], rebuild):
        after(archive)
        with archive.open() as engine:
            assert shown(engine) == {(STUDY, "A", ""): sent_of(A[0]), (STUDY, "BB", ""): sent_of(corrected)}
            old, new = engine.index.versions(A[1].sop)
            assert (old.part.patient_id, old.is_served) == ("A", False)
            assert (new.part.patient_id, new.is_served) == ("BB", True)
            (part,) = engine.index.parts_of_patient("A")
            assert (part.instances, part.superseded) == (1, 1)
    erase(archive, "BB")
    with archive.open() as engine:
        assert shown(engine) == {(STUDY, "A", ""): sent_of(A[0], A[1])}


def test_a_peer_cannot_take_an_image_from_its_patient_where_the_first_one_wins(archive: Archive) -> None:
    archive.rules = {"versions": Versions(serve_by_ae={"GATEWAY": "first"})}
    foreign = Thing(A[0].sop, "BB", series=f"{STUDY}.1", name="BEA^B", sender="GATEWAY")
    archive.put(A[0], foreign)
    for after in (lambda _: None, rebuild):
        after(archive)
        with archive.open() as engine:
            assert shown(engine) == {(STUDY, "A", ""): sent_of(A[0])}
            assert [(each.part.patient_id, each.is_served) for each in engine.index.versions(A[0].sop)] == [
                ("A", True),
                ("BB", False),
            ]
            (kept,) = engine.index.parts_of_patient("BB")
            assert (kept.instances, kept.versions) == (0, 1)
    archive.rules = {}
    with archive.open() as engine:
        assert shown(engine) == {(STUDY, "BB", ""): sent_of(foreign)}


def test_one_patient_id_of_two_issuers_is_two_patients(archive: Archive) -> None:
    """PATIENT level without issuer sends nothing, with it one patient's; an absent one joins an only one, never two."""
    other = "2.25.8002"
    here = [Thing(A[0].sop, "A", issuer="X", name="ADAM^A", born="19310203"), A[1]]
    archive.put(*here)
    with archive.open() as engine:
        assert shown(engine) == {(STUDY, "A", "X"): sent_of(*here)}
        assert plan(engine, "patient", "PATIENT", {PATIENT_ID: "A"})[0] == sent_of(*here)
    there = Thing("2.25.84", "A", study=other, issuer="Y", name="ADAM^A", born="19310203")
    archive.put(there)
    with archive.open() as engine:
        with pytest.raises(
            AmbiguousPatientError, match=r"2 patients have this ID: give \(0010,0021\): X, Y"
        ) as refused:
            plan(engine, "patient", "PATIENT", {PATIENT_ID: "A"})
        assert (status_of(refused.value)[0], refused.value.offending) == (SEVERAL_PATIENTS, (PATIENT_ID, ISSUER))
        assert plan(engine, "patient", "PATIENT", {PATIENT_ID: "A", ISSUER: "Y"})[0] == sent_of(there)
        assert plan(engine, "patient", "PATIENT", {PATIENT_ID: "A", ISSUER: "X"})[0] == sent_of(*here)
        assert plan(engine, "patient", "STUDY", {PATIENT_ID: "A", STUDY_UID: other})[0] == sent_of(there)
    third = Thing("2.25.85", "A", issuer="Y", name="ADAM^A", born="19310203")
    archive.put(third)
    with archive.open() as engine:
        keys = {LEVEL: ("STUDY",), STUDY_UID: (STUDY,), ISSUER: (), INSTANCES: ()}
        rows = Finder(engine).rows(keys, model="study", caller=Principal.peer("VIEWER"))
        assert sorted(row[ISSUER] for row in rows) == [(), ("X",), ("Y",)]
        for level, more in (
            ("STUDY", {}),
            ("SERIES", {SERIES_UID: f"{STUDY}.1"}),
            ("IMAGE", {SERIES_UID: f"{STUDY}.1", SOP_UID: A[1].sop}),
        ):
            asked = {PATIENT_ID: "A", STUDY_UID: STUDY, **more}
            with pytest.raises(AmbiguousPatientError, match="3 patients"):
                plan(engine, "patient", level, asked)
            assert plan(engine, "patient", level, asked | {ISSUER: '""'})[0] == sent_of(A[1])


def test_a_default_issuer_says_once_what_an_absent_one_means(archive: Archive) -> None:
    """Across studies absent and X are two patients, until the site says what absent means; no byte changes by it."""
    other = Thing("2.25.84", "A", study="2.25.8002", issuer="X", name="ADAM^A", born="19310203")
    archive.put(A[0], other)
    with archive.open() as engine, pytest.raises(AmbiguousPatientError):
        plan(engine, "patient", "PATIENT", {PATIENT_ID: "A"})
    archive.rules = {"patients": Patients(default_issuer="Z", default_issuer_by_ae={"SCANNER": "X"})}
    with archive.open() as engine:
        assert plan(engine, "patient", "PATIENT", {PATIENT_ID: "A"})[0] == sent_of(A[0], other)
        assert set(shown(engine)) == {(STUDY, "A", "X"), ("2.25.8002", "A", "X")}


def test_objects_without_a_study_have_a_key_each(archive: Archive) -> None:
    things = [Thing(f"2.25.86{n}", patient, study="") for n, patient in enumerate(("A", "A", ""))]
    archive.put(*things)
    for after in (lambda _: None, rebuild):
        after(archive)
        with archive.open() as engine:
            parts = [part for each in things for part in engine.index.parts_of_instance(each.sop)]
            assert [part.sop_instance for part in parts] == [each.sop for each in things]
            assert len({key for part in parts for key in part.key_ids}) == 3
            assert engine.stats().studies == 0
    with archive.open() as engine:
        schedule(engine.keyring, dict.fromkeys(parts[0].key_ids, parts[0].name), now_ms=1, until_ms=2)
        engine.reconcile()
        assert not Retriever(engine).instances({SOP_UID: (things[0].sop,)}, Principal.peer("VIEWER"))
        for each in things[1:]:
            assert len(Retriever(engine).instances({SOP_UID: (each.sop,)}, Principal.peer("VIEWER"))) == 1


@pytest.fixture
def coffer(tmp_path: Path) -> Iterator[CofferProcess]:
    """A running server with an empty archive."""
    made = CofferProcess(tmp_path)
    made.write_config()
    made.init()
    yield made.start()
    made.stop()
    made.run("verify")


def test_patients_stay_apart_over_real_sockets_and_a_kill(coffer: CofferProcess) -> None:
    """Two senders at once into one study; both are acknowledged, then the server is killed."""
    replies: list[int | None] = []

    def send(patient: str, name: str, born: str) -> None:
        things = [Thing(f"2.25.87{len(patient)}{n}", patient, name=name, born=born) for n in range(8)]
        items = [Item(SC, each.sop, EXPLICIT_LE, encoded(each.data_set)) for each in things]
        replies.extend(reply.status for reply in store(coffer.port, items))

    senders = [threading.Thread(target=send, args=who) for who in (("A", "ADAM^A", "19310203"), ("BB", "BEA^B", ""))]
    for each in senders:
        each.start()
    for each in senders:
        each.join()
    assert replies == [0] * 16
    wanted = {"StudyInstanceUID": STUDY, "PatientID": "", "PatientName": "", "PatientBirthDate": ""}
    for kill in (False, True):
        if kill:
            coffer.kill()
            coffer.start()
        rows = find(coffer.port, "STUDY", NumberOfStudyRelatedInstances="", **wanted)
        told = sorted(
            (row.PatientID, str(row.PatientName), row.PatientBirthDate, int(row.NumberOfStudyRelatedInstances))
            for row in rows
        )
        assert told == [("A", "ADAM^A", "19310203", 8), ("BB", "BEA^B", "", 8)]
