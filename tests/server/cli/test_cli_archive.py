"""The command line on a real archive: make it, fill it, ask it, take from it, check it; and beside a running server."""

import copy
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset

from coffer.server.access.principal import Principal
from coffer.server.cli import main
from coffer.server.config.load import load_config
from coffer.server.engine.opening import open_writer
from coffer.server.keyops import settlement_job
from coffer.server.main.demo import encoded, sample_study
from coffer.server.main.service import Server
from coffer.server.services.api import StoreRequest
from coffer.server.services.importing import Importer, Outcome
from coffer.server.services.part10 import Part10, header_bytes
from tests.server.filled import free_port
from tests.services import services

COFFER = Path(sys.executable).with_name("coffer")
STUDY = sample_study()
UID = str(STUDY[0].StudyInstanceUID)


def run(*args: str, code: int = 0) -> Result:
    done = CliRunner().invoke(main, args, env={"COFFER_ARCHIVE": "", "COFFER_CONFIG": ""})
    assert done.exit_code == code, done.output
    return done


def told(*args: str, code: int = 0) -> dict[str, object]:
    value = json.loads(run(*args, "--json", code=code).stdout)
    assert isinstance(value, dict)
    return value


def part10(ds: Dataset) -> bytes:
    """The data set as a file."""
    uids = str(ds.SOPClassUID), str(ds.SOPInstanceUID), "1.2.840.10008.1.2.1"
    return header_bytes(Part10(*uids, preamble=b"", file_meta=b"", start=0), "TESTER") + encoded(ds)


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty archive in the current folder, with ports of its own."""
    monkeypatch.chdir(tmp_path)
    Path("coffer.toml").write_text(
        f"archive = 'data'\n[dimse]\nport = {free_port()}\n[http]\nport = {free_port()}\n[storage]\nreserve_bytes = 0\n"
    )
    run("init", "--yes-same-disk")
    return tmp_path / "data"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The sample study as Part 10 files in a folder, beside things that are no DICOM."""
    folder = tmp_path / "files"
    (folder / "deep").mkdir(parents=True)
    for number, ds in enumerate(STUDY):
        (folder / "deep" / f"{number}.dcm").write_bytes(part10(ds))
    (folder / "README.txt").write_text("nothing of interest")
    return folder


def data_sets(folder: Path) -> list[bytes]:
    found = []
    for path in sorted(folder.rglob("*.dcm")):
        content = path.read_bytes()
        assert content[128:132] == b"DICM"
        found.append(content[content.index(b"\x08\x00\x08\x00CS") :])
    return found


def test_init_says_where_the_key_file_is_and_never_runs_twice(archive: Path) -> None:
    key = archive.with_name("data.key")
    assert key.stat().st_mode & 0o777 == 0o600
    before = key.read_bytes()
    done = run("init", "--yes-same-disk", code=11)
    assert done.stderr.startswith("error: ")
    assert "remedy: " in done.stderr
    assert key.read_bytes() == before
    elsewhere = told("--archive", "other", "init", "--yes-same-disk")
    assert elsewhere["key_file_made"] is True
    assert Path(str(elsewhere["key_file"])).exists()
    assert "you lose every object" in run("init", "--archive", "third", "--yes-same-disk").stdout


def test_put_reports_everything_and_stores_nothing_twice(archive: Path, files: Path) -> None:
    (files / "empty").write_bytes(b"")
    first = told("put", str(files), code=12)  # an empty file may have been an object
    assert (first["stored"], first["duplicate"], first["ignored"], first["skipped"], first["failed"]) == (3, 0, 1, 1, 0)
    reasons = {Path(f["path"]).name: f["reason"] for f in first["not_stored"]}  # type: ignore[attr-defined]
    assert reasons == {"README.txt": "not DICOM", "empty": "empty file"}
    (files / "empty").unlink()
    again = run("put", str(files)).stdout
    assert "0 stored, 3 duplicate, 1 ignored, 0 skipped, 0 failed" in again
    assert "ignored: not DICOM (1)" in again
    assert told("status")["objects"] == 3
    only = run("put", str(files / "README.txt"), code=5)
    assert "error: no DICOM was found" in only.stderr


