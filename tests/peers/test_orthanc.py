"""Orthanc as the PACS in front: it sends to Coffer, loses its own copy, queries Coffer and retrieves."""

from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest

from tests.peers.coffer_process import CofferProcess, Peer, free_port
from tests.peers.orthanc_process import OrthancProcess
from tests.peers.wiretap import WireTap


@pytest.fixture
def studies(well_formed: list[Path]) -> list[Path]:
    """Images with a complete identity that Orthanc 1.10 can keep, native and compressed."""
    chosen: dict[str, Path] = {}
    for path in well_formed:
        head = pydicom.dcmread(path, stop_before_pixels=True)
        if not all(
            head.get(k) for k in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "PatientID", "Modality")
        ):
            continue
        if head.Modality in ("CT", "MR", "US", "SR", "CR") and head.file_meta.TransferSyntaxUID.name.startswith(
            ("Explicit VR Little", "Implicit", "JPEG Baseline", "JPEG Lossless", "JPEG-LS Lossless", "RLE")
        ):
            chosen.setdefault(str(head.SOPInstanceUID), path)
    return list(chosen.values())[:60]


def test_pacs_sends_queries_and_retrieves(
    new_coffer: Callable[..., CofferProcess],
    new_orthanc: Callable[..., OrthancProcess],
    tap: Callable[[int], WireTap],
    studies: list[Path],
) -> None:
    orthanc_port = free_port()
    back = tap(orthanc_port)  # Coffer's sub-operations to Orthanc pass here
    coffer = new_coffer([Peer("ORTHANC", back.port)])
    to = tap(coffer.port)
    orthanc = new_orthanc(to.port, orthanc_port)

    orthanc.client.post("/modalities/coffer/echo", json={}).raise_for_status()
    ids = {path: orthanc.upload(path) for path in studies}
    studies = [path for path in studies if ids[path]]
    assert len(studies) >= 50
    result = orthanc.post(
        "/modalities/coffer/store", {"Resources": sorted({i for i in ids.values() if i}), "Synchronous": True}
    )
    assert result.get("FailedInstancesCount", 0) == 0
    sent = to.newest()
    assert len(sent) == len(studies)
    assert to.acknowledged() == set(sent)

    orthanc.delete_everything()
    answer = orthanc.post(
        "/modalities/coffer/query", {"Level": "Study", "Query": {"StudyInstanceUID": "", "PatientName": ""}}
    )
    found = orthanc.get(f"/queries/{answer['ID']}/answers")
    expected = {str(pydicom.dcmread(p, stop_before_pixels=True).StudyInstanceUID) for p in studies}
    contents = [orthanc.get(f"/queries/{answer['ID']}/answers/{n}/content?simplify") for n in found]
    assert {c["StudyInstanceUID"] for c in contents} == expected

    done = orthanc.post(f"/queries/{answer['ID']}/retrieve", {"TargetAet": "ORTHANC", "Synchronous": True})
    assert done.get("Query") is not None
    assert len(orthanc.get("/instances")) == len(studies)
    assert back.newest() == sent


def test_series_level_query_from_orthanc(
    new_coffer: Callable[..., CofferProcess],
    new_orthanc: Callable[..., OrthancProcess],
    studies: list[Path],
) -> None:
    orthanc_port = free_port()
    coffer = new_coffer([Peer("ORTHANC", orthanc_port)])
    orthanc = new_orthanc(coffer.port, orthanc_port)
    ids = [i for i in map(orthanc.upload, studies[:8]) if i]
    orthanc.post("/modalities/coffer/store", {"Resources": ids, "Synchronous": True})
    head = pydicom.dcmread(studies[0], stop_before_pixels=True)
    answer = orthanc.post(
        "/modalities/coffer/query",
        {"Level": "Series", "Query": {"StudyInstanceUID": str(head.StudyInstanceUID)}},
    )
    rows = [
        orthanc.get(f"/queries/{answer['ID']}/answers/{n}/content?simplify")
        for n in orthanc.get(f"/queries/{answer['ID']}/answers")
    ]
    assert str(head.SeriesInstanceUID) in {r["SeriesInstanceUID"] for r in rows}
    orthanc.delete_everything()
    orthanc.post(f"/queries/{answer['ID']}/answers/0/retrieve", {"TargetAet": "ORTHANC", "Synchronous": True})
    assert orthanc.get("/instances")
