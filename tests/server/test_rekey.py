"""Rekeying by commands and in a server: the same bytes under another key, whatever comes between."""

import copy
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from coffer.archive.format.record import Kind
from coffer.keys.errors import ShreddedError, SupersededError
from coffer.keys.keyring import rekey, shred
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.keyring.tombstone import Reason, Tombstone
from coffer.keys.providers.key_file import KeyFileProvider
from coffer.server.access.principal import Principal
from coffer.server.config.load import load_config
from coffer.server.engine.archive import ReadableArchive
from coffer.server.engine.opening import open_reading, open_writer
from coffer.server.engine.rekey import Rekeyer
from coffer.server.keyops.rekey_job import RekeyJob
from coffer.server.keyops.rekey_order import one_study, order
from coffer.server.main.demo import encoded
from coffer.server.maintenance.problems import unindexed
from coffer.server.services.api import StoreRequest
from tests.server.filled import flip, part10, run, status, told
from tests.server.stopped import stopped
from tests.server.three_studies import UIDS, configure, events, found, put, slices
from tests.services import services

STUDY = UIDS[0]
EXPLICIT_LE = "1.2.840.10008.1.2.1"
COFFER = Path(sys.executable).with_name("coffer")
COMMAND = ("keys", "rekey", STUDY, "--reason", "a core dump", "--yes")


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An archive of three studies of three slices, verified with keys at the end."""
    monkeypatch.chdir(tmp_path)
    configure()
    run("init")
    put(*UIDS[:2])
    put(UIDS[2], patient_id="P-99")
    yield tmp_path / "data"
    assert told("verify", "--level", "decrypt")["findings"] == []


def got(study_uid: str) -> dict[str, bytes]:
    """The study's files as they are retrieved."""
    shutil.rmtree("out", ignore_errors=True)
    run("get", "--study", study_uid, "--out", "out")
    return {str(path.relative_to("out")): path.read_bytes() for path in sorted(Path("out").rglob("*.dcm"))}


def engine(*, write: bool = False) -> ReadableArchive:
    return (open_writer if write else open_reading)(load_config(Path("coffer.toml")))


def key_ids(study_uid: str) -> frozenset[bytes]:
    with engine() as opened:
        return opened.index.key_ids_of(study_uid)


def index_rows() -> list[object]:
    """What the index knows of every instance, and of every study."""
    with engine() as opened:
        located = [each for uid in UIDS for each in opened.index.locate({0x0020000D: (uid,)})]
        studies = [row for _, row in opened.index._tables.all_studies() if row is not None]
        return [opened.index.stats(), *located, *sorted(studies, key=lambda row: row.study_uid)]


def put_one_more() -> None:
    """Store a fourth slice of the study."""
    more = next(slices(STUDY, "P-4711"))
    more.SOPInstanceUID = STUDY + ".1.99"
    Path("more.dcm").write_bytes(part10(more))
    run("put", "more.dcm")


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
    (ended,), (started,) = events(Kind.STUDY_REKEYED), events(Kind.STATE)
    assert (ended["objects"], ended["new_key"]) == (3, new.hex())
    assert (started["what"], started["reason"]) == ("study rekey started", "a core dump")
    assert STUDY not in str([ended, started])
    verified = told("verify", "--level", "decrypt")
    assert (verified["findings"], verified["superseded"], verified["shredded"]) == ([], 4, 0)
    assert "4 superseded by a rekey" in run("verify", "--level", "decrypt").output
    assert "still readable" in run("keys", "rekey", UIDS[1], "--reason", "r", "--yes").output.lower()


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


def test_killed_at_every_step_nothing_is_lost_and_the_next_one_finishes(archive: Path) -> None:
    whole, (old,) = got(STUDY), key_ids(STUDY)
    shutil.copytree("data", "untouched")
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
        assert len(events(Kind.STUDY_REKEYED)) == len(events(Kind.STATE))
        if code == 0:
            break
        shutil.rmtree("data")
        shutil.copytree("untouched", "data")
    assert phases == {rekey.Phase.SEALING, rekey.Phase.SWITCHED}
    assert number > 10


