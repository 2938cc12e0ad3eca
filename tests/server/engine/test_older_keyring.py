"""A keyring that lacks what the newest minute of the log has, and one that only looks so in the middle of a change."""

import shutil
from pathlib import Path

import msgspec
import pytest

from coffer.archive.events import codec
from coffer.archive.events.event import Event
from coffer.archive.events.holds import HoldAdded, HoldRemoved
from coffer.archive.events.recorded import Occurrence
from coffer.archive.events.shares import CopyGone, CopyRegistered
from coffer.archive.events.shreds import ShredCancelled, ShredRequested, StudyShredded
from coffer.archive.format.record import Kind
from coffer.keys.clock import clock_ms
from coffer.keys.errors import HistoryError
from coffer.keys.values.officer_record import RecordKind
from coffer.server.engine.archive import WritableArchive
from coffer.server.maintenance.offline import inspect_keyring
from tests.archive.events.samples import sample
from tests.promises.kept import Kept

_NOTE = bytes(range(4))
_CLASSES: dict[RecordKind, tuple[str, type[Event], type[Event]]] = {
    RecordKind.HOLD: ("hold", HoldAdded, HoldRemoved),
    RecordKind.REQUEST: ("request", ShredRequested, ShredCancelled),
    RecordKind.COPY: ("copy", CopyRegistered, CopyGone),
}


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    made = Kept.create(tmp_path / "kept")
    with made.opened() as engine:
        made.put(engine, 1, 1)
    return made


def _say(engine: WritableArchive, kind: RecordKind, *, begins: bool) -> None:
    """Write, or take away, a note of the keyring with the event that tells of it, as `keys.mailbox.officer_records`
    does."""
    name, added, removed = _CLASSES[kind]
    event = msgspec.structs.replace(sample(added if begins else removed), **{name: _NOTE.hex()})
    told = engine.enclosed(Occurrence(event, clock_ms()))
    place = kind.row_key(_NOTE.hex())
    assert engine.keyring.amend([told.row, *([(place, b"sealed")] if begins else [])], [] if begins else [place])


@pytest.mark.parametrize("kind", _CLASSES)
def test_a_note_that_the_log_knows_and_the_keyring_does_not(kept: Kept, tmp_path: Path, kind: RecordKind) -> None:
    with kept.opened() as engine:
        shutil.copytree(kept.archive / "keyring", tmp_path / "then")
        _say(engine, kind, begins=True)
        engine.deliver()  # the server was killed before it signed
        killed = kept.copy(tmp_path / "killed")
    shutil.rmtree(killed.archive / "keyring")
    shutil.copytree(tmp_path / "then", killed.archive / "keyring")
    with (
        pytest.raises(HistoryError, match="1 holds, requests to shred or registered copies are missing from it"),
        killed.opened(),
    ):
        pass


@pytest.mark.parametrize("kind", _CLASSES)
@pytest.mark.parametrize("delivered", [0, 1, 2])
def test_an_event_that_is_on_its_way_is_no_alarm(kept: Kept, tmp_path: Path, kind: RecordKind, delivered: int) -> None:
    """The keyring is ahead of the log for a moment: killed there, the archive opens."""
    with kept.opened() as engine:
        _say(engine, kind, begins=True)
        if delivered:
            engine.deliver()
        _say(engine, kind, begins=False)
        if delivered == 2:
            engine.deliver()
        killed = kept.copy(tmp_path / "killed")
    with killed.opened() as engine:
        assert engine.key_trouble == []
        assert killed.put(engine, 2, 1) == [0]


def test_the_look_without_a_key_counts_the_keys_that_are_missing(kept: Kept, tmp_path: Path) -> None:
    with kept.opened() as engine:
        shutil.copytree(kept.archive / "keyring", tmp_path / "then")
        for study in (2, 3):
            kept.put(engine, study, 1)
        killed = kept.copy(tmp_path / "killed")
        assert inspect_keyring(engine.folder).objection is None
    with killed.opened(write=False) as engine:
        folder = engine.folder
    assert inspect_keyring(folder).findings == ()
    shutil.rmtree(killed.archive / "keyring")
    shutil.copytree(tmp_path / "then", killed.archive / "keyring")
    (finding,) = inspect_keyring(folder).findings
    assert finding.what == "the keyring is older than the log: 2 studies have no key"
    shutil.rmtree(killed.archive / "keyring")
    assert inspect_keyring(folder).findings == ()  # a copy of the log alone is whole in itself
    assert str(inspect_keyring(folder).objection) == "there is no keyring beside the log"


def test_a_shred_that_only_a_newer_version_understands_keeps_the_archive_shut(
    kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The header of its record names the key, which an older keyring still has: it must not be used."""
    with kept.opened() as engine:
        (key_id,) = {header.study_key_id for _, header in engine.reader.records() if header.kind == Kind.OBJECT}
        engine.record_event(sample(StudyShredded), key_id)
        killed = kept.copy(tmp_path / "killed")
    monkeypatch.delitem(codec._BY_CODE, (StudyShredded.code, StudyShredded.version))
    with pytest.raises(HistoryError, match="a newer version of Coffer has shredded"), killed.opened():
        pass
