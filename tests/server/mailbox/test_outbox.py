"""Events move from the keyring into the log exactly once, wherever the writer dies."""

import os
from collections import Counter
from pathlib import Path

import pytest

from coffer.archive.events.recorded import Occurrence
from coffer.archive.format.record import Kind
from coffer.archive.reader import LogReader
from coffer.archive.store.folder import ArchiveFolder
from coffer.keys.mailbox import events
from coffer.server.config.settings import Config, Http, Keys, Storage
from coffer.server.engine.archive import WritableArchive
from coffer.server.engine.create import create_archive
from coffer.server.engine.opening import open_writer
from tests.archive.events.samples import ANY
from tests.server.stopped import stop_at

DURABLE_STEPS = 3  # of one event: where to look for it is noted, it is appended, it is removed


@pytest.fixture
def config(tmp_path: Path) -> Config:
    made = Config(
        archive=tmp_path / "archive", http=Http(enabled=False), keys=Keys(key_file=tmp_path / "key"),
        storage=Storage(reserve_bytes=0),
    )  # fmt: skip
    create_archive(made)
    return made


def leave(archive: WritableArchive, number: int) -> None:
    """Leave two events that no other call leaves."""
    said = [Occurrence(ANY, 1000 * number + each) for each in range(2)]
    events.leave(archive.keyring, [archive.enclosed(each) for each in said])


def dies_while_delivering(config: Config, step: int) -> bool:
    """Deliver two events in a process that dies before or after one of its durable steps; whether it came so far."""
    child = os.fork()
    if child == 0:
        code = 70
        try:
            with open_writer(config) as archive:
                leave(archive, step)
                stop_at(step)
                assert archive.deliver() == 2
                code = 0
                os._exit(code)
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in {0, 77}
    return code == 77


def times_logged(config: Config) -> Counter[bytes]:
    """How often each event is in the log, by content id."""
    reader = LogReader(ArchiveFolder.open(config.archive))
    found = Counter(header.content_id for _, header in reader.records() if header.kind == Kind.STATE)
    reader.close()
    return found


def test_killed_at_every_step_each_event_is_logged_once(config: Config) -> None:
    step = 1
    while dies_while_delivering(config, step):
        step += 1
        with open_writer(config) as archive:
            assert (events.waiting(archive.keyring), archive.deliver()) == ([], 0)  # done at opening
    assert step >= 2 * 2 * DURABLE_STEPS + 1  # each of them was died at, and every further one
    logged = times_logged(config)
    assert (len(logged), set(logged.values())) == (2 * step, {1})


def test_an_event_noted_as_tried_and_not_appended_is_appended(config: Config) -> None:
    with open_writer(config) as archive:
        leave(archive, 1)
        (first, second) = events.waiting(archive.keyring)
        events.tried(archive.keyring, first, archive.log.next_seq)
        assert archive.deliver() == 2
        assert events.waiting(archive.keyring) == []
    assert times_logged(config) == {first.content_id: 1, second.content_id: 1}
