"""Delete the index, start again: the same questions get the same answers, row for row."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest

from tests.peers.coffer_process import CofferProcess
from tests.peers.dicom_client import find, item_of, store

STUDY = (
    "StudyInstanceUID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "StudyID",
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDescription",
    "ReferringPhysicianName",
    "ModalitiesInStudy",
    "NumberOfStudyRelatedSeries",
    "NumberOfStudyRelatedInstances",
)
SERIES = (
    "SeriesInstanceUID",
    "Modality",
    "SeriesNumber",
    "SeriesDescription",
    "BodyPartExamined",
    "NumberOfSeriesRelatedInstances",
)
IMAGE = (
    "SOPInstanceUID",
    "SOPClassUID",
    "InstanceNumber",
    "Rows",
    "Columns",
    "NumberOfFrames",
    "AvailableTransferSyntaxUID",
)

pytestmark = pytest.mark.long


def text(row: pydicom.Dataset) -> str:
    """One row as comparable text."""
    return "\n".join(sorted(str(element) for element in row))


def everything(port: int) -> list[str]:
    """Every row of every level."""
    rows = [text(r) for r in find(port, "PATIENT", "patient", PatientID="", PatientName="", PatientBirthDate="")]
    for study in find(port, "STUDY", **dict.fromkeys(STUDY, "")):
        rows.append(text(study))
        if not study.StudyInstanceUID:  # cannot be asked further: PS3.4 C.4.1 needs the key of the level above
            continue
        for series in find(port, "SERIES", StudyInstanceUID=study.StudyInstanceUID, **dict.fromkeys(SERIES, "")):
            rows.append(text(series))
            if not series.SeriesInstanceUID:
                continue
            above = {"StudyInstanceUID": study.StudyInstanceUID, "SeriesInstanceUID": series.SeriesInstanceUID}
            keys = dict.fromkeys(IMAGE, "")
            rows += [text(r) for r in find(port, "IMAGE", **above, **keys)]
    return sorted(rows)


@pytest.mark.timeout(300)
def test_a_lost_index_comes_back_complete(new_coffer: Callable[..., CofferProcess], well_formed: list[Path]) -> None:
    coffer = new_coffer()
    store(coffer.port, [item_of(p) for p in well_formed[::2]])
    questions = (
        {"PatientName": "*A*"},
        {"StudyDate": "20000101-20151231"},
        {"ModalitiesInStudy": "CT"},
        {"PatientID": "?*"},
    )
    before = everything(coffer.port)
    asked = [sorted(text(r) for r in find(coffer.port, "STUDY", StudyInstanceUID="", **q)) for q in questions]
    assert len(before) > 200
    coffer.stop()
    shutil.rmtree(coffer.archive / "index")
    coffer.start()
    assert everything(coffer.port) == before
    assert [sorted(text(r) for r in find(coffer.port, "STUDY", StudyInstanceUID="", **q)) for q in questions] == asked
    coffer.stop()
    coffer.run("index", "rebuild")
    coffer.start()
    assert everything(coffer.port) == before
