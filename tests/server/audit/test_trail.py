"""The trail of an open archive: durable before it returns, shared syncs, nothing dropped where none can be stored."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coffer.archive.events.accesses import AccessRecorded, Act, Actor, Subject
from coffer.archive.events.codec import MAX_EVENT_BYTES, encode
from coffer.archive.format.record import Kind
from coffer.archive.log import LogWriter
from coffer.archive.store import free_space
from coffer.keys.errors import AuditError, TooCostlyError, UnavailableError
from coffer.keys.mailbox import events
from coffer.server.audit.packing import events_of
from coffer.server.config.load import load_config
from coffer.server.config.settings import Config
from coffer.server.engine.archive import ReadableArchive, WritableArchive
from coffer.server.engine.opening import open_reading, open_writer
from tests.server.filled import run, study_files

WHO = Actor(kind="peer", name="WARD", ae_title="WARD")
KINDS = frozenset({Kind.AUDIT})


def act(reason: str = "", **more: Any) -> Act:
    return Act(at_ms=1_760_000_000_000, action="find", code="E", who=WHO, reason=reason, **more)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.chdir(tmp_path)
    Path("coffer.toml").write_text('archive = "data"\n[storage]\nreserve_bytes = 0\n')
    run("init")
    return load_config(Path("coffer.toml"))


@pytest.fixture
def archive(config: Config) -> Iterator[WritableArchive]:
    with open_writer(config) as opened:
        yield opened


def recorded(archive: ReadableArchive) -> list[list[str]]:
    """The reasons of the acts in each record of the trail."""
    found = [each.event for each in archive.events(KINDS)]
    return [[act.reason for act in each.acts] for each in found if isinstance(each, AccessRecorded)]


def failing(*_: object) -> None:
    raise UnavailableError("it is not written", hint="wait")


def test_what_is_required_is_in_the_log_on_return(archive: WritableArchive) -> None:
    archive.audit.require([act("a"), act("b")])
    assert recorded(archive) == [["a", "b"]]
    assert archive.index.applied_seq == archive.log.next_seq - 1  # the index has nothing to wait for


def test_a_note_goes_into_the_log_with_a_flush_and_at_the_end(config: Config) -> None:
    with open_writer(config) as opened:
        opened.audit.note(act("a"))
        assert recorded(opened) == []
        opened.trail.flush()
        assert recorded(opened) == [["a"]]
        opened.audit.note(act("b"))
    with open_reading(config) as reading:
        assert recorded(reading) == [["a"], ["b"]]


def test_who_waits_while_a_record_is_written_shares_the_next_sync(
    archive: WritableArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    append, groups, held, go_on = LogWriter.append, list[int](), threading.Event(), threading.Event()

    def slow(self: LogWriter, entries: Any) -> Any:
        groups.append(len(entries))
        held.set()
        assert go_on.wait(30)
        return append(self, entries)

    monkeypatch.setattr(LogWriter, "append", slow)
    threads = [threading.Thread(target=archive.audit.require, args=([act(str(n))],)) for n in range(6)]
    threads[0].start()
    assert held.wait(30)
    for thread in threads[1:]:
        thread.start()
    while len(archive.trail._waiting) < 5:
        threading.Event().wait(0.001)
    go_on.set()
    for thread in threads:
        thread.join(30)
    assert groups == [1, 5]
    assert sorted(recorded(archive)) == [[str(n)] for n in range(6)]


def test_nothing_is_dropped_while_nothing_can_be_stored(
    archive: WritableArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.trail.require_able()
    with monkeypatch.context() as patch:
        patch.setattr(LogWriter, "append", failing)
        with pytest.raises(AuditError, match="no audit record of it can be stored: it is not written") as refused:
            archive.audit.require([act("refused")])
        assert refused.value.hint() == "wait"
        archive.audit.note(act("noted"))
        archive.trail.flush()
        with pytest.raises(AuditError):
            archive.trail.require_able()
        for n in range(5000):
            archive.audit.note(act(str(n)))
        with pytest.raises(AuditError, match="busy"):
            archive.trail.require_room()
    archive.trail.flush()
    archive.trail.require_able()
    archive.trail.require_room()
    assert [each for one in recorded(archive) for each in one] == ["noted", *map(str, range(5000))]


def test_room_is_left_for_an_erasure(archive: WritableArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_space, "free_bytes", lambda _: (1 << 20) + (64 << 10))
    assert archive.log.accepts_events()
    with pytest.raises(AuditError):
        archive.audit.require([act()])
    with pytest.raises(AuditError):
        archive.trail.require_able()


def test_what_is_read_of_a_stopped_log_waits_in_the_keyring(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_writer(config) as opened:
        opened.log._failure = UnavailableError("a sync failed")
        opened.audit.require([act("a")])
        assert (len(events.waiting(opened.keyring)), recorded(opened)) == (1, [])
        opened.trail.require_able()
        monkeypatch.setattr("coffer.server.audit.trail._MOST_LEFT", 1)
        with pytest.raises(AuditError, match="too many"):
            opened.audit.require([act("b")])
    with open_writer(config) as opened:
        opened.deliver()
        assert recorded(opened) == [["a"]]


def test_a_record_stands_in_the_group_of_its_objects(config: Config) -> None:
    run("put", "--jobs", "1", *map(str, study_files(Path("in"))))
    with open_reading(config) as reading:
        headers = [header for _, header in reading.reader.records()]
    objects = [each for each in headers if each.kind == Kind.OBJECT]
    groups = {each.group for each in headers if each.kind == Kind.AUDIT}
    assert len(objects) == 3
    assert {each.group for each in objects} <= groups


def test_acts_are_packed_and_none_is_cut() -> None:
    many = tuple(Subject(patient=str(n), study=f"1.2.{n}") for n in range(10_000))
    made = list(events_of([act("a"), act("b", subjects=many), *(act(str(n)) for n in range(1000))]))
    assert all(len(encode(each)) <= MAX_EVENT_BYTES for each in made)
    acts = [each for one in made for each in one.acts]
    assert [each for one in acts if one.reason == "b" for each in one.subjects] == [*many]
    assert [each.reason for each in acts if each.reason != "b"] == ["a", *map(str, range(1000))]
    assert len(made) < 10
    with pytest.raises(TooCostlyError, match="too long to be recorded"):
        list(events_of([act(query="A" * MAX_EVENT_BYTES)]))
