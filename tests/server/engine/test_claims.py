"""The keyring decides under which key an object is stored and whether the log announces it; the index does not."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from coffer.archive.format.record import Kind
from coffer.archive.log import LogWriter
from coffer.index.index import Index
from coffer.index.instance.identity import PartId
from coffer.keys.crypto.study_key import StudyKey
from coffer.keys.errors import UnavailableError
from coffer.keys.keyring.claims import RECORDED, Claim, Claims, claim_key
from coffer.server.access.principal import Principal
from coffer.server.config.settings import Config, Http, Keys
from coffer.server.engine.archive import ReadableArchive, WritableArchive
from coffer.server.engine.create import create_archive
from coffer.server.engine.opening import open_reading, open_writer
from coffer.server.main.demo import encoded, sample_study
from coffer.server.services.api import StoreRequest
from tests.services import services

CT, EXPLICIT_LE = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
STUDY, OTHER = "1.2.3", "1.2.4"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    config = Config(archive=tmp_path / "archive", http=Http(enabled=False), keys=Keys(key_file=tmp_path / "key"))
    create_archive(config)
    return config


def store(archive: WritableArchive, study: str, number: int) -> None:
    ds = sample_study()[0]
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID = study, f"{study}.1", f"{study}.1.{number}"
    reception = services(archive).ingest.begin(StoreRequest(CT, ds.SOPInstanceUID, EXPLICIT_LE, Principal.peer("TEST")))
    reception.write(encoded(ds))
    if error := reception.finish().error:
        raise error


def part(study: str) -> PartId:
    """Of the sample's patient."""
    return PartId(study, str(sample_study()[0].PatientID))


def records(archive: ReadableArchive) -> list[tuple[Kind, bytes]]:
    """Kind and key of every record of an object or a new key."""
    told = (header for _, header in archive.reader.records())
    return [(Kind(h.kind), h.study_key_id) for h in told if h.kind in {Kind.OBJECT, Kind.STUDY_KEY_CREATED}]


def removed(config: Config) -> None:
    shutil.rmtree(config.archive / "index")


def emptied(config: Config) -> None:
    with open_writer(config) as archive:
        archive.index.clear()
        archive.index.advance(archive.log.tip)  # says that it has everything


def planted(config: Config) -> None:
    """An index in which the part's row names another study's key."""
    with open_writer(config) as archive:
        ours, theirs = (services(archive).committer.study_key(part(study)).key_id for study in (STUDY, OTHER))
        version = archive.index.newest_of(STUDY, f"{STUDY}.1", f"{STUDY}.1.1")
        assert version is not None
        archive.index.rekey(archive.index.study_token(STUDY), ours, theirs, {})
        archive.index.flush()


@pytest.mark.parametrize("spoil", [removed, emptied, planted])
def test_whatever_becomes_of_the_index_a_study_keeps_its_key(config: Config, spoil: Callable[[Config], None]) -> None:
    with open_writer(config) as archive:
        for study in (STUDY, OTHER):
            store(archive, study, 1)
        before = records(archive)
        keys = [services(archive).committer.study_key(part(study)).key_id for study in (STUDY, OTHER)]
    spoil(config)
    with open_writer(config) as archive:
        for study in (STUDY, OTHER):
            store(archive, study, 2)
        assert records(archive) == [*before, (Kind.OBJECT, keys[0]), (Kind.OBJECT, keys[1])]


def test_a_key_is_announced_once_with_its_first_object(config: Config) -> None:
    with open_writer(config) as archive:
        for number in range(3):
            store(archive, STUDY, number)
        kinds = [kind for kind, _ in records(archive)]
        assert kinds == [Kind.STUDY_KEY_CREATED, *[Kind.OBJECT] * 3]
        assert archive.keyring.claims.find(part(STUDY).text) == Claim(records(archive)[0][1], RECORDED)


def test_a_key_without_a_record_is_announced_after_a_restart(config: Config) -> None:
    with open_writer(config) as archive:
        store(archive, OTHER, 1)
        key = services(archive).committer.study_key(part(STUDY))
        store(archive, OTHER, 2)
    with open_writer(config) as archive:
        store(archive, STUDY, 1)
        assert records(archive)[-2:] == [(Kind.STUDY_KEY_CREATED, key.key_id), (Kind.OBJECT, key.key_id)]


def test_a_stop_before_the_claim_says_so_announces_no_key_twice(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as stopped, open_writer(config) as archive:
        stopped.setattr(Claims, "settle", lambda _: None)
        store(archive, STUDY, 1)
        key_id, place = records(archive)[0][1], claim_key(archive.keyring.claims.token(part(STUDY).text))
    with open_reading(config) as reader:
        assert Claim.decode(reader.keyring.row(place) or b"").from_seq != RECORDED
    with open_writer(config) as archive:
        store(archive, STUDY, 2)
        assert records(archive) == [(Kind.STUDY_KEY_CREATED, key_id), (Kind.OBJECT, key_id), (Kind.OBJECT, key_id)]
        archive.reconcile()
        assert archive.keyring.row(place) == Claim(key_id, RECORDED).encode()


def test_a_record_that_was_not_written_announces_nothing(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_writer(config) as archive:
        with monkeypatch.context() as full:
            full.setattr(LogWriter, "append", _full)
            with pytest.raises(UnavailableError):
                store(archive, STUDY, 1)
        store(archive, STUDY, 1)
        assert [kind for kind, _ in records(archive)] == [Kind.STUDY_KEY_CREATED, Kind.OBJECT]


def _full(*_: object) -> None:
    raise UnavailableError("no space is left")


def test_the_index_is_never_asked_for_a_key(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """A study whose record the index did not take keeps its key."""
    with open_writer(config) as archive:
        keys: list[StudyKey] = []
        for number in range(2):
            with monkeypatch.context() as patch:
                patch.setattr(Index, "accept", lambda *_, **__: None)
                store(archive, STUDY, number)
            keys.append(services(archive).committer.study_key(part(STUDY)))
        assert keys[0].key_id == keys[1].key_id
        assert [kind for kind, _ in records(archive)] == [Kind.STUDY_KEY_CREATED, Kind.OBJECT, Kind.OBJECT]
