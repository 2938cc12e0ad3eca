"""A server whose key provider goes away, comes back, loses the key, or is not there at the start."""

import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from coffer.archive.verify.verify import Verifier
from coffer.keys.errors import ConfigError, KeyUnavailableError, UnavailableError
from coffer.server.config.providers import AwsKms, Pkcs11
from coffer.server.config.settings import (
    Config,
    Dimse,
    Http,
    Keys,
)
from coffer.server.dimse.protocol.negotiation import EXPLICIT_LE, Offer
from coffer.server.dimse.protocol.requestor import Requestor
from coffer.server.engine.create import create_archive
from coffer.server.engine.opening import open_reading, open_writer
from coffer.server.main.demo import encoded, sample_study
from coffer.server.main.service import Server
from tests.keys import softhsm
from tests.keys.kms_server import kms_server
from tests.keys.softhsm import SoftHsm
from tests.server.filled import free_port

CT = "1.2.840.10008.5.1.4.1.1.2"
OUT_OF_RESOURCES = 0xA700


def config_of(tmp_path: Path, keys: Keys) -> Config:
    return Config(
        archive=tmp_path / "archive",
        dimse=Dimse(port=free_port(), processes=1),
        http=Http(port=free_port()),
        keys=keys,
    )


@pytest.fixture
def hsm(tmp_path: Path) -> SoftHsm:
    return softhsm.make(tmp_path / "hsm")


@pytest.fixture
def on_hsm(tmp_path: Path, hsm: SoftHsm) -> Iterator[Config]:
    pin = tmp_path / "pin"
    pin.write_text(softhsm.PIN + "\n")
    pin.chmod(0o600)
    settings = Pkcs11(module=hsm.module, token=softhsm.LABEL, pin_file=pin)
    keys = Keys(provider="pkcs11", pkcs11=settings, check_seconds=0.1, wait_seconds=20)
    config = config_of(tmp_path, keys)
    create_archive(config)
    yield config
    check(config)


def check(config: Config) -> None:
    """Verify the whole archive, every object opened."""
    with open_writer(config) as engine:
        assert not list(Verifier(engine.folder).findings())
        for study in engine.index.query("STUDY", {0x0020000D: ()}, "study"):
            for found in engine.index.locate({0x0020000D: (str(study[0x0020000D][0]),)}):
                for version in found.versions:
                    with engine.open_body(found.study_key_id, version) as body:
                        assert sum(len(chunk) for chunk in body.chunks()) > 0  # and checks the SHA-256


def store(config: Config, number: int) -> int:
    ds = sample_study()[number]
    with Requestor("127.0.0.1", config.dimse.port, "TESTER", "COFFER", [Offer(1, CT, (EXPLICIT_LE,))], 10.0) as peer:
        return peer.store(peer.contexts[1], ds.SOPInstanceUID, [encoded(ds)])


