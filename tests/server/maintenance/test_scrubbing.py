"""The server scrubs in the background: what it finds is logged, counted, shown, answered and mended."""

import json
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from coffer.archive.format.segment import HEADER
from coffer.archive.verify.findings import FindingStore
from coffer.archive.verify.report import Finding
from coffer.archive.verify.scrub import ScrubStep
from coffer.server.config.load import load_config
from coffer.server.engine.opening import open_reading
from coffer.server.main.service import Server
from coffer.server.maintenance.acknowledged import FOREIGN
from coffer.server.maintenance.index_job import IndexJob
from coffer.server.maintenance.scrub_job import ScrubJob
from coffer.server.observe.metrics import Metrics
from tests.server.filled import flip, free_port, job_of, run, study_files, told

COFFER = Path(sys.executable).with_name("coffer")
QUICK = 1e-7  # days: a pass takes 10 ms


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An archive of one study and a copy of it; the scrub is quick."""
    monkeypatch.chdir(tmp_path)
    write_config(QUICK)
    run("init")
    run("put", *map(str, study_files(tmp_path / "files")))
    shutil.copytree("data", "copy")
    yield tmp_path / "data"
    run("verify")


def write_config(days: float) -> None:
    ports = f"[dimse]\nport = {free_port()}\nprocesses = 1\n[http]\nport = {free_port()}\n"
    Path("coffer.toml").write_text(f"archive = 'data'\n[storage]\nreserve_bytes = 0\nscrub_days = {days:.9f}\n{ports}")


def beside(*words: str, code: int = 0) -> str:
    """What a command prints that runs in a process of its own, as beside a server."""
    done = subprocess.run([COFFER, *words], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def test_a_server_whose_keyring_was_replaced_stores_nothing_and_status_says_so(archive: Path) -> None:
    write_config(0)
    with Server(load_config(Path("coffer.toml"))) as server:
        assert json.loads(beside("status", "--json"))["refused"] is None
        data = archive / "keyring" / "data.mdb"
        shutil.copy(data, "copied")
        Path("copied").replace(data)
        (reason,) = server.reasons()
        assert "was replaced or removed while it was in use" in reason
        refused = json.loads(beside("status", "--json"))["refused"]
        assert refused["cause"] == reason
        assert "start it again" in refused["remedy"]
    with Server(load_config(Path("coffer.toml"))) as server:
        assert server.reasons() == []


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    stop = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < stop
        time.sleep(0.1)  # a page may be asked for 20 times a second


def page(server: Server, path: str) -> str:
    host, port = server.http_address
    with urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=10) as answer:
        assert answer.status == 200
        return str(answer.read().decode())


def metric(server: Server, name: str) -> float:
    (line,) = (row for row in page(server, "/metrics").splitlines() if row.startswith(name + " "))
    return float(line.split()[1])


def test_a_clean_archive_is_read_again_and_again(archive: Path) -> None:
    with Server(load_config(Path("coffer.toml"))) as server:
        records = server.services.archive.log.next_seq
        until(lambda: metric(server, "coffer_scrub_records_total") >= 3 * records)
        assert metric(server, "coffer_scrub_findings") == 0
        assert metric(server, "coffer_scrub_oldest_unverified_seconds") < 20
        assert json.loads(page(server, "/readyz")) == {"ready": True, "reasons": [], "degraded": []}
    assert told("scrub", "show")["findings"] == []


def test_a_finding_stays_until_it_is_acknowledged_or_mended(archive: Path) -> None:
    flip(archive / "segments" / "00000001.seg", HEADER.size + 1000)
    with Server(load_config(Path("coffer.toml"))) as server:
        until(lambda: metric(server, "coffer_scrub_findings") == 1)
        (concern,) = json.loads(page(server, "/readyz"))["degraded"]
        assert concern == "1 findings of the scrub wait for an answer: coffer scrub show"
        assert "1 not acknowledged" in run("scrub", "show", code=1).output
        assert "there is no finding" in beside("scrub", "acknowledge", "9-9-abcdef", code=5)
        (planted,) = (replace(each, acknowledged_ms=9) for each in FindingStore(archive / "scrub").entries())
        (archive / "scrub" / f"{planted.name}.finding").write_bytes(planted.serialize())
        assert json.loads(page(server, "/readyz"))["degraded"] == [concern, f"1 {FOREIGN}"]
        assert metric(server, "coffer_scrub_findings") == 1
        assert "not acknowledged: what says so was written without the archive's key" in beside("scrub", "show", code=1)
        assert "1 findings are acknowledged" in beside("scrub", "acknowledge")
        assert json.loads(page(server, "/readyz"))["degraded"] == []
        before = metric(server, "coffer_scrub_records_total")
        until(lambda: metric(server, "coffer_scrub_records_total") > before + 20)
        assert metric(server, "coffer_scrub_findings") == 0
    (entry,) = told("scrub", "show")["findings"]  # type: ignore[misc]
    assert (entry["segment"], entry["what"]) == (1, "the body does not match its hash")
    assert told("status")["findings"] == 0
    run("repair", "--from", "copy")
    assert told("scrub", "show")["findings"] == []


def test_a_byte_among_the_findings_is_named_and_moved_away_as_told(archive: Path) -> None:
    """Anybody who writes the folder can write it: it stops no server, and nothing else is blamed."""
    planted = archive / "scrub" / "planted in 1.finding"
    planted.write_bytes(b"x")
    with Server(load_config(Path("coffer.toml"))) as server:
        until(lambda: server.services.archive.is_checked)
        (concern,) = (each for each in json.loads(page(server, "/readyz"))["degraded"] if "as a finding" in each)
        assert concern.startswith(f"{planted} cannot be read as a finding: mv ")
        assert job_of(server, IndexJob).concerns() == []
        assert metric(server, "coffer_index_altered") == 0
        command = concern.partition("finding: ")[2].partition(" and run")[0]
        subprocess.run(command, shell=True, check=True)
        assert not any("finding" in each for each in json.loads(page(server, "/readyz"))["degraded"])
    Path("/var/tmp/planted in 1.finding").unlink()
    assert told("scrub", "show")["findings"] == []


def test_what_was_found_outlives_a_restart_and_a_mended_segment_clears_it(archive: Path) -> None:
    segment = archive / "segments" / "00000001.seg"
    flip(segment, HEADER.size + 1000)
    with Server(load_config(Path("coffer.toml"))) as server:
        until(lambda: metric(server, "coffer_scrub_findings") == 1)
    assert told("status")["findings"] == 1
    write_config(30)
    with Server(load_config(Path("coffer.toml"))) as server:
        assert json.loads(page(server, "/readyz"))["degraded"]
    flip(segment, HEADER.size + 1000)
    write_config(QUICK)
    with Server(load_config(Path("coffer.toml"))) as server:
        until(lambda: not json.loads(page(server, "/readyz"))["degraded"])


def test_none_runs_where_it_is_off(archive: Path) -> None:
    write_config(0)
    with Server(load_config(Path("coffer.toml"))) as server:
        assert "coffer_scrub_findings" not in page(server, "/metrics")
    assert not (archive / "scrub" / "place.json").exists()


def test_a_long_pause_does_not_hold_up_the_end(archive: Path) -> None:
    write_config(3650)
    started = time.monotonic()
    with Server(load_config(Path("coffer.toml"))) as server:
        until(lambda: (archive / "scrub" / "place.json").exists() or server.services.archive.log.next_seq > 0)
    assert time.monotonic() - started < 15
    assert (archive / "scrub" / "place.json").exists()


def test_a_look_that_began_in_the_middle_clears_nothing(archive: Path) -> None:
    with open_reading(load_config(Path("coffer.toml"))) as engine:
        scrubbing = ScrubJob(engine, Metrics(), 30)
        scrubbing.findings.add(Finding(1, 96, 0, "the body does not match its hash"), 1)
        scrubbing._settle(ScrubStep(1, is_resumed=True))
        assert len(scrubbing.findings.open_entries()) == 1
        scrubbing._settle(ScrubStep(1))
        assert scrubbing.findings.open_entries() == []
