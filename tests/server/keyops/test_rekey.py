"""Rekeying by commands: the same bytes under another key, and what is refused, damaged or put back."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from coffer.archive.events.rekeys import RekeyOrdered, StudyRekeyed
from coffer.keys.errors import SupersededError
from coffer.keys.keyring import rekey, shred
from coffer.keys.keyring.tombstone import Reason, Tombstone
from coffer.server.access.principal import Principal
from coffer.server.keyops.rekey_job import RekeyJob
from coffer.server.maintenance.problems import unindexed
from coffer.server.services.api import StoreRequest
from tests.server import rekeyed
from tests.server.filled import flip, part10, run, told
from tests.server.rekeyed import COMMAND, EXPLICIT_LE, STUDY, engine, got, index_rows, key_ids, put_one_more
from tests.server.three_studies import UIDS, events, found, put, slices
from tests.services import services

archive = rekeyed.archive


def test_the_same_bytes_stand_under_another_key_and_the_old_one_is_gone(archive: Path) -> None:
    before, (old,) = got(STUDY), key_ids(STUDY)
    others = key_ids(UIDS[1])
    shown = told(*COMMAND)
    assert (shown["studies"], shown["objects"], shown["held"]) == (1, 3, 0)
    (new,) = key_ids(STUDY)
    assert [new.hex()] == shown["new_keys"]
    assert new != old
    assert key_ids(UIDS[1]) == others
    assert got(STUDY) == before
    assert found() == list(UIDS)
    with engine() as opened:
        assert opened.keyring.row(b"K" + old) is None
        assert shred.tombstones(opened.keyring)[old].reason is Reason.REKEYED
        with pytest.raises(SupersededError):
            opened.keyring.study(old)
        assert not rekey.under_way(opened.keyring)
        assert opened.index.stats().conflicts == 0
    rows = index_rows()
    run("index", "rebuild")
    assert index_rows() == rows
    assert got(STUDY) == before
    (ended,), (started,) = events(StudyRekeyed), events(RekeyOrdered)
    assert (ended.objects, ended.new_key) == (3, new.hex())
    assert (started.new_key, started.reason) == (new.hex(), "a core dump")
    assert STUDY not in str([ended, started])
    verified = told("verify", "--level", "decrypt")
    assert (verified["findings"], verified["superseded"], verified["shredded"]) == ([], 4, 0)
    assert "4 superseded by a rekey" in run("verify", "--level", "decrypt").output
    assert "they can still be read with" in run("keys", "rekey", UIDS[1], "--reason", "r", "--yes").output.lower()


def test_what_comes_later_goes_under_the_new_key_and_duplicates_are_known(archive: Path) -> None:
    run(*COMMAND)
    (new,) = key_ids(STUDY)
    put_one_more()
    put(STUDY)  # the same three again
    assert key_ids(STUDY) == {new}
    assert len(got(STUDY)) == 4
    with engine() as opened:
        assert all(len(each.versions) == 1 for each in opened.index.locate({0x0020000D: (STUDY,)}))
    run(*COMMAND)
    assert key_ids(STUDY) != {new}
    assert len(got(STUDY)) == 4


def test_versions_keep_their_order(archive: Path) -> None:
    other = next(slices(STUDY, "P-4711"))
    other.PatientComments = "second version"
    Path("second.dcm").write_bytes(part10(other))
    run("put", "second.dcm")
    before = index_rows()
    bytes_before = got(STUDY)
    run(*COMMAND)
    assert got(STUDY) == bytes_before
    with engine() as opened:
        (first,) = opened.index.locate({0x0020000D: (STUDY,), 0x00080018: (other.SOPInstanceUID,)})
        assert len(first.versions) == 2
        assert first.versions[0].seq < first.versions[1].seq
        assert opened.index.stats().conflicts == 1
    assert before != index_rows()
    rows = index_rows()
    run("index", "rebuild")
    assert index_rows() == rows


def test_a_large_object_goes_through_a_file(archive: Path) -> None:
    large = next(slices("1.2.3.50", "P-5"))
    rows = 3000
    large.Rows, large.Columns, large.PixelData = rows, rows, os.urandom(rows * rows * 2)
    Path("large.dcm").write_bytes(part10(large))
    run("put", "large.dcm")
    before = got("1.2.3.50")
    run("keys", "rekey", "1.2.3.50", "--reason", "r", "--yes")
    assert got("1.2.3.50") == before
    assert list((archive / "spool").iterdir()) == []


def test_an_object_that_could_not_be_read_to_its_end_keeps_its_flag(archive: Path) -> None:
    with engine(write=True) as opened:
        reception = services(opened).ingest.begin(
            StoreRequest("1.2.840.10008.5.1.4.1.1.2", "1.2.3.77", EXPLICIT_LE, Principal.peer("T"))
        )
        reception.write(b"no data set at all")
        assert reception.finish().error is None
        (before,) = unindexed(opened)
    time.sleep(0.002)
    run("keys", "rotate")
    assert told("keys", "rekey", "--all-before", "2", "--reason", "r", "--yes")["studies"] == 4
    with engine() as opened:
        (after,) = unindexed(opened)
        assert (after.sop_instance, after.seq > before.seq) == (before.sop_instance, True)
        assert opened.index.stats().unindexed == 1


def test_all_studies_whose_key_is_older_than_an_epoch(archive: Path) -> None:
    run("keys", "rekey", "--all-before", "2", "--reason", "r", "--yes", code=5)
    run("hold", "add", UIDS[1], "--reason", "court")
    old = {uid: key_ids(uid) for uid in UIDS}
    time.sleep(0.002)
    run("keys", "rotate")
    put("1.2.3.5")
    (young,) = key_ids("1.2.3.5")
    shown = told("keys", "rekey", "--all-before", "2", "--reason", "r", "--yes")
    assert (shown["studies"], shown["objects"], shown["held"]) == (2, 6, 1)
    assert key_ids("1.2.3.5") == {young}
    assert key_ids(UIDS[1]) == old[UIDS[1]]
    assert not key_ids(STUDY) & old[STUDY]
    assert (told("keys", "rekey", "--all-before", "2", "--reason", "r", "--yes")["studies"]) == 0
    assert told("shred", "finish", "--early")["moved"] == 4
    run("shred", "finish", "--early", "--destroy")  # what an old keyring opens ends with its epoch
    states = [each["state"] for each in json.loads(run("keys", "list", "--json").stdout)["epochs"]]
    assert states == ["destroyed", "destroyed", "active"]
    assert found() == [*UIDS, "1.2.3.5"]


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("1.2.3", "--yes"), 5),
        (("", "--yes"), 12),
        (("--yes",), 2),
        ((STUDY, "--all-before", "2", "--reason", "r", "--yes"), 2),
        (("--all-before", "1", "--yes"), 2),
        (("--all-before", "7", "--yes"), 5),
        ((STUDY,), 2),  # nobody to ask
        ((STUDY, "--reason", " ", "--yes"), 12),
        ((UIDS[1], "--yes"), 10),
        ((UIDS[2], "--yes"), 9),
    ],
)
def test_what_is_wrong_is_refused_and_changes_nothing(archive: Path, args: tuple[str, ...], code: int) -> None:
    run("hold", "add", UIDS[1], "--reason", "court")
    run("shred", UIDS[2], "--reason", "r", "--yes")
    old = key_ids(STUDY)
    run("keys", "rekey", "--reason", "r", *args, code=code)
    assert key_ids(STUDY) == old
    with engine() as opened:
        assert not rekey.under_way(opened.keyring)


def test_a_damaged_object_keeps_the_key_and_repair_lets_it_go_on(archive: Path) -> None:
    whole = got(STUDY)
    with engine() as opened:
        located = next(iter(opened.index.locate({0x0020000D: (STUDY,)})))
        position = located.versions[0].position
    shutil.copytree("data", "copy")
    segment = archive / "segments" / f"{position.segment:08d}.seg"
    flip(segment, position.offset + 160 + position.body_len // 2)
    said = run(*COMMAND, code=3).output
    assert f"record {position.seq} of the study cannot be opened" in said
    with engine() as opened:
        assert rekey.under_way(opened.keyring)[0].stuck == position.seq
    flip(segment, position.offset + 160 + position.body_len // 2)
    with engine(write=True) as opened:
        (said,) = RekeyJob(services(opened)).concerns()
    assert f"record {position.seq} does not open" in said
    run(*COMMAND)
    assert got(STUDY) == whole
    assert len(events(StudyRekeyed)) == 1


def test_an_object_that_was_damaged_when_the_index_was_made_is_found_again(archive: Path) -> None:
    whole = got(STUDY)
    with engine() as opened:
        position = next(iter(opened.index.locate({0x0020000D: (STUDY,)}))).versions[0].position
    segment = archive / "segments" / f"{position.segment:08d}.seg"
    flip(segment, position.offset + 160 + position.body_len // 2)
    run("index", "rebuild", code=3)
    assert len(got(STUDY)) == 2
    flip(segment, position.offset + 160 + position.body_len // 2)
    run(*COMMAND)
    assert got(STUDY) == whole


def test_old_records_without_the_record_of_the_rekey_are_a_finding(archive: Path) -> None:
    """A tombstone alone, which whoever alters the keyring can forge, is no reason."""
    with engine(write=True) as opened:
        (old,) = opened.index.key_ids_of(STUDY)
        name = opened.index.study_token(STUDY)
        stone = Tombstone(1, 1, 1, name, Reason.REKEYED, b"n" * 16)
        value = opened.keyring.row(b"K" + old)
        opened.keyring.amend([(b"T" + old, stone.encode())], [b"K" + old])
    findings = told("verify", "--level", "decrypt", code=1)["findings"]
    assert "no record says that it was destroyed" in str(findings)
    with engine(write=True) as opened:
        opened.keyring.amend([(b"K" + old, value or b"")], [b"T" + old])


def test_a_keyring_from_before_opens_the_old_records_and_the_newest_all(archive: Path) -> None:
    whole = got(STUDY)
    shutil.copytree("data", "before")
    run(*COMMAND)
    shutil.move("data/keyring", "newest")
    shutil.copytree("before/keyring", "data/keyring")
    run("get", "--study", STUDY, "--out", "none", code=5)  # the new records: it has no key for them
    with engine() as opened:  # what docs/keys.md says of an old copy: it opens what was stored before
        shutil.rmtree("before/index")
        assert len(opened.keyring.study_key_ids()) == 3
    shutil.rmtree("data/keyring")
    shutil.move("newest", "data/keyring")
    assert got(STUDY) == whole
