"""Finishing shreds by commands: the two steps, what they leave in the index, and a stop anywhere in either."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from coffer.archive.events.epochs import EpochDestroyed, EpochRotated
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.writer_lock import WriterLock
from coffer.index.tables.sealed_rows import INSTANCE, SERIES, STUDY
from coffer.keys.buffer import Buffer
from coffer.keys.disk.syscalls import SystemCalls
from coffer.server.access.principal import Principal
from coffer.server.config.load import load_config
from coffer.server.engine.archive import WritableArchive
from coffer.server.engine.opening import open_for_keys, open_writer
from coffer.server.erasure.shred import wait_until_compacted
from coffer.server.keyops.epochs import EpochAdmin
from tests.server import three_studies
from tests.server.filled import copy_archive, part10, run, told
from tests.server.stopped import in_memory, stopped
from tests.server.three_studies import UIDS, effective_at_once, events, found, put, slices, states

tmp_path = in_memory
archive = three_studies.archive


def epochs() -> list[tuple[int, str, int]]:
    """Every epoch: number, state, study keys."""
    return [
        (e["epoch"], e["state"], e["study_keys"]) for e in json.loads(run("keys", "list", "--json").stdout)["epochs"]
    ]


def test_finishing_takes_two_steps_and_erases(archive: Path) -> None:
    run("shred", UIDS[0], "--reason", "r", "--yes")
    assert told("shred", "finish")["moved"] == 0  # backups may hold it
    assert epochs() == [(1, "active", 2)]
    effective_at_once()
    run("shred", UIDS[1], "--reason", "r", "--yes")
    first = told("shred", "finish")
    assert (first["epoch"], first["moved"], first["destroyed"], first["to_be_destroyed"]) == (2, 1, [], [1])
    said = run("shred", "finish").output
    assert "make no backup yet" in said
    assert "now back up" not in said
    assert epochs() == [(1, "retired", 0), (2, "active", 1)]
    assert states() == ["scheduled", "scheduled"]
    assert told("shred", "finish")["moved"] == 0
    put("1.2.3.5")
    second = told("shred", "finish", "--destroy")
    assert (second["destroyed"], second["effective"], second["scheduled"]) == ([1], 1, 1)
    assert epochs() == [(1, "destroyed", 0), (2, "active", 2)]
    assert states() == ["scheduled", "effective"]  # the first one's days are not over
    assert told("shred", "finish", "--destroy")["destroyed"] == []
    assert found() == [UIDS[2], "1.2.3.5"]
    (event,) = events(EpochDestroyed)
    assert (event.epoch, event.provider) == (1, "keyfile")
    assert [(each.epoch, each.moved) for each in events(EpochRotated)] == [(2, 1)]
    run("get", "--study", UIDS[2], "--out", "out")


def traces(engine: WritableArchive, study_uid: str) -> set[bytes]:
    """What the index has on disk for a study: the tokens of its UIDs, and its sealed rows."""
    engine.index.flush()
    tables, found = engine.index._tables, set()
    instances = [each.sop_instance for each in engine.index.locate({0x0020000D: (study_uid,)})]
    uids = [(STUDY, study_uid), (SERIES, study_uid + ".1"), *((INSTANCE, uid) for uid in instances)]
    for kind, uid in uids:
        token = tables.token(kind, uid)
        found.add(token)
        table = {STUDY: "study", SERIES: "series", INSTANCE: "instance"}[kind]
        found |= {tables.store.get(table, ref) or b"" for ref in tables.under(token)}
    assert len(found) == 2 * len(uids)
    return found


def in_the_index(needles: set[bytes]) -> int:
    """How many of them stand anywhere in the index's files."""
    files = [path.read_bytes() for path in Path("data/index").iterdir()]
    return sum(any(needle in content for content in files) for needle in needles)


