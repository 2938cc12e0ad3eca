"""A study to be rekeyed: the command that does it, in any phase, and what the archive knows of the study."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from coffer.keys.keyring import rekey
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.providers.key_file import KeyFileProvider
from coffer.server.config.load import load_config
from coffer.server.engine.archive import ReadableArchive
from coffer.server.engine.opening import open_reading, open_writer
from tests.server.filled import copy_archive, part10, run, told
from tests.server.stopped import stopped
from tests.server.three_studies import UIDS, configure, put, slices

STUDY = UIDS[0]
EXPLICIT_LE = "1.2.840.10008.1.2.1"
COMMAND = ("keys", "rekey", STUDY, "--reason", "a core dump", "--yes")


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An archive of three studies of three slices, verified with keys at the end."""
    monkeypatch.chdir(tmp_path)
    configure()
    run("init")
    put(*UIDS[:2])
    put(UIDS[2], patient_id="P-99")
    yield tmp_path / "data"
    assert told("verify", "--level", "decrypt")["findings"] == []


def got(study_uid: str) -> dict[str, bytes]:
    """The study's files as they are retrieved."""
    shutil.rmtree("out", ignore_errors=True)
    run("get", "--study", study_uid, "--out", "out")
    return {str(path.relative_to("out")): path.read_bytes() for path in sorted(Path("out").rglob("*.dcm"))}


def engine(*, write: bool = False) -> ReadableArchive:
    return (open_writer if write else open_reading)(load_config(Path("coffer.toml")))


def key_ids(study_uid: str) -> frozenset[bytes]:
    with engine() as opened:
        return opened.index.key_ids_of(study_uid)


def index_rows() -> list[object]:
    """What the index knows of every instance, and of every study."""
    with engine() as opened:
        located = [each for uid in UIDS for each in opened.index.locate({0x0020000D: (uid,)})]
        studies = [row for _, row in opened.index._tables.all_studies() if row is not None]
        return [opened.index.stats(), *located, *sorted(studies, key=lambda row: row.study_uid)]


def put_one_more() -> None:
    """Store a fourth slice of the study."""
    more = next(slices(STUDY, "P-4711"))
    more.SOPInstanceUID = STUDY + ".1.99"
    Path("more.dcm").write_bytes(part10(more))
    run("put", "more.dcm")


def stop_in(phase: rekey.Phase) -> None:
    """Leave a rekey of the study in this phase."""
    copy_archive("data", "untouched-before-stop")
    for number in range(1, 60):
        assert stopped(number, *COMMAND) == 77
        keyring = Keyring.open(Path("data/keyring"), KeyFileProvider(Path("data.key")), readonly=True)
        under_way = rekey.under_way(keyring)
        sealed = keyring.changes()
        keyring.close()
        if under_way and under_way[0].phase is phase and sealed:
            return
        shutil.rmtree("data")
        copy_archive("untouched-before-stop", "data")
    raise AssertionError(phase)
