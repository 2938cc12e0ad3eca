"""DCMTK's command line programs against a real Coffer: echo, store, find, move and get, compared on the wire."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest

from tests.peers.coffer_process import CofferProcess, run_tool
from tests.peers.dicom_client import split_part10
from tests.peers.wiretap import WireTap

# getscu offers Explicit VR Little Endian first, so that objects stored in another syntax would come converted.
EXPLICIT_LE = "1.2.840.10008.1.2.1"
STUDY_KEYS = (
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "StudyID",
    "PatientID",
    "PatientName",
    "ModalitiesInStudy",
    "NumberOfStudyRelatedSeries",
    "NumberOfStudyRelatedInstances",
)


@pytest.fixture
def native(well_formed: list[Path]) -> list[Path]:
    """A few uncompressed images with a complete identity, several series and modalities."""
    chosen, wanted = [], {"CT": 6, "MR": 6, "SR": 2, "RTDOSE": 1}
    for path in well_formed:
        head = pydicom.dcmread(path, stop_before_pixels=True)
        modality = str(head.get("Modality", ""))
        complete = head.get("StudyInstanceUID") and head.get("SeriesInstanceUID") and head.get("PatientID")
        if complete and head.file_meta.get("TransferSyntaxUID") == EXPLICIT_LE and wanted.get(modality, 0):
            wanted[modality] -= 1
            chosen.append(path)
    return chosen


def ok(done: object) -> None:
    """Fail with the program's own words."""
    assert done.returncode == 0, f"{done.args[0]}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def query(coffer: CofferProcess, folder: Path, model: str, level: str, *keys: str) -> list[pydicom.Dataset]:
    """findscu; returns the response identifiers."""
    folder.mkdir(parents=True)
    args = [a for key in (f"QueryRetrieveLevel={level}", *keys) for a in ("-k", key)]
    ok(run_tool("findscu", model, "-X", "-aec", "COFFER", *args, "127.0.0.1", str(coffer.port), cwd=folder))
    return [pydicom.dcmread(f, force=True) for f in sorted(folder.glob("rsp*.dcm"))]


def test_echo(dcmtk: None, coffer_server: CofferProcess) -> None:
    ok(run_tool("echoscu", "-aec", "COFFER", "127.0.0.1", str(coffer_server.port)))


def test_store_find_get_and_move_round_trip(
    dcmtk: None,
    coffer_server: CofferProcess,
    native: list[Path],
    tap: Callable[[int], WireTap],
    storescp: Callable[[int], Path],
    tmp_path: Path,
) -> None:
    wire = tap(coffer_server.port)
    ok(run_tool("storescu", "-R", "-aec", "COFFER", "127.0.0.1", str(wire.port), *map(str, native)))
    sent = wire.newest()
    assert len(sent) == len(native)
    assert wire.acknowledged() == set(sent)

    studies = query(coffer_server, tmp_path / "q1", "-S", "STUDY", *STUDY_KEYS)
    assert {str(pydicom.dcmread(p, stop_before_pixels=True).StudyInstanceUID) for p in native} == {
        str(s.StudyInstanceUID) for s in studies
    }

    moved = storescp(coffer_server.peers[0].port)
    got = tmp_path / "got"
    got.mkdir()
    for study in studies:
        keys = ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study.StudyInstanceUID}"]
        address = ["-aec", "COFFER", *keys, "127.0.0.1"]
        ok(run_tool("getscu", "-S", "+B", "-od", str(got), *address, str(wire.port)))
        ok(run_tool("movescu", "-S", "-aem", "MOVEDST", *address, str(coffer_server.port)))
    assert wire.newest("received") == sent
    hashes = {s.sha256 for s in sent.values()}
    for folder in (got, moved):
        data = [split_part10(f.read_bytes())[1] for f in folder.iterdir()]
        assert {hashlib.sha256(d).hexdigest() for d in data} == hashes


