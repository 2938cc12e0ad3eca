"""Rotations to another provider beside real servers: refused, out of reach, stopped before, and without the old one."""

import subprocess
import sys
from pathlib import Path

from coffer.archive.events.epochs import EpochAbandoned, EpochDestroyed, EpochRotated
from coffer.server.config.settings import Config
from coffer.server.engine.opening import open_reading
from coffer.server.main.service import Server
from tests.keys.softhsm import SoftHsm
from tests.server import rotated
from tests.server.keyops.test_key_provider import OUT_OF_RESOURCES, check, ready, store, wait_for
from tests.server.rotated import (
    PAST_THE_CHECK,
    beside,
    coffer,
    epochs_beside,
    epochs_of,
    events,
    leave_half_done,
    pkcs11,
    told,
    with_hsm,
    write,
)

config = rotated.config
hsm = rotated.hsm


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
    found = [(e.epoch, e.provider) for e in events(with_hsm(config, hsm), EpochRotated)]
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
    (given_up,) = events(config, EpochAbandoned)
    assert (given_up.epoch, given_up.reason, given_up.by.name) == (2, "burnt", "Meyer")
    assert 'token "archive"' in given_up.cause
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
    assert [e.epoch for e in events(config, EpochDestroyed)] == [1, 3, 2, 3]