def stop_in(phase: rekey.Phase) -> None:
    """Leave a rekey of the study in this phase."""
    shutil.copytree("data", "untouched-before-stop", dirs_exist_ok=True)
    for number in range(1, 60):
        assert stopped(number, *COMMAND) == 77
        keyring = Keyring.open(Path("data/keyring"), KeyFileProvider(Path("data.key")), readonly=True)
        under_way = rekey.under_way(keyring)
        sealed = keyring.changes()
        keyring.close()
        if under_way and under_way[0].phase is phase and sealed:
            return
        shutil.rmtree("data")
        shutil.copytree("untouched-before-stop", "data")
    raise AssertionError(phase)


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


def test_a_request_to_shred_follows_the_study_to_its_new_key(archive: Path) -> None:
    configure("[keys]", "shred_approvals = 2")
    request = str(told("shred", "request", STUDY, "--reason", "r", "--officer", "Meyer")["request"])
    run(*COMMAND)
    run(*COMMAND)
    run("shred", "approve", request, "--officer", "Schmidt")
    assert found() == list(UIDS[1:])
    run("index", "rebuild")
    assert found() == list(UIDS[1:])
    whys = [each["why"] for each in told("shred", "list")["shreds"]]  # type: ignore[attr-defined]
    assert sorted(whys) == ["rekeyed", "rekeyed", "shredded"]


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


def test_who_holds_the_archive_and_does_not_do_it_is_named(archive: Path) -> None:
    code = "from coffer.server.keyops import rekey_order as r; from coffer.server.cli import main; "
    code += f"r._STILL_SECONDS = 0.3; main({[*COMMAND]})"
    with engine(write=True):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 6
    assert f"pid {os.getpid()}" in done.stderr
    with engine() as opened:
        assert len(rekey.under_way(opened.keyring)) == 1
        assert len(opened.index.key_ids_of(STUDY)) == 1
    run(*COMMAND)
    assert len(events(Kind.STUDY_REKEYED)) == 1


