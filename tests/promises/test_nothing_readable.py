"""Promise: nothing that a stored object says of a patient, and no UID, can be read in what lies on a disk: segments,
index, keyring, spool, findings, what was put aside, metrics and logs, temporary files.

Adversary: who reads the disk, at any time. Every step of an archive's life is followed by a search of every byte; a
server that is killed in the middle of one, and real files, are in `tests/peers/test_phi.py`, whose search this uses.
"""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from coffer.archive.verify.findings import FindingStore
from coffer.archive.verify.report import Finding
from coffer.server.config.load import load_config
from coffer.server.engine.opening import open_writer
from coffer.server.main.demo import sample_study
from tests.peers.test_phi import SHORTEST, TextSearch, forms_of
from tests.server.filled import flip, part10, run

SAID = {
    "PatientName": "Quillfeather^Thaddeus", "PatientID": "QF-70713-X", "AccessionNumber": "ACC-918273",
    "StudyDescription": "Zygoma beside itself", "SeriesDescription": "Oblique wanderings",
    "ReferringPhysicianName": "Umbersaw^Philippa", "InstitutionName": "Saint Swithun at Dusk",
    "PatientBirthDate": "19310228", "PatientComments": "Prefers the window seat",
}  # fmt: skip
STUDY = "2.25.118811881188118811"
CONFIG = "archive = 'data'\n[storage]\nreserve_bytes = 0\n[limits]\nmemory_object_bytes = 65536\n"
LIFE: tuple[tuple[str, ...], ...] = (
    ("put", "files"),
    ("put", "files"),  # the same again
    ("put", "corrected"),  # a second version
    ("verify", "--level", "decrypt"),
    ("keys", "split", "-n", "3", "-k", "2", "-o", "shares"),
    ("keys", "rotate"),
    ("keys", "rotate-signing", "--reason", "yearly"),
    ("keys", "rekey", STUDY, "--reason", "old copies", "--yes"),
    ("index", "rebuild"),
    ("checkpoint", "sign"),
    ("checkpoint", "prove-inclusion", "1", "-o", "data-proof.json"),
    ("hold", "add", "--patient", SAID["PatientID"], "--reason", "court case"),
    ("hold", "add", STUDY, "--reason", "court case", "--until", "2999-01-01"),
    ("shred", "study", STUDY, "--reason", "erasure request", "--yes"),  # held: refused
)


def objects(folder: Path, *, corrected: bool = False) -> list[Dataset]:
    """A study of one patient, each object with everything that a header says of one, as files."""
    folder.mkdir()
    made = copy.deepcopy(list(sample_study()))
    for number, ds in enumerate(made):
        for keyword, value in SAID.items():
            setattr(ds, keyword, value)
        if corrected:
            ds.StudyDescription = f"{SAID['StudyDescription']}, looked at again"
        ds.StudyInstanceUID, ds.SeriesInstanceUID = STUDY, "2.25.227722772277227722"
        ds.SOPInstanceUID = f"2.25.33663366336633663{number}"
        (folder / f"{number}.dcm").write_bytes(part10(ds))
    return made


def search_for(made: list[Dataset]) -> TextSearch:
    """Whole values, their upper and lower case, parts of names, and UIDs, in every encoding."""
    uids = {str(ds[keyword].value) for ds in made for keyword in ("StudyInstanceUID", "SeriesInstanceUID")}
    uids |= {str(ds.SOPInstanceUID) for ds in made}
    words = {part for value in SAID.values() for part in (value, *value.split("^")) if len(part) >= SHORTEST}
    texts = uids | {form for word in words for form in (word, word.upper(), word.lower(), word.replace("^", " "))}
    return TextSearch({form for text in texts for form in forms_of(text) if len(form) >= SHORTEST})


def test_no_step_of_an_archives_life_leaves_anything_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    search = search_for(objects(tmp_path / "files"))
    objects(tmp_path / "corrected", corrected=True)
    assert search.tree([tmp_path / "files"])  # it finds what is there
    (tmp_path / "coffer.toml").write_text(CONFIG)
    written = [tmp_path / "data", temporary, tmp_path / "shares"]
    run("init")
    for step in LIFE:
        done = run(*step, code=10 if step[0] == "shred" else 0)
        found = search.tree(written)
        assert not found, (step, found)
        assert not search.hits(done.stderr.encode()) or step[0] in {"shred", "put"}, step
    for hold in run("hold", "list", "--json").stdout.split('"hold":"')[1:]:
        run("hold", "remove", hold.split('"')[0])
    run("shred", "study", STUDY, "--reason", "erasure request", "--yes")
    assert not search.tree(written)
    assert list(temporary.iterdir()) == []


def test_what_is_found_and_put_aside_names_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage to any part of the log, its finding, and the torn end that is kept in lost+found."""
    monkeypatch.chdir(tmp_path)
    search = search_for(objects(tmp_path / "files"))
    (tmp_path / "coffer.toml").write_text(CONFIG)
    run("init")
    run("put", "files")
    data = tmp_path / "data"
    segment = data / "segments" / "00000001.seg"
    with segment.open("ab") as file:
        file.write(segment.read_bytes()[96:400])  # a record that stands where it does not belong
    with open_writer(load_config(Path("coffer.toml"))) as engine:
        metrics = engine.metrics.render()
        FindingStore(engine.folder.scrub).add(Finding(1, 96, 0, "the body does not match its hash"), 1)
    flip(segment, 4000)
    said = run("verify", code=1).output + run("scrub", "show", code=1).output + run("recover", "show").output
    assert any((data / "lost+found").iterdir())
    assert not search.tree([data])
    assert not search.hits(said.encode())
    assert not search.hits(metrics if isinstance(metrics, bytes) else metrics.encode())