@pytest.mark.parametrize("model", ["-S", "-P"])
def test_find_at_every_level(
    dcmtk: None, coffer_server: CofferProcess, native: list[Path], tmp_path: Path, model: str
) -> None:
    ok(run_tool("storescu", "-R", "-aec", "COFFER", "127.0.0.1", str(coffer_server.port), *map(str, native)))
    head = pydicom.dcmread(native[0], stop_before_pixels=True)
    patient = (f"PatientID={head.PatientID}",) if model == "-P" else ()
    study = (*patient, f"StudyInstanceUID={head.StudyInstanceUID}")
    series = (*study, f"SeriesInstanceUID={head.SeriesInstanceUID}")
    same = [pydicom.dcmread(p, stop_before_pixels=True) for p in native]
    if model == "-P":
        rows = query(coffer_server, tmp_path / "patient", model, "PATIENT", "PatientName", "PatientID")
        assert {str(r.PatientID) for r in rows} == {str(h.PatientID) for h in same}
    rows = query(coffer_server, tmp_path / "study", model, "STUDY", *patient, "StudyInstanceUID", "StudyDate")
    assert str(head.StudyInstanceUID) in {str(r.StudyInstanceUID) for r in rows}
    rows = query(
        coffer_server, tmp_path / "series", model, "SERIES", *study, "SeriesInstanceUID", "Modality", "SeriesNumber"
    )
    assert {str(r.SeriesInstanceUID) for r in rows} == {
        str(h.SeriesInstanceUID) for h in same if h.StudyInstanceUID == head.StudyInstanceUID
    }
    assert all(r.QueryRetrieveLevel == "SERIES" for r in rows)
    rows = query(coffer_server, tmp_path / "image", model, "IMAGE", *series, "SOPInstanceUID", "InstanceNumber")
    assert {str(r.SOPInstanceUID) for r in rows} == {
        str(h.SOPInstanceUID) for h in same if h.SeriesInstanceUID == head.SeriesInstanceUID
    }


def test_find_by_wildcard_and_range(
    dcmtk: None, coffer_server: CofferProcess, native: list[Path], tmp_path: Path
) -> None:
    ok(run_tool("storescu", "-R", "-aec", "COFFER", "127.0.0.1", str(coffer_server.port), *map(str, native)))
    heads = {str(h.StudyInstanceUID): h for h in (pydicom.dcmread(p, stop_before_pixels=True) for p in native)}
    dated = {u: str(h.StudyDate) for u, h in heads.items() if h.get("StudyDate")}
    middle = sorted(dated.values())[len(dated) // 2]
    rows = query(coffer_server, tmp_path / "to", "-S", "STUDY", f"StudyDate=-{middle}", "StudyInstanceUID")
    assert {str(r.StudyInstanceUID) for r in rows} == {u for u, d in dated.items() if d <= middle}
    name = next(str(h.PatientName) for h in heads.values() if len(str(h.get("PatientName", ""))) > 3)
    rows = query(coffer_server, tmp_path / "name", "-S", "STUDY", f"PatientName={name[:3]}*", "StudyInstanceUID")
    assert {str(r.StudyInstanceUID) for r in rows} == {
        u for u, h in heads.items() if str(h.get("PatientName", "")).upper().startswith(name[:3].upper())
    }


def test_unknown_move_destination_is_refused_as_such(
    dcmtk: None, coffer_server: CofferProcess, native: list[Path]
) -> None:
    ok(run_tool("storescu", "-R", "-aec", "COFFER", "127.0.0.1", str(coffer_server.port), str(native[0])))
    study = pydicom.dcmread(native[0], stop_before_pixels=True).StudyInstanceUID
    done = run_tool(
        "movescu",
        "-d",
        "-S",
        "-aem",
        "NOWHERE",
        "-aec",
        "COFFER",
        "-k",
        "QueryRetrieveLevel=STUDY",
        "-k",
        f"StudyInstanceUID={study}",
        "127.0.0.1",
        str(coffer_server.port),
    )
    assert "0xa801" in (done.stdout + done.stderr).lower()
