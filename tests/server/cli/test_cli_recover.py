"""An archive that was rolled back or damaged: it is still read, commands say why, and the remedy is recorded."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from coffer.archive.events.event import Event, UnknownEvent
from coffer.archive.events.repairs import LossAccepted, SegmentRepaired, SegmentsTaken
from coffer.archive.format.record import Kind
from coffer.archive.format.segment import HEADER
from coffer.archive.repair.repair import repair
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.verify.findings import FindingStore
from coffer.archive.verify.report import Finding
from coffer.keys.errors import UnavailableError
from coffer.server.config.load import load_config
from coffer.server.engine import opening
from coffer.server.engine.opening import open_reading
from coffer.server.main.demo import sample_study
from coffer.server.main.service import Server
from tests.server.filled import flip, free_port, part10, run, study_files, told


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An archive of one study, put in two goes, with a copy of each state: old and new."""
    monkeypatch.chdir(tmp_path)
    Path("coffer.toml").write_text(
        f"archive = 'data'\n[storage]\nreserve_bytes = 0\n[dimse]\nport = {free_port()}\n[http]\nenabled = false\n"
    )
    run("init")
    first, *others = map(str, study_files(tmp_path / "files"))
    run("put", first)
    shutil.copytree("data", "old")
    run("put", *others)
    shutil.copytree("data", "new")
    yield tmp_path / "data"
    run("verify", "--level", "decrypt")


def events(archive: Path) -> list[Event | UnknownEvent]:
    """Every repair that the log records."""
    with open_reading(load_config(Path("coffer.toml"))) as engine:
        return [each.event for each in engine.events(frozenset({Kind.REPAIR}))]


def roll_back(archive: Path) -> None:
    """Yesterday's log and checkpoint under today's keyring."""
    for part in ("segments", "checkpoints"):
        shutil.rmtree(archive / part)
        shutil.copytree(archive.parent / "old" / part, archive / part)


def test_a_rolled_back_archive_is_read_and_not_written(archive: Path) -> None:
    roll_back(archive)
    assert "coffer recover show" in run("put", "files", code=13).output
    assert "the checkpoint that the keyring remembers covers" in run("verify", code=1).output
    run("recover", "show", code=1)
    shown = told("recover", "show", code=1)
    assert shown["missing"] == int(str(shown["keyring_records"])) - int(str(shown["records"])) > 0
    with Server(load_config(Path("coffer.toml"))) as server:
        (reason,) = server.reasons()
        assert reason.startswith("nothing is stored: 2 records are signed")
        assert server.services.archive.stats().studies == 1
    told("recover", "from", "new")


def test_the_remedy_by_a_copy(archive: Path) -> None:
    before = told("status")["objects"]
    roll_back(archive)
    ledger = FindingStore(archive / "scrub")
    ledger.add(Finding(1, 0, 3, "the log ends here, but a signed checkpoint covers 9 records"), 1)
    ledger.add(Finding(1, 96, 0, "the body does not match its hash"), 1)
    assert "1 segments were taken" in run("recover", "from", "new").output
    assert told("status")["objects"] == before
    assert told("recover", "show")["complaint"] is None
    (event,) = events(archive)
    assert isinstance(event, SegmentsTaken)
    assert [e.what for e in ledger.entries()] == ["the body does not match its hash"]  # nobody has read it again yet
    assert not (archive / "pending.json").exists()
    assert "were signed here" in run("recover", "from", "old", code=12).output


def test_an_act_is_recorded_once_whatever_stops_its_recording(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flip(archive / "segments" / "00000001.seg", HEADER.size + 1000)
    keyless = repair(ArchiveFolder.open(archive), ArchiveFolder.open(Path("new")))
    assert keyless.remaining == []
    config = load_config(Path("coffer.toml"))

    def stopped(_: object) -> None:
        raise UnavailableError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(opening, "discard_deferred", stopped)
        for _ in range(2):
            with pytest.raises(UnavailableError, match="the disk is gone"):
                opening.open_writer(config)
    assert (archive / "pending.json").exists()
    run("checkpoint", "sign")
    assert not (archive / "pending.json").exists()
    (event,) = events(archive)
    assert isinstance(event, SegmentRepaired)


def back_to(*parts: str) -> None:
    """Put these parts of the archive back as they were at first."""
    for part in parts:
        shutil.rmtree(Path("data") / part)
        shutil.copytree(Path("old") / part, Path("data") / part)


def contents(folder: Path) -> dict[Path, bytes]:
    """Every file but those of locks."""
    locks = {"LOCK", "lock.mdb"}
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name not in locks}


