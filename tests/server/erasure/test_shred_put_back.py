"""Older keyrings, key files and shares put back after a shred: they are noticed, and nothing is served by them."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from coffer.archive.events.epochs import EpochDestroyed
from coffer.archive.format.record import Kind
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.providers.key_file import KeyFileProvider
from coffer.server.config.load import load_config
from coffer.server.keyops.provider_job import ProviderJob
from coffer.server.main.service import Server
from tests.server import three_studies
from tests.server.filled import job_of, run, told
from tests.server.three_studies import UIDS, codes, configure, effective_at_once, events, found, put, put_back, states

archive = three_studies.archive


def test_a_key_file_with_a_destroyed_secret_is_told_and_destroyed_again(archive: Path) -> None:
    effective_at_once()
    run("shred", UIDS[0], "--reason", "r", "--yes")
    run("shred", "finish")
    shutil.copy("data.key", "between.key")  # it has the secrets of epochs 1 and 2
    run("shred", "finish", "--destroy")
    assert told("keys", "audit")["findings"] == []
    shutil.copy("between.key", "data.key")
    assert found() == [UIDS[1], UIDS[2]]
    (finding,) = told("keys", "audit", code=1)["findings"]  # type: ignore[misc]
    assert "epoch 1 is back" in finding
    with Server(load_config(Path("coffer.toml"))) as server:
        wait_for(lambda: any("epoch 1 is back" in each for each in server.concerns()))
        server.services.archive.keyring.destroy_epoch(1)
        job_of(server, ProviderJob).ask()
        assert not server.concerns()
    shutil.copy("between.key", "data.key")
    run("keys", "destroy", "1", "--yes")
    assert told("keys", "audit")["findings"] == []
    assert told("keys", "audit")["unasked"] == []
    assert len(events(EpochDestroyed)) == 1
    Path("data.key").rename("away.key")
    assert told("keys", "audit")["unasked"] == ["keyfile"]
    Path("away.key").rename("data.key")


def test_shares_of_a_destroyed_epoch_open_an_old_keyring_and_finishing_says_so(archive: Path) -> None:
    effective_at_once()
    run("keys", "split", "-n", "3", "-k", "2", "-o", "shares")
    shares = [word for path in sorted(Path("shares").glob("*.txt"))[:2] for word in ("--share", str(path))]
    shutil.copytree("data/keyring", "before")
    run("shred", UIDS[0], "--reason", "r", "--yes")
    run("shred", "finish")
    done = told("shred", "finish", "--destroy")
    assert (done["destroyed"], done["effective"]) == ([1], 0)
    (what,) = done["opened_by"]  # type: ignore[misc]
    assert "epoch 1: shares of group" in what
    assert states() == ["scheduled"]
    assert "destroyed on purpose" in run("keys", "drill", *shares, code=9).output
    shutil.copytree("data/keyring", "last")
    shutil.copy("data.key", "last.key")

    put_back("before")  # old keyring and shares: whoever has both has the keys, `effective` or not
    run("keys", "recover", *shares, "--key-file", "rescue.key", code=6)  # it is not signed: an older keyring
    keyring = Keyring.open(Path("data/keyring"), KeyFileProvider(Path("rescue.key")), readonly=True)
    assert len([keyring.study(key_id) for key_id in keyring.study_key_ids()]) == 3
    keyring.close()
    configure("[keys]", 'key_file = "rescue.key"')  # and Coffer serves none of it
    assert "was destroyed since" in run("find", code=13).output
    effective_at_once()
    put_back("last")
    assert found() == [UIDS[1], UIDS[2]]


def wait_for(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_keyring_from_before_the_shred_is_noticed_and_shreds_again(archive: Path) -> None:
    shutil.copytree("data/keyring", "before")
    run("shred", UIDS[0], "--reason", "r", "--yes")
    put_back("before")
    for command in (("find",), ("get", "--study", UIDS[0]), ("shred", "list"), ("verify", "--level", "decrypt")):
        assert "older than the log" in run(*command, code=13).output
    assert "older than the log" in run("index", "rebuild", code=13).output  # as every command that writes
    assert found() == [UIDS[1], UIDS[2]]  # it was shredded again all the same
    run("get", "--study", UIDS[0], code=5)
    assert states() == ["scheduled"]
    put_back("before")
    size = told("recover", "show", code=1)["records"]
    run("recover", "accept-loss", "--to", str(size))  # the newest keyring is lost, and what was shredded stays shredded
    assert found() == [UIDS[1], UIDS[2]]
    assert states() == ["scheduled"]
    assert codes(Kind.STATE) == ["study.shredded_again", "mark.renewed"]


def test_an_older_keyring_says_which_studies_it_cannot_open(archive: Path) -> None:
    shutil.copytree("data/keyring", "before")
    put("1.2.3.6")
    shutil.copytree("data/keyring", "newest-is-kept")
    put_back("before")
    run("get", "--study", UIDS[1], "--out", "out")
    run("get", "--study", "1.2.3.6", code=5)
    put_back("newest-is-kept")
    run("get", "--study", "1.2.3.6", "--out", "out")


def test_a_destroyed_epoch_stays_destroyed_whatever_is_put_back(archive: Path) -> None:
    effective_at_once()
    shutil.copytree("data/keyring", "before")
    shutil.copy("data.key", "before.key")
    run("shred", UIDS[0], "--reason", "r", "--yes")
    run("shred", "finish")
    shutil.copytree("data/keyring", "rotated")
    shutil.copy("data.key", "data.key.now")

    put_back("before")  # not destroyed yet: the old copies open it still, which is what `scheduled` says
    shutil.copy("before.key", "data.key")
    keyring = Keyring.open(Path("data/keyring"), KeyFileProvider(Path("data.key")), readonly=True)
    assert len([keyring.study(key_id) for key_id in keyring.study_key_ids()]) == 3
    keyring.close()
    assert "older than the log" in run("find", code=13).output
    put_back("rotated")
    shutil.copy("data.key.now", "data.key")

    run("shred", "finish", "--destroy")
    assert states() == ["effective"]
    shutil.copytree("data/keyring", "last")
    shutil.copy("data.key", "last.key")
    put_back("before")  # the present key file does not open the older keyring
    assert "epoch 1" in run("find", code=8).output
    assert "epoch 1" in run("put", "before.key", code=8).output
    put_back("rotated")
    assert "was destroyed since" in run("find", code=13).output
    shutil.copy("before.key", "data.key")  # nor do both from that time together
    put_back("before")
    assert "was destroyed since" in run("find", code=13).output
    assert "was destroyed since" in run("put", "before.key", code=13).output
    put_back("last")
    assert "epoch 2" in run("find", code=8).output  # nor does the key file of then open what is now
    shutil.copy("last.key", "data.key")
    assert found() == [UIDS[1], UIDS[2]]