def test_what_was_put_comes_out_bit_for_bit(archive: Path, files: Path, tmp_path: Path) -> None:
    run("put", str(files))
    done = told("get", "--study", UID, "--out", "out")
    assert (done["written"], done["existed"], done["failed"]) == (3, 0, [])
    assert sorted(data_sets(tmp_path / "out")) == sorted(encoded(ds) for ds in STUDY)
    for ds in STUDY:
        path = tmp_path / "out" / UID / str(ds.SeriesInstanceUID) / f"{ds.SOPInstanceUID}.dcm"
        assert path.is_file()
    again = told("get", "--study", UID, "--out", "out")
    assert (again["written"], again["existed"]) == (0, 3)
    assert not list((tmp_path / "out").rglob(".*"))
    one = told("get", "--instance", str(STUDY[1].SOPInstanceUID), "--out", "one")
    assert one["written"] == 1
    missing = run("get", "--study", "1.2.3", "--out", "none", code=5)
    assert missing.stderr.startswith("error: the archive has no such object\nremedy: ")
    assert not Path("none").exists()


def test_another_object_with_the_same_uids_was_not_there(archive: Path, tmp_path: Path) -> None:
    mine, others = STUDY[0], copy.deepcopy(STUDY[0])
    others.PatientID = "ANOTHER"
    for ds in (mine, others):
        (tmp_path / "in.dcm").write_bytes(part10(ds))
        run("put", str(tmp_path / "in.dcm"))
        for expected in ((1, 0), (0, 1)):
            done = told("get", "--study", UID, "--out", "out")
            assert (done["written"], done["existed"], done["failed"]) == (*expected, [])
    assert sorted(data_sets(tmp_path / "out")) == sorted(encoded(ds) for ds in (mine, others))
    names = {path.name for path in (tmp_path / "out").rglob("*.dcm")}
    assert names == {f"{mine.SOPInstanceUID}.dcm", f"{mine.SOPInstanceUID}.other-2.dcm"}


def test_studies_whose_uids_name_no_folder_do_not_share_one(archive: Path, tmp_path: Path) -> None:
    for number, uid in enumerate(("../../x", "../../y")):
        ds = copy.deepcopy(STUDY[0])
        ds["StudyInstanceUID"] = DataElement(0x0020000D, "UI", uid, validation_mode=0)
        ds.PatientID = f"P{number}"
        (tmp_path / "in.dcm").write_bytes(part10(ds))
        run("put", str(tmp_path / "in.dcm"))
        done = told("get", "--study", uid, "--out", "out")
        assert (done["written"], done["existed"]) == (1, 0)
    written = list((tmp_path / "out").rglob("*.dcm"))
    assert len(written) == 2
    folders = {path.relative_to(tmp_path / "out").parts[0] for path in written}
    assert len(folders) == 2
    assert all(re.fullmatch("study-[0-9a-f]{16}", folder) for folder in folders)


