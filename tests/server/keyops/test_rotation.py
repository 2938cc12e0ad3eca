"""Rotations on real archives and beside real servers: due, stopped, failed, and what the commands say of them."""

import threading
from pathlib import Path

import msgspec
import pytest

from coffer.archive.events.epochs import EpochDestroyed, EpochRotated
from coffer.keys.keyring import rows
from coffer.keys.values.epoch import EpochState
from coffer.server.config.providers import AwsKms
from coffer.server.config.settings import Config, Keys
from coffer.server.engine.create import create_archive
from coffer.server.engine.opening import open_reading, open_writer
from coffer.server.keyops import epoch_job
from coffer.server.keyops.epoch_job import EpochJob
from coffer.server.main.service import Server
from tests.keys.kms_server import kms_server
from tests.keys.softhsm import SoftHsm
from tests.server import rotated
from tests.server.filled import job_of
from tests.server.keyops.test_key_provider import check, config_of, ready, store, wait_for
from tests.server.rotated import (
    beside,
    coffer,
    epochs_beside,
    epochs_of,
    events,
    keyring_of,
    leave_half_done,
    make_older,
    told,
    value,
    with_hsm,
    write,
)

config = rotated.config
hsm = rotated.hsm


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
    (event,) = events(config, EpochRotated)
    assert (event.epoch, event.command) == (2, "coffer serve")
    assert event.by.name == event.by.account


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
    found = events(config, EpochRotated)
    assert [(e.epoch, e.resumed) for e in found] == [(2, True), (3, True)]


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
    found = events(config, EpochRotated, EpochDestroyed)
    assert [(e.by.name, e.command) for e in found] == [
        ("Meyer", "coffer keys rotate"),
        ("Schmidt", "coffer keys destroy"),
    ]
    assert all(e.by.account for e in found)


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