def test_a_shred_by_another_process_in_the_middle_is_stronger(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, officers = Rekeyer._sealed, []

    def shredding(self: Rekeyer, *args: object) -> object:
        if not officers:
            changes = self._keyring.changes()
            officers.append(subprocess.Popen([COFFER, "shred", STUDY, "--reason", "r", "--yes"]))
            deadline = time.monotonic() + 30
            while self._keyring.changes() == changes:
                assert time.monotonic() < deadline
                time.sleep(0.02)
        return real(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Rekeyer, "_sealed", shredding)
    run(*COMMAND)
    assert officers[0].wait(30) == 0
    assert found() == list(UIDS[1:])
    run("index", "rebuild")
    assert found() == list(UIDS[1:])
    assert events(Kind.STUDY_REKEYED) == []


def test_a_damaged_object_keeps_the_key_and_repair_lets_it_go_on(archive: Path) -> None:
    whole = got(STUDY)
    with engine() as opened:
        located = next(iter(opened.index.locate({0x0020000D: (STUDY,)})))
        position = located.versions[0].position
    shutil.copytree("data", "copy")
    segment = archive / "segments" / f"{position.segment:08d}.seg"
    flip(segment, position.offset + 160 + position.body_len // 2)
    said = run(*COMMAND, code=3).output
    assert f"record {position.seq} of the study does not open" in said
    with engine() as opened:
        assert rekey.under_way(opened.keyring)[0].stuck == position.seq
    flip(segment, position.offset + 160 + position.body_len // 2)
    with engine(write=True) as opened:
        (said,) = RekeyJob(services(opened)).concerns()
    assert f"record {position.seq} does not open" in said
    run(*COMMAND)
    assert got(STUDY) == whole
    assert len(events(Kind.STUDY_REKEYED)) == 1


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


def test_what_is_sent_during_the_change_over_waits_and_goes_under_the_new_key(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, senders, outcomes = Rekeyer._change_over, [], []
    more = next(slices(STUDY, "P-4711"))
    more.SOPInstanceUID = STUDY + ".1.99"
    with engine(write=True) as opened:

        def send_one() -> None:
            request = StoreRequest(
                str(more.SOPClassUID), str(more.SOPInstanceUID), EXPLICIT_LE, Principal.peer("TESTER")
            )
            reception = services(opened).ingest.begin(request)
            reception.write(encoded(more))
            outcomes.append(status(reception.finish()))

        def changing_over(self: Rekeyer, *args: object) -> None:
            senders.append(threading.Thread(target=send_one))
            senders[0].start()
            senders[0].join(0.5)
            assert outcomes == []  # it waits
            real(self, *args)  # type: ignore[arg-type]

        monkeypatch.setattr(Rekeyer, "_change_over", changing_over)
        order(opened, one_study(opened, STUDY), "r", Principal.here(None))
        Rekeyer(opened, pause=services(opened).committer.paused).run()
        senders[0].join(30)
        assert outcomes == [0]
    assert len(got(STUDY)) == 4
    assert len(key_ids(STUDY)) == 1


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


@contextmanager
def serving() -> Iterator[subprocess.Popen[str]]:
    """A server of the archive, in a process of its own."""
    with Path("server.log").open("w", encoding="utf-8") as out:
        server = subprocess.Popen([COFFER, "serve"], stdout=out, stderr=out, text=True)
    try:
        deadline = time.monotonic() + 30
        while "serving" not in Path("server.log").read_text(encoding="utf-8"):
            assert time.monotonic() < deadline, Path("server.log").read_text(encoding="utf-8")
            assert server.poll() is None, Path("server.log").read_text(encoding="utf-8")
            time.sleep(0.05)
        yield server
    finally:
        server.terminate()
        assert server.wait(30) == 0, Path("server.log").read_text(encoding="utf-8")


def send(port: int, datasets: list[Dataset]) -> list[int]:
    """C-STORE; the statuses."""
    from pynetdicom import AE

    ae = AE("TESTER")
    for uid in {str(ds.SOPClassUID) for ds in datasets}:
        ae.add_requested_context(uid, EXPLICIT_LE)
    association = ae.associate("127.0.0.1", port)
    assert association.is_established
    try:
        return [int(association.send_c_store(ds).Status) for ds in datasets]
    finally:
        association.release()


def test_a_server_goes_on_with_what_was_stopped_while_it_stores(archive: Path) -> None:
    whole, (old,) = got(STUDY), key_ids(STUDY)
    port = int(tomllib.loads(Path("coffer.toml").read_text(encoding="utf-8"))["dimse"]["port"])
    datasets = [copy.deepcopy(ds) for ds in list(slices(STUDY, "P-4711")) * 20]
    for number, ds in enumerate(datasets):
        ds.SOPInstanceUID = f"{STUDY}.1.{100 + number}"
        ds.file_meta = Dataset()
        ds.file_meta.TransferSyntaxUID = EXPLICIT_LE
    stop_in(rekey.Phase.SEALING)
    statuses: list[int] = []
    with serving():
        sender = threading.Thread(target=lambda: statuses.extend(send(port, datasets)))
        sender.start()
        shown = told(*COMMAND)
        sender.join(60)
        assert len(json.loads(run("find", "--json").stdout)) == 3
        assert {name: data for name, data in got(STUDY).items() if name in whole} == whole
    assert statuses == [0] * len(datasets)
    assert key_ids(STUDY) == {bytes.fromhex(str(shown["new_keys"][0]))}  # type: ignore[index]
    assert len(got(STUDY)) == 3 + len(datasets)
    with engine() as opened, pytest.raises(SupersededError):
        opened.keyring.study(old)
    rows = index_rows()
    run("index", "rebuild")
    assert index_rows() == rows
