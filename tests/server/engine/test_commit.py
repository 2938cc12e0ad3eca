"""Committing: who waits shares a sync, twins are stored once, a stale key stores nothing, a fault reaches everybody."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from coffer.archive.body.sealed_body import own_memory
from coffer.archive.format.entry import SealedFile
from coffer.archive.log import LogWriter
from coffer.archive.verify.verify import Verifier
from coffer.index.index import Index
from coffer.index.instance.identity import PartId
from coffer.keys.errors import IntegrityError, UnavailableError
from coffer.server.access.principal import Principal
from coffer.server.config.settings import Config, Http, Keys, Logging
from coffer.server.engine.archive import WritableArchive
from coffer.server.engine.commit import Committed, Committer, Parcel, Sealed
from coffer.server.engine.create import create_archive
from coffer.server.engine.opening import open_reading, open_writer
from coffer.server.main.demo import encoded, sample_study
from coffer.server.observe import logs
from coffer.server.services.api import StoreRequest
from tests.captured_logs import capture_logs
from tests.services import services

CT, EXPLICIT_LE = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"


@pytest.fixture(autouse=True)
def _logs() -> None:
    """Warnings are written, whatever another test of this process has configured."""
    logs.configure(Logging(), level="warning")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[WritableArchive]:
    config = Config(archive=tmp_path / "archive", http=Http(enabled=False), keys=Keys(key_file=tmp_path / "key"))
    create_archive(config)
    with open_writer(config) as opened:
        yield opened
    with open_reading(config) as opened:
        assert not list(Verifier(opened.folder).findings())


class KeepingPort:
    """Keeps what would be committed."""

    def __init__(self, committer: Committer) -> None:
        self.study_key = committer.study_key
        self.require_key = committer.require_key
        self.parcels: list[Parcel] = []

    def memory(self, length: int) -> memoryview:
        return own_memory(length)

    def commit(self, sealed: Sealed, body: memoryview | SealedFile) -> Committed:
        self.parcels.append(Parcel(sealed, body))
        return Committed(0)


def part(study: str) -> PartId:
    """Of the sample's patient."""
    return PartId(study, str(sample_study()[0].PatientID))


def parcels(engine: WritableArchive, study: str, count: int, **more: str) -> list[Parcel]:
    """Objects of one study, sealed and not yet committed."""
    port = KeepingPort(services(engine).committer)
    ingest = type(services(engine).ingest)(engine.intake, port, engine.policy, engine.index.rules)  # type: ignore[arg-type]
    for number in range(count):
        ds = sample_study()[0]
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = study, f"{study}.1", f"{study}.1.{number}"
        for keyword, value in more.items():
            setattr(ds, keyword, value)
        reception = ingest.begin(StoreRequest(CT, ds.SOPInstanceUID, EXPLICIT_LE, Principal.peer("TEST")))
        reception.write(encoded(ds))
        assert reception.finish().error is None
    return port.parcels