def page(config: Config, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{config.http.port}/{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def ready(config: Config) -> tuple[int, dict[str, Any]]:
    status, text = page(config, "readyz")
    return status, json.loads(text)


def wait_for(done: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_an_hsm_that_is_away_degrades_and_nothing_else(on_hsm: Config, hsm: SoftHsm) -> None:
    with Server(on_hsm) as server:
        assert ready(on_hsm) == (200, {"ready": True, "reasons": [], "degraded": []})
        assert "coffer_key_provider_up 1.0" in page(on_hsm, "metrics")[1]
        assert store(on_hsm, 0) == 0
        with hsm.away():
            wait_for(lambda: bool(ready(on_hsm)[1]["degraded"]), "degraded")
            status, told = ready(on_hsm)
            assert (status, told["ready"]) == (200, True)
            assert "stores continue" in told["degraded"][0]
            assert 'token "archive"' in told["degraded"][0]
            assert "coffer_key_provider_up 0.0" in page(on_hsm, "metrics")[1]
            assert store(on_hsm, 1) == 0
        wait_for(lambda: not ready(on_hsm)[1]["degraded"], "well again")
        assert store(on_hsm, 2) == 0
        assert server.services.archive.stats().objects == 3


# A search that dies with its session cannot be ended in the library's destructor either.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_key_that_is_gone_stops_stores_until_it_is_back(on_hsm: Config, hsm: SoftHsm, tmp_path: Path) -> None:
    with Server(on_hsm) as server:
        assert store(on_hsm, 0) == 0
        (found,) = (tmp_path / "hsm" / "tokens").iterdir()
        objects = {path: path.read_bytes() for path in found.glob("*.object")}
        archive_id = server.services.archive.folder.archive_id
        hsm.provider(archive_id=archive_id).destroy_epoch(1)
        wait_for(lambda: ready(on_hsm)[0] == 503, "not ready")
        reasons = ready(on_hsm)[1]["reasons"]
        assert "could not be opened after a restart" in reasons[0]
        assert "holds no key for epoch 1" in reasons[0]
        before = server.services.archive.log.next_seq
        assert store(on_hsm, 1) == OUT_OF_RESOURCES
        assert server.services.archive.log.next_seq == before
        assert len(list(server.services.archive.index.query("STUDY", {0x0020000D: ()}, "study"))) == 1
        for path, data in objects.items():  # the HSM's own backup
            path.write_bytes(data)
        hsm.restart()
        wait_for(lambda: ready(on_hsm)[0] == 200, "ready again")
        assert store(on_hsm, 1) == 0


def test_a_key_file_that_is_gone_stops_stores_until_it_is_back(tmp_path: Path) -> None:
    config = config_of(tmp_path, Keys(key_file=tmp_path / "key", check_seconds=0.1))
    create_archive(config)
    with Server(config):
        for harm in (lambda key: key.rename(tmp_path / "away"), lambda key: key.write_bytes(b"CofferKF damaged")):
            copy = (tmp_path / "key").read_bytes()
            harm(tmp_path / "key")
            wait_for(lambda: ready(config)[0] == 503, "not ready")
            assert store(config, 0) == OUT_OF_RESOURCES
            (tmp_path / "key").write_bytes(copy)
            (tmp_path / "key").chmod(0o600)
            wait_for(lambda: ready(config)[0] == 200, "ready again")
            assert store(config, 0) == 0
        (tmp_path / "key").chmod(0o644)  # a mistake that costs nothing yet
        wait_for(lambda: bool(ready(config)[1]["degraded"]), "degraded")
        assert "open to others" in ready(config)[1]["degraded"][0]
        assert store(config, 1) == 0
        (tmp_path / "key").chmod(0o600)
    check(config)


def test_a_start_waits_for_the_hsm_and_says_so(on_hsm: Config, hsm: SoftHsm) -> None:
    failures: list[BaseException] = []
    serving, end = threading.Event(), threading.Event()

    def run() -> None:
        try:
            with Server(on_hsm):
                serving.set()
                end.wait(30)
        except BaseException as error:  # noqa: BLE001  told below
            failures.append(error)

    thread = threading.Thread(target=run)

    def waits() -> bool:
        with suppress(OSError):
            status, told = ready(on_hsm)
            return status == 503 and "waiting for the key provider" in told["reasons"][0]
        return False

    with hsm.away():
        thread.start()
        wait_for(waits, "waiting")
        assert not serving.is_set()
    assert serving.wait(20), failures
    assert ready(on_hsm)[0] == 200
    assert store(on_hsm, 0) == 0
    end.set()
    thread.join(20)
    assert not failures


def test_a_start_gives_up_with_exit_code_6_and_a_wrong_pin_at_once(
    on_hsm: Config, hsm: SoftHsm, tmp_path: Path
) -> None:
    file = tmp_path / "coffer.toml"
    keys = on_hsm.keys
    file.write_text(
        f'archive = "{on_hsm.archive}"\n[http]\nenabled = false\n[dimse]\nport = {free_port()}\n'
        f'[keys]\nprovider = "pkcs11"\nwait_seconds = 2.5\n[keys.pkcs11]\nmodule = "{keys.pkcs11.module}"\n'
        f'token = "archive"\npin_env = "HSM_PIN"\n'
    )

    def serve(pin: str) -> tuple[subprocess.CompletedProcess[str], float]:
        began = time.monotonic()
        command = [sys.executable, "-c", "from coffer.server.cli import main; main()", "--config", str(file), "serve"]
        environment = {**os.environ, "HSM_PIN": pin}
        return (
            subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60),
            time.monotonic() - began,
        )

    with hsm.away():
        done, seconds = serve(softhsm.PIN)
    assert done.returncode == UnavailableError.exit_code == 6, done.stderr
    assert seconds >= 2.5
    assert "waiting for the key provider" in done.stderr
    assert "remedy:" in done.stderr
    done, _ = serve("0000")
    assert done.returncode == ConfigError.exit_code, done.stderr
    assert "refuses the PIN" in done.stderr
    assert "waiting" not in done.stderr
    assert "0000" not in done.stderr


def test_aws_kms_that_is_away_throttles_or_deletes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with kms_server() as kms:
        settings = AwsKms(region="eu-central-1", endpoint=kms.url, timeout_seconds=0.3)
        keys = Keys(provider="aws-kms", aws=settings, check_seconds=0.2, wait_seconds=0)
        config = config_of(tmp_path, keys)
        create_archive(config)
        with Server(config) as server:
            assert store(config, 0) == 0
            for number, fault in enumerate(
                ("hang", "ThrottlingException", "AccessDeniedException", "DisabledException")
            ):
                kms.always = fault
                wait_for(lambda: bool(ready(config)[1]["degraded"]), fault)
                assert ready(config)[0] == 200
                assert store(config, number % 3) == 0
                kms.always = ""
                wait_for(lambda: not ready(config)[1]["degraded"], f"well after {fault}")
            kms.always = "ThrottlingException"
            archive_id = server.services.archive.folder.archive_id
        with pytest.raises(UnavailableError, match="ThrottlingException"):
            open_reading(config)
        kms.always = ""
        check(config)
        from coffer.keys.providers.aws_kms import KmsProvider, connect

        KmsProvider(archive_id, connect("eu-central-1", kms.url, 5.0), 7).destroy_epoch(1)
        with pytest.raises(KeyUnavailableError, match="waits for its deletion"):
            open_reading(config)