def test_files_without_file_meta_and_with_a_wrong_one_go_in(archive: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.dcm"
    bare.write_bytes(encoded(STUDY[0]))
    wrong = tmp_path / "wrong.dcm"
    content = part10(STUDY[1])
    name = str(STUDY[1].SOPInstanceUID).encode()
    assert content.count(name) == 2
    wrong.write_bytes(content.replace(name, name[:-1] + (b"1" if name[-1:] != b"1" else b"2"), 1))
    assert told("put", str(bare), str(wrong))["stored"] == 2
    run("get", "--study", UID, "--out", "out")
    assert sorted(data_sets(tmp_path / "out")) == sorted(encoded(ds) for ds in STUDY[:2])


def test_find_in_a_table_and_as_json(archive: Path, files: Path) -> None:
    run("put", str(files))
    (row,) = json.loads(run("find", "PatientName=phan*", "StudyDate=20240101-20241231", "--json").stdout)
    assert row["StudyInstanceUID"] == UID
    assert row["PatientName"] == "Phantom^Water"
    assert row["ModalitiesInStudy"] == ["CT"]
    table = run("find").stdout.splitlines()
    assert table[0].startswith("PatientName\tPatientID")
    assert len(table) == 2
    assert json.loads(run("find", "StudyDate=-20231231", "--json").stdout) == []
    (row,) = json.loads(run("find", "(0010,0020)=DEMO-1", "--return", "PatientID", "--json").stdout)
    assert row["PatientID"] == "DEMO-1"
    series = json.loads(run("find", "--level", "series", f"StudyInstanceUID={UID}", "--json").stdout)
    assert [s["Modality"] for s in series] == ["CT"]
    deep = (f"StudyInstanceUID={UID}", f"SeriesInstanceUID={series[0]['SeriesInstanceUID']}")
    images = json.loads(run("find", "--level", "instance", *deep, "--json").stdout)
    assert sorted(i["InstanceNumber"] for i in images) == ["1", "2", "3"]
    assert len(json.loads(run("find", "--level", "instance", *deep, "--limit", "2", "--json").stdout)) == 2
    (patient,) = json.loads(run("find", "--level", "patient", "PatientID=*", "--json").stdout)
    assert patient["PatientID"] == "DEMO-1"


def test_status_verify_keys_and_rebuild(archive: Path, files: Path) -> None:
    run("put", str(files))
    status = told("status")
    assert (status["studies"], status["series"], status["objects"], status["key_epoch"]) == (1, 1, 3, 1)
    assert status["bytes_received"] == sum(len(encoded(ds)) for ds in STUDY)
    assert 0 < float(str(status["ratio"])) < 1
    assert "key epoch" in run("status").stdout
    (epoch,) = json.loads(run("keys", "list", "--json").stdout)["epochs"]
    assert epoch["epoch"] == 1
    before = run("find", "--json").stdout
    assert told("index", "rebuild")["objects"] == 3
    assert run("find", "--json").stdout == before
    archive.with_name("data.key").rename(archive.with_name("away"))
    checked = told("verify")
    assert checked["findings"] == []
    assert int(str(checked["records"])) >= 3
    done = run("status", code=8)
    assert "data.key" in done.stderr
    segment = min((archive / "segments").iterdir())
    content = bytearray(segment.read_bytes())
    content[len(content) // 2] ^= 1
    segment.write_bytes(content)
    assert told("verify", code=1)["findings"]
    assert segment.name in run("verify", code=1).stdout


@pytest.fixture
def serving(archive: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`coffer serve` on the archive, ready."""
    port = load_config(tmp_path / "coffer.toml").http.port
    keep = {k: v for k, v in os.environ.items() if not k.startswith("COFFER_")}
    process = subprocess.Popen(
        [str(COFFER), "serve"], cwd=tmp_path, env=keep, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=2):
                break
        except OSError:
            assert process.poll() is None, process.stdout and process.stdout.read()
            time.sleep(0.05)
    yield process
    if process.poll() is None:
        process.kill()
    process.wait()


def test_readers_work_beside_a_server_and_writers_are_told_who_holds_it(
    serving: subprocess.Popen[str], files: Path
) -> None:
    assert told("status")["objects"] == 0
    assert json.loads(run("find", "--json").stdout) == []
    assert told("verify")["findings"] == []
    for command in (("put", str(files)), ("index", "rebuild")):
        done = run(*command, code=7)
        assert str(serving.pid) in done.stderr
        assert len(done.stderr.splitlines()) == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_server_ends_cleanly_on_a_signal(serving: subprocess.Popen[str], number: int) -> None:
    serving.send_signal(number)
    output, _ = serving.communicate(timeout=60)
    assert serving.returncode == 0, output
    assert "serving" in output
    assert "stopped" in output
    assert "Traceback" not in output


def test_a_taken_port_is_told_in_two_lines(serving: subprocess.Popen[str], tmp_path: Path) -> None:
    config = Path("coffer.toml").read_text().replace("'data'", "'second'")
    Path("second.toml").write_text(config)
    run("--config", "second.toml", "init", "--yes-same-disk")
    done = subprocess.run([str(COFFER), "--config", "second.toml", "serve"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 11
    assert "error: cannot listen" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_demonstration_twice(tmp_path: Path) -> None:
    (tmp_path / "archive-data").mkdir()
    config = f"[dimse]\nport = {free_port()}\n[http]\nport = {free_port()}\n"
    (tmp_path / "coffer.toml").write_text("archive = 'archive-data'\n" + config)
    (tmp_path / "archive-data").rmdir()
    outputs = []
    for _ in range(2):
        done = subprocess.run(
            [str(COFFER), "demo", "--once"], capture_output=True, text=True, cwd=tmp_path, timeout=120
        )
        assert done.returncode == 0, done.stdout + done.stderr
        outputs.append(done.stdout)
    assert "(new)" in outputs[0]
    assert "If you lose it, you lose every stored object" in outputs[0]
    assert "each identical to what was sent" in outputs[0]
    assert "(existing)" in outputs[1]
    assert "stored once" in outputs[1]


def test_objects_in_no_study_are_counted_listed_and_hinted_at(archive: Path, files: Path, tmp_path: Path) -> None:
    lone = copy.deepcopy(STUDY[0])
    del lone.StudyInstanceUID
    lone.SOPInstanceUID = "1.2.3.9.1"
    (tmp_path / "lone.dcm").write_bytes(part10(lone))
    run("put", str(files), str(tmp_path / "lone.dcm"))
    status = told("status", "--list")
    assert (status["studies"], status["objects"], status["without_study"]) == (1, 4, 1)
    assert status["objects_in_no_study"] == [{"sop_instance": "1.2.3.9.1"}]
    assert re.search(r"^in no study +1 objects: coffer status --list$", run("status").stdout, re.MULTILINE)
    for command in (("versions", "9.9"), ("shred", "--instance", "9.9", "--dry-run"), ("get", "--instance", "9.9")):
        missing = run(*command, code=5)
        assert "coffer status --list" in missing.stderr
        assert "--level instance" not in missing.stderr
    run("shred", "--instance", "1.2.3.9.1", "--reason", "a test", "--yes")
    assert told("status")["without_study"] == 0
    assert told("status", "--list")["objects_in_no_study"] == []


@pytest.mark.parametrize("name", ["1.2.3.*", "1.2.3.?"])
def test_a_uid_with_a_wildcard_is_addressed_exactly(archive: Path, tmp_path: Path, name: str) -> None:
    odd, beside = copy.deepcopy(STUDY[0]), copy.deepcopy(STUDY[0])
    with open_writer(load_config(tmp_path / "coffer.toml")) as engine:
        for ds, uid in ((odd, name), (beside, "1.2.3.4")):
            for tag in (0x00080018, 0x0020000D):
                ds[tag] = DataElement(tag, "UI", uid, validation_mode=0)
            request = StoreRequest(str(ds.SOPClassUID), uid, "1.2.840.10008.1.2.1", Principal.peer("TESTER"))
            reception = services(engine).ingest.begin(request)
            reception.write(encoded(ds))
            assert reception.finish().error is None
    for option in ("--instance", "--study"):
        assert told("get", option, name, "--out", f"out{option}")["written"] == 1
        assert data_sets(tmp_path / f"out{option}") == [encoded(odd)]
    (version,) = json.loads(run("versions", name, "--json").stdout)
    assert version["study"] == name
    run("shred", name, "--reason", "a test", "--yes")
    assert run("versions", name, code=5)
    assert told("get", "--study", "1.2.3.4", "--out", "left")["written"] == 1


def test_status_names_what_needs_a_look(archive: Path, tmp_path: Path) -> None:
    other = copy.deepcopy(STUDY[0])
    other.StudyDescription = "Changed"
    (tmp_path / "one.dcm").write_bytes(part10(STUDY[0]))
    (tmp_path / "two.dcm").write_bytes(part10(other))
    broken = part10(STUDY[1])
    (tmp_path / "three.dcm").write_bytes(broken[: broken.index(b"Phantom^Water") - 4] + b"\xff\xff" + b"cut")
    for name in ("one", "two", "three"):
        assert told("put", f"{name}.dcm")["stored"] == 1
    status = told("status", "--list")
    assert (status["objects"], status["conflicts"], status["unindexed"]) == (3, 1, 1)
    (conflict,) = status["conflicting_instances"]  # type: ignore[misc]
    assert (conflict["sop_instance"], len(conflict["records"])) == (str(STUDY[0].SOPInstanceUID), 2)
    (unread,) = status["unindexed_objects"]  # type: ignore[misc]
    assert unread["sop_instance"] == str(STUDY[1].SOPInstanceUID)
    assert str(STUDY[1].SOPInstanceUID) in run("status", "--list").stdout
    assert told("get", "--instance", str(STUDY[1].SOPInstanceUID), "--out", "back")["written"] == 1
    assert told("get", "--instance", str(STUDY[0].SOPInstanceUID), "--out", "back")["written"] == 1
    assert encoded(other) in [*data_sets(tmp_path / "back")]


def test_checkpoints_are_signed_while_it_serves(
    archive: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settlement_job, "_CHECKPOINT_SECONDS", 0.01)
    with Server(load_config(tmp_path / "coffer.toml")) as server:
        before = server.services.archive.log.signed_size
        importer = Importer(server.services, Principal.peer("TESTER"))
        for path in sorted(files.rglob("*.dcm")):
            assert importer.put(path).outcome is Outcome.STORED
        signed = server.services.archive.log.next_seq

        def stop_when_signed() -> None:
            while server.services.archive.log.signed_size < signed:
                time.sleep(0.01)
            server.stop()

        watcher = threading.Thread(target=stop_when_signed)
        watcher.start()
        server.wait()
        watcher.join()
        assert before < signed == server.services.archive.log.signed_size
    assert told("verify")["signed_records"] == signed
