"""Shredding by commands: what is gone and what is recorded, and that a stop anywhere leaves nothing half-gone."""

import os
import shutil
from pathlib import Path

import msgspec
import pytest

from coffer.archive.events.officer import Officer
from coffer.archive.events.shreds import StudyShredded
from coffer.keys.errors import ShreddedError
from coffer.keys.keyring import shred
from coffer.keys.mailbox.events import waiting
from coffer.server.config.load import load_config
from coffer.server.engine.opening import open_reading, open_writer
from coffer.server.erasure.shred import Authorization, Shredding
from coffer.server.retention.selection import by_study
from tests.server import three_studies
from tests.server.filled import copy_archive, part10, run, told
from tests.server.stopped import in_memory, stopped
from tests.server.three_studies import UIDS, configure, events, found, put, slices

tmp_path = in_memory
archive = three_studies.archive


def test_a_shred_is_recorded_and_the_study_is_gone_everywhere(archive: Path) -> None:
    shown = told("shred", UIDS[0], "--reason", "request 17", "--officer", "Meyer", "--yes")
    assert (shown["studies"], shown["instances"], shown["state"]) == (1, 3, "scheduled")
    assert found() == [UIDS[1], UIDS[2]]
    run("get", "--study", UIDS[0], code=5)
    run("get", "--instance", UIDS[0] + ".1.1", code=5)
    run("index", "rebuild")
    assert found() == [UIDS[1], UIDS[2]]
    run("get", "--study", UIDS[0], code=5)
    (event,) = events(StudyShredded)
    assert (event.reason, event.instances) == ("request 17", 3)
    assert [each.name for each in event.officers] == ["Meyer"]
    assert not {UIDS[0], "P-4711"} & {str(value) for value in msgspec.to_builtins(event).values()}
    verified = told("verify", "--level", "decrypt")
    assert (verified["findings"], verified["shredded"]) == ([], 4)
    listed = told("shred", "list")
    assert listed["requests"] == []
    assert [each["state"] for each in listed["shreds"]] == ["scheduled"]  # type: ignore[attr-defined]
    run("shred", UIDS[0], "--reason", "again", "--yes", code=5)


def test_a_large_object_that_is_being_read_ends_where_it_is(archive: Path) -> None:
    large = next(slices("1.2.3.6", "P-6"))
    large.Rows, large.Columns, large.NumberOfFrames = 2048, 2048, 4
    large.PixelData = os.urandom(2 * 2048 * 2048 * 4)
    Path("large.dcm").write_bytes(part10(large))
    run("put", "large.dcm")
    with open_writer(load_config(Path("coffer.toml"))) as engine:
        (located,) = engine.index.locate({0x0020000D: ("1.2.3.6",)})
        with engine.open_body(located.study_key_id, located.version) as body:
            chunks = body.chunks()
            assert next(chunks)
            Shredding(engine).shred(by_study(engine, "1.2.3.6"), Authorization("r", (Officer("Meyer", "a"),)))
            with pytest.raises(ShreddedError):
                assert sum(map(len, chunks)) < 0
        engine.reconcile()


def test_a_shred_tells_how_long_backups_may_hold_its_own_keys(archive: Path) -> None:
    configure("[keys]", "shred_hold_days = 3650")
    long = told("shred", UIDS[0], "--reason", "r", "--yes")["backups_until"]
    configure("[keys]", "shred_hold_days = 1")
    assert str(told("shred", UIDS[1], "--reason", "r", "--yes")["backups_until"]) < str(long)


def test_all_studies_of_a_patient(archive: Path) -> None:
    assert told("shred", "--patient", "P-4711", "--reason", "r", "--yes")["studies"] == 2
    assert found() == [UIDS[2]]
    put(UIDS[0])
    assert found() == [UIDS[0], UIDS[2]]
    assert len(told("get", "--study", UIDS[0], "--out", "out")["files"]) == 3  # type: ignore[arg-type]
    assert told("shred", "--patient", "P-4711", "--reason", "r", "--yes")["studies"] == 1
    assert found() == [UIDS[2]]


def test_a_patient_id_of_two_issuers_is_not_one_patient(archive: Path) -> None:
    ds = next(slices("1.2.3.9", "P-99"))
    ds.IssuerOfPatientID = "other"
    Path("other.dcm").write_bytes(part10(ds))
    run("put", "other.dcm")
    assert "--issuer" in run("shred", "--patient", "P-99", "--reason", "r", "--yes", code=12).output
    assert told("shred", "--patient", "P-99", "--issuer", "other", "--reason", "r", "--yes")["studies"] == 1
    assert found() == list(UIDS)


def test_killed_at_every_step_it_is_whole_or_gone_and_the_next_one_finishes(archive: Path) -> None:
    command = ("shred", UIDS[0], "--reason", "r", "--yes")
    untouched = Path("untouched")
    copy_archive("data", untouched)
    number, seen = 0, set()
    while True:
        number += 1
        code = stopped(number, *command)
        assert code in (0, 77)
        is_gone = UIDS[0] not in found()
        seen.add(is_gone)
        run("get", "--study", UIDS[0], "--out", "out", code=5 if is_gone else 0)
        run(*command, code=5 if is_gone else 0)  # opened for writing, it finishes either way
        with open_reading(load_config(Path("coffer.toml"))) as engine:
            assert not waiting(engine.keyring)
            assert len(shred.tombstones(engine.keyring)) == 1
            assert not shred.waiting(engine.keyring)
            assert engine.index.stats().unreadable_studies == 0
        assert found() == [UIDS[1], UIDS[2]]
        assert len(events(StudyShredded)) == 1
        if code == 0:
            break
        shutil.rmtree("data")
        copy_archive(untouched, "data")
    assert seen == {True, False}
    assert number > 10, number