@pytest.mark.parametrize("is_marked", [True, False])
def test_a_copy_does_not_make_an_older_keyring_the_newest(archive: Path, is_marked: bool) -> None:
    """It would hide that a hold is missing, and the study could be shredded."""
    (study,) = (row["StudyInstanceUID"] for row in json.loads(run("find", "--json").stdout))
    run("hold", "add", study, "--reason", "court case 7")
    shutil.copytree("data", "held")
    mark = Path(str(told("mark", "show")["mark"]))
    kept = mark.read_bytes()
    back_to("keyring")
    if not is_marked:
        mark.unlink()
    before = contents(archive)
    told_so = run("recover", "from", "held", code=13).output
    assert "the keyring is older than the log: 1 holds, requests to shred or registered copies are missing" in told_so
    assert contents(archive) == before
    assert "court case 7" in run("recover", "show", code=1).output
    run("put", "files", code=13)
    shutil.rmtree("data/keyring")
    shutil.copytree("held/keyring", "data/keyring")  # the remedy that it names
    mark.write_bytes(kept)
    assert "court case 7" in run("hold", "list").output
    run("shred", "study", study, "--reason", "x", "--yes", code=10)


def test_a_copy_does_not_leave_objects_without_keys(archive: Path) -> None:
    """The whole folder is an older one: its keyring lacks the key of a study that came since."""
    another = sample_study()[0]
    another.StudyInstanceUID, another.SOPInstanceUID = "1.2.840.99999.77", "1.2.840.99999.77.1"
    Path("another.dcm").write_bytes(part10(another))
    run("put", "another.dcm")
    shutil.copytree("data", "newest")
    shutil.rmtree("data")
    shutil.copytree("old", "data")
    assert "1 studies have no key" in run("recover", "from", "newest", code=13).output
    shutil.rmtree("data/keyring")
    shutil.copytree("newest/keyring", "data/keyring")
    run("recover", "from", "newest")
    assert told("status")["studies"] == 2


def test_the_remedy_by_accepting_the_loss(archive: Path) -> None:
    roll_back(archive)
    left = told("recover", "show", code=1)["records"]
    assert f"{left} records are left, not 1" in run("recover", "accept-loss", "--to", "1", code=12).output
    run("recover", "accept-loss", "--to", str(left))
    (event,) = events(archive)
    assert isinstance(event, LossAccepted)
    assert event.left.records == left
    assert "nothing is lost" in run("recover", "accept-loss", "--to", str(left), code=12).output
    run("put", "files")
    assert run("verify", "--since", "new/checkpoints/latest", code=1).output.count("not those that were signed") == 1


def test_a_repair_without_the_key_is_recorded_when_the_key_is_there(archive: Path) -> None:
    segment = archive / "segments" / "00000001.seg"
    good = segment.read_bytes()
    flip(segment, HEADER.size + 1000)
    run("verify", code=1)
    key = archive.with_suffix(".key")
    key.rename("elsewhere")
    assert "is written when the archive is next opened" in run("repair", "--from", "new").output
    assert segment.read_bytes() == good
    assert (archive / "pending.json").exists()
    run("verify")
    Path("elsewhere").rename(key)
    run("put", "files")
    (event,) = events(archive)
    assert isinstance(event, SegmentRepaired)
    assert event.segment == 1
    assert not (archive / "pending.json").exists()


def test_a_repair_as_json_and_what_is_left(archive: Path) -> None:
    segment = archive / "segments" / "00000001.seg"
    flip(segment, HEADER.size + 165)
    flip(segment, HEADER.size + 1000)
    assert told("repair", "--from", "new", "1", code=1)["findings"]
    outcome = told("repair", "--from", "new")
    assert (outcome["findings"], outcome["recorded"]) == ([], True)
    assert [event.taken_records for event in events(archive) if isinstance(event, SegmentRepaired)] == [(1,), (0,)]


def test_nobody_recovers_or_repairs_under_a_running_server(archive: Path) -> None:
    with Server(load_config(Path("coffer.toml"))):
        for command in ("repair --from new", "recover from new", "recover accept-loss --to 1"):
            assert "is being written by" in run(*command.split(), code=7).output
        assert json.loads(run("recover", "show", "--json").stdout)["complaint"] is None
