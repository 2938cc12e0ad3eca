"""Real trouble raises its alert in a real Prometheus: with the rules of the page, without their waiting times."""

import json
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import absent
from tests.peers.coffer_process import CofferProcess, free_port
from tests.peers.dicom_client import noisy, store

RULES = Path(__file__).parents[2] / "docs/operations/deploy/monitoring/alerts.yml"
SECONDS = 90.0


def with_a_full_disk(coffer: CofferProcess) -> None:
    coffer.write_config(f"[storage]\nreserve_bytes = {1 << 44}\n")
    coffer.start(until=coffer.answers)


def with_a_stopped_writer(coffer: CofferProcess) -> None:
    coffer.start()
    keyring = coffer.archive / "keyring" / "data.mdb"
    keyring.rename(keyring.with_name("kept"))
    shutil.copyfile(keyring.with_name("kept"), keyring)
    store(coffer.port, [noisy(1, 100)])


def with_a_lost_key(coffer: CofferProcess) -> None:
    coffer.start()
    coffer.key_file.rename(coffer.key_file.with_name("elsewhere"))


def with_a_cut_log(coffer: CofferProcess) -> None:
    coffer.start()
    store(coffer.port, [noisy(number, 100) for number in range(3)])
    coffer.stop()
    segment = coffer.archive / "segments" / "00000001.seg"
    segment.with_name("whole").write_bytes(segment.read_bytes())
    with segment.open("r+b") as file:
        file.truncate(segment.stat().st_size // 2)
    coffer.start(until=coffer.answers)


TROUBLE = {
    "CofferVolumeFull": with_a_full_disk,
    "CofferWriterStopped": with_a_stopped_writer,
    "CofferKeyLost": with_a_lost_key,
    "CofferHistoryRefused": with_a_cut_log,
}


@pytest.fixture
def coffers(tmp_path: Path) -> Iterator[dict[str, CofferProcess]]:
    """An archive for each trouble; they are left broken, so that none is verified at the end."""
    made = {}
    for name in TROUBLE:
        base = tmp_path / name
        base.mkdir()
        made[name] = CofferProcess(base)
        made[name].write_config()
        made[name].init()
    yield made
    for coffer in made.values():
        coffer.kill()


@pytest.fixture
def firing(coffers: dict[str, CofferProcess], tmp_path: Path) -> Iterator[Callable[[], set[tuple[str, str]]]]:
    """A Prometheus that scrapes them each second; asks it which alerts fire, by name and instance."""
    program = shutil.which("prometheus", path="/usr/bin:/usr/local/bin")
    if program is None:
        absent("prometheus is not installed: apt install prometheus")
    (tmp_path / "alerts.yml").write_text(re.sub(r"for: \w+", "for: 0s", RULES.read_text()))
    targets = [
        {"targets": [f"127.0.0.1:{coffer.http}"], "labels": {"instance": name}} for name, coffer in coffers.items()
    ]
    settings = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": ["alerts.yml"],
        "scrape_configs": [{"job_name": "coffer", "static_configs": targets}],
    }
    (tmp_path / "prometheus.yml").write_text(json.dumps(settings))  # JSON is YAML
    port = free_port()
    with (tmp_path / "prometheus.log").open("wb") as log, subprocess.Popen(
        [program, "--config.file=prometheus.yml", "--storage.tsdb.path=tsdb", f"--web.listen-address=127.0.0.1:{port}"],
        cwd=tmp_path, stdout=log, stderr=log,
    ) as process:  # fmt: skip

        def ask() -> set[tuple[str, str]]:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/alerts", timeout=10) as answer:
                    found = json.load(answer)["data"]["alerts"]
            except OSError:
                return set()
            labels = [each["labels"] for each in found if each["state"] == "firing"]
            return {(each["alertname"], each["instance"]) for each in labels}

        yield ask
        process.terminate()


@pytest.mark.timeout(300)
def test_each_trouble_raises_its_alert_and_no_other_page_of_its_kind(
    coffers: dict[str, CofferProcess], firing: Callable[[], set[tuple[str, str]]]
) -> None:
    for name, coffer in coffers.items():
        TROUBLE[name](coffer)
    expected = {(name, name) for name in TROUBLE}
    deadline = time.monotonic() + SECONDS
    while not expected <= (now := firing()):
        assert time.monotonic() < deadline, f"{expected - now} of {now}"
        time.sleep(0.5)
    assert {(name, where) for name, where in firing() if name in TROUBLE} == expected
