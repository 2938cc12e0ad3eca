"""Rekeys that were stopped: nothing is lost, and a rotation or a shred may come before the next one."""

import shutil
from pathlib import Path

import pytest

from coffer.archive.events.rekeys import RekeyOrdered, StudyRekeyed
from coffer.keys.errors import ShreddedError, SupersededError
from coffer.keys.keyring import rekey
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.providers.key_file import KeyFileProvider
from tests.server import rekeyed
from tests.server.filled import copy_archive, run, told
from tests.server.rekeyed import COMMAND, STUDY, engine, got, index_rows, key_ids, put_one_more, stop_in
from tests.server.stopped import in_memory, stopped
from tests.server.three_studies import UIDS, events, found

tmp_path = in_memory
archive = rekeyed.archive


def test_killed_at_every_step_nothing_is_lost_and_the_next_one_finishes(archive: Path) -> None:
    whole, (old,) = got(STUDY), key_ids(STUDY)
    copy_archive("data", "untouched")
    number, phases = 0, set()
    while True:
        number += 1
        code = stopped(number, *COMMAND)
        assert code in (0, 77)
        keyring = Keyring.open(Path("data/keyring"), KeyFileProvider(Path("data.key")), readonly=True)
        phases.update(each.phase for each in rekey.under_way(keyring))
        keyring.close()
        assert got(STUDY) == whole
        assert told("verify", "--level", "decrypt", "--json")["findings"] == []
        if number % 3 == 0:
            run("index", "rebuild")
            assert got(STUDY) == whole
        if number % 4 == 0:
            put_one_more()
        run(*COMMAND)
        assert {name: data for name, data in got(STUDY).items() if name in whole} == whole
        assert len(got(STUDY)) == len(whole) + (number % 4 == 0)
        if number % 2 == 0:
            rows = index_rows()
            run("index", "rebuild")
            assert index_rows() == rows
        with engine() as opened:
            assert not rekey.under_way(opened.keyring)
            with pytest.raises(SupersededError):
                opened.keyring.study(old)
            assert opened.index.stats().studies == 3
            assert all(len(each.versions) == 1 for each in opened.index.locate({0x0020000D: (STUDY,)}))
            assert len(opened.index.key_ids_of(STUDY)) == 1
        assert len(events(StudyRekeyed)) == len(events(RekeyOrdered))
        if code == 0:
            break
        shutil.rmtree("data")
        copy_archive("untouched", "data")
    assert phases == {rekey.Phase.SEALING, rekey.Phase.SWITCHED}
    assert number > 10


@pytest.mark.parametrize("phase", list(rekey.Phase))
def test_keys_may_rotate_in_the_middle(archive: Path, phase: rekey.Phase) -> None:
    whole = got(STUDY)
    stop_in(phase)
    run("keys", "rotate")
    put_one_more()
    run(*COMMAND)
    assert {name: data for name, data in got(STUDY).items() if name in whole} == whole
    assert told("shred", "finish", "--early")["moved"] == 3  # epoch 2, which the old key was moved to, has to go too
    run("verify", "--level", "decrypt")


@pytest.mark.parametrize("phase", list(rekey.Phase))
def test_a_shred_ends_a_rekey_and_takes_both_keys(archive: Path, phase: rekey.Phase) -> None:
    stop_in(phase)
    keyring = Keyring.open(Path("data/keyring"), KeyFileProvider(Path("data.key")), readonly=True)
    (job,) = rekey.under_way(keyring)
    keyring.close()
    run("shred", STUDY, "--reason", "erasure", "--yes")
    assert found() == list(UIDS[1:])
    with engine(write=True) as opened:
        assert not rekey.under_way(opened.keyring)
        for key_id in (job.old, job.new):
            with pytest.raises(ShreddedError) as raised:
                opened.keyring.study(key_id)
            assert not isinstance(raised.value, SupersededError)
            assert opened.keyring.row(b"K" + key_id) is None
        assert opened.index.stats().unreadable_studies == 0
    run("index", "rebuild")
    assert found() == list(UIDS[1:])