def test_who_waits_while_a_commit_runs_shares_the_next_sync(
    engine: WritableArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, go_on = threading.Event(), threading.Event()
    groups: list[int] = []
    append = LogWriter.append

    def slow(self: LogWriter, entries: list[object]) -> object:
        groups.append(len(entries))
        if len(groups) == 1:
            held.set()
            assert go_on.wait(30)
        return append(self, entries)  # type: ignore[arg-type]

    ready = parcels(engine, "1.2.3", 8)
    monkeypatch.setattr(LogWriter, "append", slow)
    done: list[Committed] = []
    threads = [
        threading.Thread(target=lambda parcel=parcel: done.extend(services(engine).committer.commit([parcel])))
        for parcel in ready
    ]
    threads[0].start()
    assert held.wait(30)
    for thread in threads[1:]:
        thread.start()
    while len(services(engine).committer._queue) < 7:
        threading.Event().wait(0.001)
    assert done == []
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert groups == [2, 7]  # the study's key with its first object, then all the others
    assert sorted(result.seq for result in done) == list(range(1, 9))


def test_twins_in_one_batch_are_stored_once(engine: WritableArchive) -> None:
    (one,) = parcels(engine, "1.2.3", 1)
    first, second = services(engine).committer.commit([one, one])
    assert (first.duplicate, second.duplicate) == (False, True)
    assert first.seq == second.seq
    (again,) = services(engine).committer.commit([one])
    assert again == Committed(first.seq, duplicate=True)
    assert engine.stats().objects == 1


@pytest.mark.parametrize("together", [True, False])
def test_only_the_newest_version_has_duplicates(engine: WritableArchive, together: bool) -> None:
    """A, B, A: the last one counts. The same bytes under another transfer syntax are another version too."""
    (first,), (other,) = parcels(engine, "1.2.3", 1), parcels(engine, "1.2.3", 1, PatientComments="corrected")
    back = _naming(first, other)
    coded = Parcel(_with(first.sealed, transfer_syntax="1.2.840.10008.1.2.4.70"), first.body)
    sent = [first, _naming(other, first), back, back, _naming(coded, first)]
    with capture_logs() as lines:
        if together:
            done = services(engine).committer.commit(sent)
        else:
            done = [result for each in sent for result in services(engine).committer.commit([each])]
    assert [result.duplicate for result in done] == [False, False, False, True, False]
    assert [result.seq for result in done] == [1, 2, 3, 3, 4]
    (found,) = engine.index.locate({0x0020000D: ("1.2.3",)})
    assert (found.version.seq, found.version.transfer_syntax) == (4, "1.2.840.10008.1.2.4.70")
    told = [line for line in lines if line["log_level"] == "warning"]
    assert [line["event"] for line in told] == [
        "another version of an instance was stored and is served from now on"
    ] * 3
    assert all((line["calling_ae"], line["another_patient"]) == ("TEST", False) for line in told)
    assert "1.2.3" not in str(told)
    value = engine.metrics.registry.get_sample_value
    assert value("coffer_object_versions_total", {"outcome": "replaced"}) == 3


def test_two_patients_under_one_study_uid_have_two_keys_and_are_told(engine: WritableArchive) -> None:
    mine = parcels(engine, "1.2.3", 2)
    theirs = parcels(engine, "1.2.3", 1, PatientID="ANOTHER")
    assert mine[0].sealed.key_id != theirs[0].sealed.key_id
    with capture_logs() as lines:
        services(engine).committer.commit([mine[0], _naming(theirs[0], mine[0])])
        services(engine).committer.commit([mine[1]])
    events = [line["event"] for line in lines if line["log_level"] == "warning"]
    assert events == [
        "another version of an instance was stored and is served from now on",
        "objects of several patients have one Study Instance UID",
    ]
    assert engine.metrics.registry.get_sample_value("coffer_objects_moved_total") == 1
    assert engine.stats().shared_studies == 1
    assert {each.patient.patient_id for each in engine.index.locate({0x0020000D: ("1.2.3",)})} == {
        "ANOTHER",
        part("1.2.3").patient_id,
    }


def test_a_study_whose_record_the_index_did_not_take_keeps_its_key(
    engine: WritableArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = services(engine).committer.study_key(part("1.2.3"))
    services(engine).committer.commit(parcels(engine, "1.2.3", 1))

    def damaged(*_: object, **__: object) -> None:
        raise IntegrityError("a damaged row")

    with monkeypatch.context() as patch:
        patch.setattr(Index, "_apply", damaged)
        with pytest.raises(IntegrityError):
            engine.index.follow()
    services(engine).committer.commit(parcels(engine, "1.2.4", 1))
    assert services(engine).committer.study_key(part("1.2.3")).key_id == key.key_id


def test_an_index_that_is_behind_is_caught_up_when_the_archive_is_opened(
    engine: WritableArchive, tmp_path: Path
) -> None:
    services(engine).committer.commit(parcels(engine, "1.2.3", 1))
    engine.index.flush()
    behind = (engine.folder.index / "data.mdb").read_bytes()
    services(engine).committer.commit(parcels(engine, "1.2.4", 3))
    config = engine.config
    engine.close()
    (engine.folder.index / "data.mdb").write_bytes(behind)
    with open_reading(config) as reading:
        assert (reading.stats().objects, reading.stats().index_lag) == (4, 4)
    with open_writer(config) as opened:
        assert (opened.stats().objects, opened.stats().index_lag) == (4, 0)
        assert services(opened).committer.commit(parcels(opened, "1.2.4", 1))[0].duplicate


def test_what_was_sealed_under_another_key_is_not_stored(engine: WritableArchive) -> None:
    mine, other = parcels(engine, "1.2.3", 1) + parcels(engine, "1.2.4", 1)
    wrong = Parcel(_with(mine.sealed, key_id=other.sealed.key_id), mine.body)
    (result,) = services(engine).committer.commit([wrong])
    assert result == Committed(stale=True)
    assert engine.log.next_seq == 0


@pytest.mark.parametrize("together", [True, False])
def test_a_version_that_does_not_name_the_newest_before_it_is_not_stored(
    engine: WritableArchive, together: bool
) -> None:
    """It is told which one that is, in the log or before it in the batch, and may try as often as others are faster."""
    (one,), (two,) = parcels(engine, "1.2.3", 1), parcels(engine, "1.2.3", 1, PatientComments="2")
    (three,) = parcels(engine, "1.2.3", 1, PatientComments="3", PatientID="ANOTHER")
    commit = services(engine).committer.commit
    first, late = commit([one, two]) if together else [*commit([one]), *commit([two])]
    assert first == Committed(1)
    assert late == Committed(stale=True, previous=one.sealed.content_id)
    assert commit([_naming(three, one)])[0].seq > 1
    assert commit([_naming(two, one)]) == [Committed(stale=True, previous=three.sealed.content_id)]
    assert commit([_naming(two, three)])[0].seq > 1
    chain = [each.located.version for each in engine.index.versions("1.2.3.1.0")]
    assert [each.previous for each in chain] == [b"", one.sealed.content_id, three.sealed.content_id]


def test_a_first_version_that_names_another_is_not_stored(engine: WritableArchive) -> None:
    (one,), (two,) = parcels(engine, "1.2.3", 1), parcels(engine, "1.2.3", 1, PatientComments="2")
    assert services(engine).committer.commit([_naming(one, two)]) == [Committed(stale=True, previous=b"")]
    assert engine.log.next_seq == 0


def _naming(parcel: Parcel, before: Parcel) -> Parcel:
    """The same, as if it were sealed with the name of the version before it."""
    return Parcel(_with(parcel.sealed, previous=before.sealed.content_id), parcel.body)


def _with(sealed: Sealed, **changes: object) -> Sealed:
    values = {name: getattr(sealed, name) for name in sealed.__struct_fields__}
    return Sealed(**{**values, **changes})


def test_a_fault_reaches_everybody_who_waits(engine: WritableArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    ready = parcels(engine, "1.2.3", 3)

    def fails(self: LogWriter, entries: object) -> object:
        raise ZeroDivisionError

    monkeypatch.setattr(LogWriter, "append", fails)
    with pytest.raises(UnavailableError, match="internal error"):
        services(engine).committer.commit(ready)
    monkeypatch.undo()
    assert [result.seq for result in services(engine).committer.commit(ready)] == [1, 2, 3]
