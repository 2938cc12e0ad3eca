"""Two patients under one Study Instance UID: what Coffer finds and sends at each level, beside Orthanc, dcmqrscp."""

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import build_role, evt

from coffer.server.main.demo import encoded
from tests.conftest import absent
from tests.peers.coffer_process import CofferProcess, free_port, tool
from tests.peers.conftest import wait_for_port
from tests.peers.dicom_client import GET, Item, associate, find, store
from tests.peers.orthanc_process import OrthancProcess

SC = "1.2.840.10008.5.1.4.1.1.7"
SHARED, OWN = "2.25.9001", "2.25.9002"
A, B = "PAT-A", "PAT-B"
SERIES = {"a1": "2.25.9101", "a2": "2.25.9101", "b1": "2.25.9102", "a3": "2.25.9103"}
SOPS = {name: f"2.25.92{number}" for number, name in enumerate(SERIES)}


def item(name: str, study: str, patient: str, **more: str) -> Item:
    """One small object."""
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = SC, SOPS[name]
    ds.StudyInstanceUID, ds.SeriesInstanceUID = study, SERIES[name]
    ds.PatientID, ds.PatientName, ds.Modality, ds.StudyDate = patient, f"{patient}^X", "OT", "20240131"
    ds.StudyTime = ds.AccessionNumber = ds.StudyID = "1"
    ds.SeriesNumber = ds.InstanceNumber = "1"
    for keyword, value in more.items():
        setattr(ds, keyword, value)
    return Item(SC, SOPS[name], str(ExplicitVRLittleEndian), encoded(ds))


OBJECTS = [item("a1", SHARED, A), item("a2", SHARED, A), item("b1", SHARED, B), item("a3", OWN, A)]


@dataclass(frozen=True)
class Got:
    """How a C-GET ended and the names of what came."""

    status: int
    comment: str
    names: frozenset[str]


def get(port: int, model: str, level: str, **keys: str) -> Got:
    """C-GET on a model and level."""
    came: set[str] = set()

    def take(event: evt.Event) -> int:
        came.add(str(event.request.AffectedSOPInstanceUID))
        return 0

    query = Dataset()
    query.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(query, keyword, value)
    contexts = [(GET[model], [ImplicitVRLittleEndian]), (SC, [ExplicitVRLittleEndian])]
    roles = [build_role(SC, scp_role=True)]
    association = associate(port, contexts, ext_neg=roles, evt_handlers=[(evt.EVT_C_STORE, take)])
    final = Dataset()
    for status, _ in association.send_c_get(query, GET[model]):
        final = status
    association.release()
    names = {uid: name for name, uid in SOPS.items()}
    return Got(final.Status, str(final.get("ErrorComment", "")), frozenset(names[uid] for uid in came))


@pytest.fixture
def dcmqrscp(tmp_path: Path) -> Iterator[int]:
    """DCMTK's archive, empty; its port."""
    program, port, folder = tool("dcmqrscp"), free_port(), tmp_path / "dcmqrscp"
    if program is None:
        absent("dcmqrscp is not installed: apt install dcmtk")
    (folder / "store").mkdir(parents=True)
    config = folder / "dcmqrscp.cfg"
    config.write_text(
        f"NetworkTCPPort = {port}\nMaxPDUSize = 131072\nMaxAssociations = 16\nHostTable BEGIN\nHostTable END\n"
        "VendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\nCOFFER {folder}/store RW (100, 1000mb) ANY\nAETable END\n"
    )
    process = subprocess.Popen([str(program), "-q", "-c", str(config)], env={"TCP_NODELAY": "1"})
    wait_for_port(port)
    yield port
    process.terminate()
    process.wait(10)


_STUDY = {"StudyInstanceUID": SHARED}
_SERIES_OF_A = _STUDY | {"SeriesInstanceUID": SERIES["a1"]}
_IMAGE_OF_A = _SERIES_OF_A | {"SOPInstanceUID": SOPS["a2"]}
ASKED: list[tuple[str, str, dict[str, str], set[str]]] = [
    ("patient", "PATIENT", {"PatientID": A}, {"a1", "a2", "a3"}),
    ("patient", "PATIENT", {"PatientID": B}, {"b1"}),
    ("patient", "STUDY", {"PatientID": A} | _STUDY, {"a1", "a2"}),
    ("patient", "STUDY", {"PatientID": B} | _STUDY, {"b1"}),
    ("patient", "SERIES", {"PatientID": A} | _SERIES_OF_A, {"a1", "a2"}),
    ("patient", "SERIES", {"PatientID": B} | _SERIES_OF_A, set()),
    ("patient", "IMAGE", {"PatientID": A} | _IMAGE_OF_A, {"a2"}),
    ("patient", "IMAGE", {"PatientID": B} | _IMAGE_OF_A, set()),
    ("study", "STUDY", _STUDY, {"a1", "a2", "b1"}),
    ("study", "SERIES", _SERIES_OF_A, {"a1", "a2"}),
    ("study", "IMAGE", _IMAGE_OF_A, {"a2"}),
]
_SHOWN = {"StudyInstanceUID": "", "PatientID": "", "PatientName": ""}
FOUND: list[tuple[str, str, dict[str, str]]] = [
    ("patient", "PATIENT", {"PatientID": "", "PatientName": ""}),
    ("patient", "STUDY", _SHOWN | {"PatientID": B}),
    ("patient", "SERIES", _STUDY | {"PatientID": A, "SeriesInstanceUID": ""}),
    ("study", "STUDY", _SHOWN),
    ("study", "STUDY", _SHOWN | _STUDY),
    ("study", "SERIES", _STUDY | {"PatientID": "", "SeriesInstanceUID": ""}),
    ("study", "IMAGE", _SERIES_OF_A | {"PatientID": "", "SOPInstanceUID": ""}),
]


def rows(port: int, model: str, level: str, keys: dict[str, str]) -> list[list[str]]:
    """What a C-FIND shows of the keys, sorted."""
    return sorted([str(row.get(key, "")) for key in keys] for row in find(port, level, model, **keys))


def test_two_patients_in_one_study_are_found_and_sent_apart_as_peers_do(
    coffer_server: CofferProcess, new_orthanc: Callable[..., OrthancProcess], dcmqrscp: int
) -> None:
    """Orthanc shows the same, and sends a study, series or image of Patient Root by its UID alone."""
    orthanc = new_orthanc(coffer_server.port, free_port()).dicom_port
    ports = coffer_server.port, orthanc, dcmqrscp
    for port in ports:
        assert [reply.status for reply in store(port, OBJECTS)] == [0] * 4
    for model, level, keys in FOUND:
        ours, *theirs = [rows(port, model, level, keys) for port in ports]
        assert [ours] * 2 == theirs
        assert ours
    for model, level, keys, names in ASKED:
        ours, orthancs, dcmtks = (get(port, model, level, **keys) for port in ports)
        assert (ours.status, ours.names) == (dcmtks.status, dcmtks.names) == (0, names)
        if model == "study" or level == "PATIENT":
            assert orthancs.names == names
        mixed = "objects of 2 patients have the requested UIDs" if "b1" in names and len(names) > 1 else ""
        assert ours.comment == mixed
    log = coffer_server.log.read_text()
    assert log.count("objects of several patients have one Study Instance UID") == 1
    assert log.count("objects of several patients are sent together") == 1
    assert "\ncoffer_shared_studies 1.0\n" in coffer_server.metrics()
