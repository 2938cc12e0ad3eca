"""Rotations on real archives and beside real servers: stopped, due, refused, on to another provider, without one."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import Result

from coffer.archive.event import Event
from coffer.archive.format.record import Kind
from coffer.archive.store.folder import ArchiveFolder
from coffer.keys.clock import clock_ms
from coffer.keys.keyring import rows
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.keyring.rows import EpochState
from coffer.server.config.settings import AwsKms, Config, Keys, Pkcs11
from coffer.server.engine.create import create_archive
from coffer.server.engine.opening import open_reading, open_writer
from coffer.server.engine.providers import provider_of
from coffer.server.keyops import epoch_job
from coffer.server.keyops.epoch_job import EpochJob
from coffer.server.main.service import Server
from tests.keys import softhsm
from tests.keys.kms_server import kms_server
from tests.keys.softhsm import SoftHsm
from tests.server.filled import job_of, run
from tests.server.test_key_provider import OUT_OF_RESOURCES, check, config_of, page, ready, store, wait_for

DAY_MS = 86_400_000
STOPPED = 77
ROTATION = Kind.KEYRING_ROTATED

HALF = """
import os, sys
from pathlib import Path
from coffer.keys.providers.key_file import KeyFileProvider
from coffer.keys.keyring.keyring import Keyring
ring = Keyring.open(Path(sys.argv[1]), KeyFileProvider(Path(sys.argv[2])))
ring.count() or ring.new_study()
ring.rotate(lambda *_: os._exit(77))
"""
PAST_THE_CHECK = """
import sys
from pathlib import Path
from coffer.archive.store.folder import ArchiveFolder
from coffer.keys.keyring.keyring import Keyring
from coffer.server.config.load import load_config
from coffer.server.engine.providers import provider_of
config = load_config(Path(sys.argv[1]), None)
folder = ArchiveFolder.open(config.archive)
Keyring.open(folder.keyring, provider_of(config.keys, folder.archive_id, "pkcs11")).rotate()
"""


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Config]:
    """An archive with a key file, and a coffer.toml beside it."""
    config = config_of(tmp_path, Keys(key_file=tmp_path / "key", check_seconds=0.1))
    create_archive(config)
    write(config)
    yield config
    check(config)


@pytest.fixture
def hsm(tmp_path: Path) -> SoftHsm:
    (tmp_path / "pin").write_text(softhsm.PIN + "\n")
    (tmp_path / "pin").chmod(0o600)
    return softhsm.make(tmp_path / "hsm")


def write(config: Config, *lines: str) -> Path:
    """The settings of the command line: the key file, and what stands in `lines`."""
    file = config.archive.parent / "coffer.toml"
    text = [f'archive = "{config.archive}"', "[http]", "enabled = false", "[keys]"]
    file.write_text("\n".join([*text, f'key_file = "{config.archive.parent / "key"}"', *lines]) + "\n")
    return file


def pkcs11(hsm: SoftHsm, *more: str) -> list[str]:
    """The lines that configure the token."""
    pin = hsm.folder.parent / "pin"
    return [*more, "[keys.pkcs11]", f'module = "{hsm.module}"', f'token = "{softhsm.LABEL}"', f'pin_file = "{pin}"']


def with_hsm(config: Config, hsm: SoftHsm, **more: object) -> Config:
    """The same archive with the token configured besides the key file."""
    settings = Pkcs11(module=hsm.module, token=softhsm.LABEL, pin_file=hsm.folder.parent / "pin")
    return msgspec.structs.replace(config, keys=msgspec.structs.replace(config.keys, pkcs11=settings, **more))


def coffer(config: Config, *args: str, code: int = 0) -> Result:
    """One command in this process, which has no terminal."""
    return run("--config", str(config.archive.parent / "coffer.toml"), *args, code=code)


def beside(config: Config, *args: str, code: int = 0) -> str:
    """One command in a process of its own, beside a server in this one; what it said."""
    file = str(config.archive.parent / "coffer.toml")
    command = [sys.executable, "-c", "from coffer.server.cli import main; main()", "--config", file, *args]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr if code else done.stdout


def told(config: Config, *args: str) -> Any:
    return json.loads(coffer(config, *args, "--json").stdout)


def keyring_of(config: Config) -> Keyring:
    folder = ArchiveFolder.open(config.archive)
    return Keyring.open(folder.keyring, provider_of(config.keys, folder.archive_id))


def leave_half_done(config: Config) -> None:
    """A rotation to the next epoch of the key file that dies when it has moved every key."""
    command = [sys.executable, "-c", HALF, str(config.archive / "keyring"), str(config.keys.key_file)]
    assert subprocess.run(command, timeout=60, cwd=Path(__file__).parents[2]).returncode == STOPPED


def make_older(config: Config, days: int) -> None:
    """Let the current epoch be so many days old; nothing authenticates that time."""
    ring = keyring_of(config)
    place = rows.epoch_row_key(ring.epoch)
    row = ring.row(place)
    assert row is not None
    ring.amend([(place, row[:24] + (clock_ms() - days * DAY_MS).to_bytes(8, "big") + row[32:])])
    ring.close()


def events(config: Config, *kinds: Kind) -> list[Event]:
    with open_writer(config) as engine:
        return [event for _, event in engine.events(frozenset(kinds))]


def value(config: Config, metric: str) -> float:
    """Of a metric; -1 while the archive does not answer for it yet."""
    found = [line for line in page(config, "metrics")[1].splitlines() if line.startswith(f"{metric} ")]
    return float(found[0].split()[1]) if found else -1.0


def epochs(listed: str) -> list[tuple[int, str, str, int]]:
    """Every epoch of `coffer keys list --json`: number, provider, state, study keys."""
    return [(e["epoch"], e["provider"], e["state"], e["study_keys"]) for e in json.loads(listed)["epochs"]]


def epochs_beside(config: Config) -> list[tuple[int, str, str, int]]:
    return epochs(beside(config, "keys", "list", "--json"))


def epochs_of(config: Config) -> list[tuple[int, str, str, int]]:
    return epochs(coffer(config, "keys", "list", "--json").stdout)


# A server by itself


def test_a_server_renews_an_old_epoch_by_itself(config: Config) -> None:
    make_older(config, 31)
    config = msgspec.structs.replace(config, keys=msgspec.structs.replace(config.keys, rotate_days=30))
    with Server(config):
        wait_for(lambda: value(config, "coffer_key_epoch") == 2, "rotated")
        assert 0 <= value(config, "coffer_key_epoch_age_seconds") < 3600
        assert store(config, 0) == 0
        wait_for(lambda: value(config, "coffer_key_rotation_unfinished") == 0, "finished")
        assert ready(config)[1]["degraded"] == []
        assert value(config, "coffer_key_rotation_failures_total") == 0
    (event,) = events(config, ROTATION)
    assert (event.facts["epoch"], event.facts["command"]) == (2, "coffer serve")
    assert event.facts["officer"] == event.facts["account"]


def test_a_renewal_that_fails_is_told_and_costs_nothing(config: Config, hsm: SoftHsm) -> None:
    make_older(config, 31)
    other = with_hsm(config, hsm, provider="pkcs11", rotate_days=30)
    with hsm.away(), Server(other):
        wait_for(lambda: bool(ready(other)[1]["degraded"]), "told")
        status, answer = ready(other)
        assert status == 200
        assert answer["degraded"][0].startswith("the keys were not moved to a new epoch: ")
        assert 'token "archive"' in answer["degraded"][0]
        assert value(other, "coffer_key_rotation_failures_total") == 1
        assert value(other, "coffer_key_epoch_age_seconds") > 31 * 86_400
        assert store(other, 0) == 0
    assert epochs_of(config) == [(1, "keyfile", "active", 1)]


def test_a_server_goes_on_with_what_was_stopped_before_it_and_beside_it(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epoch_job, "_POLL_SECONDS", 0.1)
    leave_half_done(config)
    assert epochs_beside(config)[0][2] == "leaving"
    said = beside(config, "keys", "list")
    assert "A rotation to epoch 2 is not complete, 0 study keys remain in epoch 1; it was interrupted" in said
    with Server(config) as server:
        for epoch in (2, 3):
            wait_for(lambda: server.services.archive.keyring.partly_rotated() == [], "finished")
            assert server.services.archive.keyring.epoch == epoch
            assert value(config, "coffer_key_rotation_unfinished") == 0
            assert store(config, epoch - 2) == 0
            if epoch == 2:
                leave_half_done(config)
    found = events(config, ROTATION)
    assert [(e.facts["epoch"], e.facts["resumed"]) for e in found] == [(2, True), (3, True)]


def test_a_half_done_rotation_that_cannot_go_on_is_told(config: Config) -> None:
    leave_half_done(config)
    with Server(config) as server:
        ring = server.services.archive.keyring
        # Nothing is half done a moment before the server lets go of what it changed the keys under.
        wait_for(lambda: ring.partly_rotated() == [] and ring.change_holder() is None, "finished")
        config.keys.key_file.rename(config.archive.parent / "away")
        first = rows.epoch_row_key(1)
        row = ring.row(first)
        assert row is not None
        ring.amend([(first, row[:3] + bytes([EpochState.ACTIVE]) + row[4:])])
        job = job_of(server, EpochJob)
        assert "half done" in job.concerns()[0]
        assert value(config, "coffer_key_rotation_unfinished") == 1
        job.turn()
        assert "the keys were not moved to a new epoch: there is no key file" in job.concerns()[0]
        (config.archive.parent / "away").rename(config.keys.key_file)
        job.turn()
        assert job.concerns() == []


def test_a_server_that_ends_leaves_what_it_was_moving_half_done(config: Config) -> None:
    leave_half_done(config)
    with open_writer(config) as engine:
        ending, next_one = (EpochJob(engine, engine.metrics) for _ in range(2))
        ending.stopping.set()
        ending.turn()
        assert engine.keyring.partly_rotated() == [1]
        assert engine.keyring.change_holder() is None
        assert b"coffer_key_rotation_failures_total 0.0" in engine.metrics.render()
        next_one.turn()
        assert engine.keyring.partly_rotated() == []


def test_a_server_ends_although_its_provider_never_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EpochJob, "patience_seconds", 0.2)
    with kms_server() as kms:
        settings = AwsKms(region="eu-central-1", endpoint=kms.url, timeout_seconds=60)
        config = config_of(tmp_path, Keys(provider="aws-kms", aws=settings, check_seconds=60, rotate_days=30))
        create_archive(config)
        make_older(config, 31)
        kms.seen.clear()
        kms.hang_seconds = 30
        kms.faults[:] = ["", "hang"]
        with Server(config):
            wait_for(lambda: kms.seen == ["Decrypt", "DescribeKey"], "it asks, and is not answered")
            assert store(config, 0) == 0
            (thread,) = (each for each in threading.enumerate() if each.name == EpochJob.name)
        assert thread.is_alive()  # the server is closed, and the provider has not answered yet
        kms.always = "AccessDeniedException"  # what is asked after its end changes nothing
        kms.hang_seconds = 0
        with pytest.raises(Exception, match="AccessDenied"):
            open_reading(config)
        kms.always = ""
        check(config)


# Another provider


def test_nothing_moves_to_a_provider_that_the_running_server_does_not_know(config: Config, hsm: SoftHsm) -> None:
    write(config, *pkcs11(hsm))
    with Server(config):
        assert store(config, 0) == 0
        refused = beside(config, "keys", "rotate", "--provider", "pkcs11", code=11)
        assert 'was started without this provider of the new epoch: HSM token "archive"' in refused
        assert "restart the server" in refused
        assert epochs_beside(config) == [(1, "keyfile", "active", 1)]
        beside(config, "keys", "rotate")
        assert store(config, 1) == 0
    other = with_hsm(config, hsm)
    with Server(other):
        beside(config, "keys", "rotate", "--provider", "pkcs11")
        assert store(other, 2) == 0
        assert ready(other)[1]["degraded"] == []
    check(other)
    assert epochs_beside(config)[-1] == (3, "pkcs11", "active", 1)
    with open_reading(other) as engine:
        assert engine.stats().objects == 3
    beside(config, "keys", "rotate", "--provider", "file")  # and back, for the last look


def test_a_server_whose_keys_were_moved_out_of_its_reach_says_so(config: Config, hsm: SoftHsm) -> None:
    """Whoever rotates past the check, say with an older release."""
    file = write(config, *pkcs11(hsm))
    with Server(config):
        assert store(config, 0) == 0
        subprocess.run([sys.executable, "-c", PAST_THE_CHECK, str(file)], check=True, timeout=60)
        wait_for(lambda: ready(config)[0] == 503, "not ready")
        assert "the keys moved to an epoch that does not open here" in ready(config)[1]["reasons"][0]
        assert store(config, 1) == OUT_OF_RESOURCES
        beside(config, "keys", "rotate", "--provider", "file")  # the remedy
        wait_for(lambda: ready(config)[0] == 200, "ready again")
        assert store(config, 1) == 0


def test_a_stopped_rotation_is_finished_and_the_keys_go_on_to_the_provider_that_was_named(
    config: Config, hsm: SoftHsm
) -> None:
    leave_half_done(config)
    write(config, *pkcs11(hsm))
    done = told(config, "keys", "rotate", "--provider", "pkcs11", "--officer", "Meyer")
    assert (done["epoch"], done["provider"], done["resumed"]) == (3, "pkcs11", True)
    found = [(e.facts["epoch"], e.facts["provider"]) for e in events(with_hsm(config, hsm), ROTATION)]
    assert found == [(2, "keyfile"), (3, "pkcs11")]
    assert [each[2] for each in epochs_of(config)] == ["retired", "retired", "active"]
    coffer(config, "keys", "rotate", "--provider", "file")
    leave_half_done(config)
    write(config, *pkcs11(hsm, 'provider = "pkcs11"'))
    said = coffer(config, "keys", "rotate").stdout  # without a name it only finishes, and says what that leaves
    assert "Epoch 5 (keyfile) is current" in said
    assert "New epochs go to pkcs11: to move there, run coffer keys rotate again." in said


def test_an_epoch_whose_hsm_is_lost_is_given_up_honestly(config: Config, hsm: SoftHsm, tmp_path: Path) -> None:
    write(config, *pkcs11(hsm))
    both = with_hsm(config, hsm)
    with Server(both):
        assert store(both, 0) == 0
    uid = told(config, "find", "--level", "study")
    coffer(config, "keys", "rotate", "--provider", "pkcs11")
    coffer(config, "keys", "rotate", "--provider", "pkcs11")
    write(config, "shred_hold_days = 0", *pkcs11(hsm))
    coffer(config, "shred", str(uid[0]["StudyInstanceUID"]), "--reason", "r", "--yes")
    coffer(config, "keys", "split", "-n", "2", "-k", "2", "-o", str(tmp_path / "shares"))
    shares = [word for path in (tmp_path / "shares").iterdir() for word in ("--share", str(path))]
    with hsm.away():
        coffer(config, "keys", "recover", *shares)
        coffer(config, "keys", "rotate")  # docs/keys.md, Recovery, step 4
        assert epochs_of(config)[1:] == [
            (2, "pkcs11", "retired", 0),
            (3, "keyfile", "retired", 0),
            (4, "keyfile", "active", 0),
        ]
        coffer(config, "keys", "destroy", "1", "--yes")
        partly = coffer(config, "keys", "destroy", "3", "--yes", code=6).stdout
        assert "Destroyed: keyfile" in partly
        assert 'NOT destroyed: pkcs11 token "archive"' in partly  # it kept the epoch before the recovery
        assert "Epoch 3 is NOT destroyed yet" in partly
        assert 'token "archive"' in coffer(config, "keys", "destroy", "2", "--yes", code=6).stderr
        assert "is not destroyed yet" in coffer(config, "keys", "list").stdout
        coffer(config, "keys", "destroy", "2", "--yes", "--provider-lost", code=2)
        arguments = ("keys", "destroy", "2", "--yes", "--provider-lost", "--reason", "burnt", "--officer", "Meyer")
        for _ in range(2):
            said = coffer(config, *arguments).stdout
            assert "given up, NOT destroyed (pkcs11)" in said
        assert "is NOT destroyed" in coffer(config, "keys", "list").stdout
        assert "in use" in coffer(config, *[a if a != "2" else "4" for a in arguments], code=11).stderr
    (shred,) = told(config, "shred", "list")["shreds"]
    assert (shred["state"], shred["epochs_to_destroy"]) == ("scheduled", [2, 3])
    (given_up,) = [e for e in events(config, Kind.STATE) if e.facts.get("what") == "epoch abandoned"]
    assert (given_up.facts["epoch"], given_up.facts["reason"], given_up.facts["officer"]) == (2, "burnt", "Meyer")
    assert 'token "archive"' in str(given_up.facts["cause"])
    ended = told(config, "keys", "destroy", "2", "--yes")  # it was found again
    assert ended["destroyed"] is True
    with hsm.away():
        said = coffer(config, *arguments).stdout  # not given up: everything was destroyed before
        assert "Epoch 2 is destroyed (pkcs11)" in said
        assert "every receipt is present; whether a secret is back could not be checked" in said
    assert told(config, "keys", "destroy", "3", "--yes")["receipts"] != []
    (shred,) = told(config, "shred", "list")["shreds"]
    assert (shred["state"], shred["epochs_to_destroy"]) == ("scheduled", [3])
    group = shares[1].rpartition("/")[2].split("-")
    (name,) = [word for word in group if len(word) == 16]
    assert told(config, "keys", "burn", name, "2")["opens"] is False
    (shred,) = told(config, "shred", "list")["shreds"]
    assert (shred["state"], shred["epochs_to_destroy"]) == ("effective", [])
    assert [e.facts["epoch"] for e in events(config, Kind.EPOCH_DESTROYED)] == [1, 3, 2, 3]


# The commands


def test_rotate_and_destroy_say_who_and_destroy_asks_before(config: Config) -> None:
    told(config, "keys", "rotate", "--officer", "Meyer")
    refused = coffer(config, "keys", "destroy", "1", code=2)
    assert "give --yes, because there is no terminal" in refused.stderr
    assert refused.stdout == ""
    assert epochs_of(config)[0][2] == "retired"
    before = told(config, "keys", "list")["epochs"][0]["opened_by"]
    assert len(before) == 1
    ended = told(config, "keys", "destroy", "1", "--yes", "--officer", "Schmidt")
    assert ended == {
        "epoch": 1,
        "provider": "keyfile",
        "destroyed": True,
        "can_be_taken_back_until": None,
        "still_to_do": "destroy every other copy of the key file that holds this epoch",
        "receipts": before,
        "no_receipt": [],
        "remark": "",
        "opened_by": [],
    }
    found = events(config, ROTATION, Kind.EPOCH_DESTROYED)
    assert [(e.facts["officer"], e.facts["command"]) for e in found] == [
        ("Meyer", "coffer keys rotate"),
        ("Schmidt", "coffer keys destroy"),
    ]
    assert all(e.facts["account"] for e in found)
    assert "keyring" not in found[0].facts


def test_the_list_tells_ages_and_what_is_not_over(tmp_path: Path) -> None:
    with kms_server() as kms:
        keys = Keys(provider="aws-kms", aws=AwsKms(region="eu-central-1", endpoint=kms.url))
        config = config_of(tmp_path, keys)
        create_archive(config)
        write(config, 'provider = "aws-kms"', "[keys.aws]", 'region = "eu-central-1"', f'endpoint = "{kms.url}"')
        make_older(config, 31)
        ring = keyring_of(config)
        ring.new_studies(50)
        ring.close()
        kms.seen.clear()
        coffer(config, "keys", "rotate")
        # Two to open the archive and to prove the new epoch, the rest to make it; none for a study.
        assert sorted(kms.seen) == ["CreateAlias", "CreateKey", "Decrypt", "Decrypt", "DescribeKey", "Encrypt"]
        ended = told(config, "keys", "destroy", "1", "--yes")
        listed = told(config, "keys", "list")["epochs"]
        assert [e["age_days"] for e in listed] == [31.0, 0.0]
        assert [e["state"] for e in listed] == ["destroyed", "active"]
        until = listed[0]["can_be_taken_back_until"]
        assert until == ended["can_be_taken_back_until"] is not None
        assert listed[1]["can_be_taken_back_until"] is None
        said = coffer(config, "keys", "list").stdout
        assert f"Epoch 1 is scheduled for deletion: until {until} aws-kms can cancel it." in said
