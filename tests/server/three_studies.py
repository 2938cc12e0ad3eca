"""An archive of three studies, two of one patient, made by commands in the current folder, and what they say of it."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from pydicom.dataset import Dataset

from coffer.archive.events.event import Event
from coffer.archive.format.record import Kind
from coffer.server.config.load import load_config
from coffer.server.engine.opening import open_reading
from coffer.server.main.demo import sample_study
from tests.server.filled import free_port, part10, run, told

BASE = "archive = 'data'\n[storage]\nreserve_bytes = 0\n[dimse]\nport = {}\n[http]\nenabled = false\n"
E = TypeVar("E", bound=Event)
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


def events(*classes: type[E]) -> list[E]:
    """The log's events of these classes, oldest first."""
    with open_reading(load_config(Path("coffer.toml"))) as engine:
        told = [each.event for each in engine.events(frozenset(of.kind for of in classes))]
    return [event for event in told if isinstance(event, classes)]


def codes(kind: Kind) -> list[str]:
    """The codes of the log's events under records of this kind, oldest first."""
    with open_reading(load_config(Path("coffer.toml"))) as engine:
        return [each.event.code for each in engine.events(frozenset({kind}))]


def effective_at_once() -> None:
    """No backups are kept: what is shredded is due."""
    configure("[keys]", "shred_hold_days = 0")


def states() -> list[str]:
    """The state of every shred."""
    return [each["state"] for each in told("shred", "list")["shreds"]]  # type: ignore[attr-defined]


def put_back(name: str) -> None:
    """Let a copy of the keyring take its place."""
    shutil.rmtree("data/keyring")
    shutil.copytree(name, "data/keyring")