def test_nothing_of_the_study_is_left_in_the_index_when_its_epoch_ended(archive: Path) -> None:
    effective_at_once()
    Path("many").mkdir()
    for number in range(80):
        ds = next(slices(UIDS[0], "P-4711"))
        ds.SOPInstanceUID += f".{number}"
        Path(f"many/{number}").write_bytes(part10(ds))
    run("put", "many")
    with open_writer(load_config(Path("coffer.toml"))) as engine:
        gone, kept = traces(engine, UIDS[0]), traces(engine, UIDS[1])
    run("shred", UIDS[0], "--reason", "r", "--yes")
    run("shred", "finish")
    assert in_the_index(gone) > 0  # in pages that LMDB does not use any more, and in gaps of others
    assert told("shred", "finish", "--destroy")["index_written_anew"] is True
    assert in_the_index(gone) == 0
    assert in_the_index(kept) == len(kept)
    put("1.2.3.5")
    assert in_the_index(gone) == 0
    assert found() == [UIDS[1], UIDS[2], "1.2.3.5"]
    assert sorted(path.name for path in Path("data/index").iterdir()) == ["data.mdb", "lock.mdb"]


def test_finishing_waits_for_whoever_writes_the_index(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    effective_at_once()
    run("shred", UIDS[0], "--reason", "r", "--yes")
    run("shred", "finish")
    with (
        WriterLock(ArchiveFolder.open(archive).lock, "coffer serve", 1),
        open_for_keys(load_config(Path("coffer.toml"))) as engine,
    ):
        EpochAdmin(engine.folder, engine.keyring, engine.config.keys, Principal.here(None), "a test").end(1)
        assert not wait_until_compacted(engine, 0.2)
    real = SystemCalls.writev

    def full(fd: int, buffers: Sequence[Buffer]) -> int:
        if Path(f"/proc/self/fd/{fd}").readlink().name == ".data.mdb.new":
            raise OSError(28, "No space left on device")
        return real(fd, buffers)

    with monkeypatch.context() as patched:
        patched.setattr(SystemCalls, "writev", staticmethod(full))
        opened = open_writer(load_config(Path("coffer.toml")))  # it opens all the same
    with opened as engine:
        assert not wait_until_compacted(engine, 0.2)  # a copy is not tried again at once
        engine._reconciler._compact_after = 0.0
        assert wait_until_compacted(engine, 0.2)


def test_finishing_early_destroys_before_the_days_are_over(archive: Path) -> None:
    run("shred", UIDS[0], "--reason", "r", "--yes")
    assert told("shred", "finish", "--early")["to_be_destroyed"] == [1]
    assert told("shred", "finish", "--early", "--destroy")["destroyed"] == [1]
    assert states() == ["scheduled"]
    assert found() == [UIDS[1], UIDS[2]]


@pytest.mark.parametrize("step", ["first", "second"])
def test_finishing_killed_at_every_step_goes_on(archive: Path, step: str) -> None:
    effective_at_once()
    with open_writer(load_config(Path("coffer.toml"))) as engine:
        gone = traces(engine, UIDS[0])
    run("shred", UIDS[0], "--reason", "r", "--yes")
    if step == "second":
        run("shred", "finish")
    command = ("shred", "finish") if step == "first" else ("shred", "finish", "--destroy")
    copy_archive("data", "untouched")
    shutil.copy("data.key", "untouched.key")
    number = 0
    while True:
        number += 1
        code = stopped(number, *command)
        assert code in (0, 77)
        run("get", "--study", UIDS[2], "--out", "out")
        told(*command)
        assert epochs() == [(1, "retired" if step == "first" else "destroyed", 0), (2, "active", 2)]
        assert states() == ["scheduled" if step == "first" else "effective"]
        assert len(events(EpochRotated)) == 1
        assert len(events(EpochDestroyed)) == (0 if step == "first" else 1)
        assert step == "first" or not in_the_index(gone)
        if code == 0:
            break
        shutil.rmtree("data")
        copy_archive("untouched", "data")
        shutil.copy("untouched.key", "data.key")
    assert number > 10
