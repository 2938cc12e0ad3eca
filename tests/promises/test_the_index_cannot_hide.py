"""Promise: the index cannot hide. What is stored is found, or the command says that the index was altered.

Adversary: who writes the disk. Somebody who can write to the archive folder, knows the formats, has older copies of
every file, and has no key; after each change all sums that need no key are computed anew, or none.

Each way to alter the index is crossed with each way to ask it. Honest is an answer that is the one of before, or exit
code 3 with the remedy, or a DIMSE status of failure; never "no such object" or a list without it. The remedy works, and
keeps the altered index. What was altered is not acted on: no second version of an object is stored.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from coffer.keys.errors import IndexAlteredError, UnavailableError
from coffer.server.access.principal import Principal
from coffer.server.config.load import load_config
from coffer.server.engine.opening import open_for_service, open_writer
from coffer.server.main.service import Server
from coffer.server.maintenance.index_job import IndexJob
from coffer.server.observe.metrics import Metrics
from coffer.server.services.find import Finder
from coffer.server.services.retrieve import Retriever
from tests.conftest import absent
from tests.keyless_index import Row, change_index, index_rows, of, place
from tests.peers.coffer_process import run_tool
from tests.server.filled import copy_archive, job_of, part10, run, told
from tests.server.three_studies import UIDS, configure, put, slices

INDEX = Path("data/index")
TABLES = ("study", "series", "instance", "uid")
NEWER = "1.2.3.4"  # stored after `before` was copied


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive that grew, its index before that, the index of a fork of it, and that of another archive."""
    base = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(base)
        configure()
        run("init")
        put(*UIDS)
        copy_archive("data", "start")
        put("1.2.9.1", "1.2.9.2")
        shutil.copytree(INDEX, "fork")
        shutil.rmtree("data")
        copy_archive("start", "data")
        shutil.copytree(INDEX, "before")
        put(NEWER)
        copy_archive("data", "filled")
        Path("other").mkdir()
        patched.chdir(base / "other")
        configure()
        run("init")
        put(*UIDS, NEWER)
    return base


@pytest.fixture
def base(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to change."""
    shutil.copytree(made, tmp_path / "base")
    monkeypatch.chdir(tmp_path / "base")
    copy_archive("filled", "data")  # with the mark, which another test has raised
    Path("one.dcm").write_bytes(part10(next(iter(slices(NEWER, "P-4711")))))
    return tmp_path / "base"


# Ways to alter it


def newest(table: str, rows: dict[Row, tuple[bytes, ...]]) -> Row:
    """The last row of a table that the older index does not have as it is."""
    before = index_rows(Path("before"))
    return max(row for row in rows if row[0] == table and before.get(row) != rows[row])


def removed(table: str, *, sums: bool) -> None:
    change_index(INDEX, {newest(table, index_rows(INDEX)): None}, sums=sums)


def altered(table: str) -> None:
    rows = index_rows(INDEX)
    row = newest(table, rows)
    change_index(INDEX, {row: (rows[row][0][:-1] + bytes([rows[row][0][-1] ^ 1]),)})


def put_back(table: str, *, with_sum: bool) -> None:
    """A row as it was, or was not, before; with the sum of its bucket from then."""
    rows, before = index_rows(INDEX), index_rows(Path("before"))
    where = place(newest(table, rows))
    bucket = {row for row in (*rows, *before) if row[0] == table and place(row) == where}
    sums = {where} if with_sum else set()
    change_index(INDEX, {row: before.get(row) for row in bucket | sums}, sums=with_sum)


def all_put_back_but_progress() -> None:
    """Every row as it was before, and the index still says that it has everything."""
    rows, before = index_rows(INDEX), index_rows(Path("before"))
    change_index(INDEX, {row: before.get(row) for row in {*rows, *before} if row[0] not in {"meta", "sums"}})


def all_tokens_removed() -> None:
    change_index(INDEX, {row: None for row in index_rows(INDEX) if row[0] == "uid"}, sums=False)


def replaced(source: str) -> None:
    shutil.rmtree(INDEX)
    shutil.copytree(source, INDEX)


def emptied() -> None:
    """As a new one, which the log would fill again; but it says that it has everything."""
    rows = index_rows(INDEX)
    change_index(INDEX, {row: None for row in rows if row[0] != "meta" or row[1] == b"sum"}, sums=False)


ALTERED: dict[str, Callable[[], None]] = {
    **{f"{table} removed": partial(removed, table, sums=False) for table in TABLES},
    **{f"{table} removed, sums computed": partial(removed, table, sums=True) for table in TABLES},
    **{f"{table} altered": partial(altered, table) for table in TABLES},
    **{f"{table} put back": partial(put_back, table, with_sum=False) for table in TABLES},
    **{f"{table} put back with its sum": partial(put_back, table, with_sum=True) for table in TABLES},
    "all put back but the progress": all_put_back_but_progress,
    "all tokens removed": all_tokens_removed,
    "emptied": emptied,
    "of another archive": lambda: replaced("other/data/index"),
}
OLDER: dict[str, Callable[[], None]] = {
    "as it was before": lambda: replaced("before"),
    "of a fork": lambda: replaced("fork"),
    "removed as a whole": lambda: shutil.rmtree(INDEX),
}

# Ways to ask


def files(*arguments: str) -> str:
    """What `coffer get` writes: the names and sizes."""
    shutil.rmtree("out", ignore_errors=True)
    done = run("get", *arguments, "--out", "out", code=None)
    if done.exit_code:
        return f"{done.exit_code} {done.output}"
    return str(sorted((path.name, path.stat().st_size) for path in Path("out").rglob("*.dcm")))


def asked(*arguments: str) -> str:
    done = run(*arguments, code=None)
    return f"{done.exit_code} {done.output}" if done.exit_code else done.output


def status() -> str:
    """The counts, and why they may be wrong."""
    if (done := run("status", code=None)).exit_code:
        return f"{done.exit_code} {done.output}"
    found = told("status")
    return str([found[key] for key in ("studies", "series", "objects", "shortfall")])


ASKED: dict[str, Callable[[], str]] = {
    "find all": lambda: asked("find"),
    "find one": lambda: asked("find", f"StudyInstanceUID={NEWER}"),
    "find series": lambda: asked("find", "--level", "series", f"StudyInstanceUID={NEWER}"),
    "get": lambda: files("--study", NEWER),
    "versions": lambda: asked("versions", f"{NEWER}.1.1"),
    "status": status,
    "put again": lambda: asked("put", "one.dcm"),
}


SAID = ("index was altered", "another state of the log", "there is no index")


def require_honest(before: dict[str, str], how: str) -> int:
    """Ask in every way; returns how many were refused."""
    refused = 0
    for name, ask in ASKED.items():
        answer = ask()
        if answer != before[name]:
            if how == "of a fork" and name == "put again":  # a writer keeps it, says so, and makes it anew
                assert "name=index.contradicted" in answer
                continue
            assert any(said in answer for said in SAID), f"{name}: {answer}"
            assert "coffer index rebuild" in answer
            refused += 1
    return refused


@pytest.mark.parametrize("how", [*ALTERED, *OLDER])
def test_every_answer_is_the_right_one_or_a_refusal(base: Path, how: str) -> None:
    before, size = {name: ask() for name, ask in ASKED.items()}, records()
    assert "1 duplicate" in before["put again"]
    (ALTERED | OLDER)[how]()
    found = require_honest(before, how)
    assert records() == size, "a second version was stored"
    if how in ALTERED:
        assert found or how.startswith("uid")  # a token that nobody here asks for: only the check of all rows finds it
        assert "index" in run("verify", "--level", "decrypt", code=1).output
        bad = (INDEX / "data.mdb").read_bytes()
        assert "lost+found/index-altered-" in run("index", "rebuild").output
        (kept,) = Path("data/lost+found").glob("index-altered-*.mdb")
        assert kept.read_bytes() == bad
        assert kept.name in str(told("status")["index_contradictions"])
    assert {name: ask() for name, ask in ASKED.items()} == before
    run("verify", "--level", "decrypt")


def test_an_index_of_a_fork_is_kept_whoever_replaces_it(base: Path) -> None:
    for number, command in enumerate((("index", "rebuild"), ("checkpoint", "sign")), 1):
        replaced("fork")
        run("verify", "--level", "decrypt", code=1)
        run(*command)
        assert len([*Path("data/lost+found").glob("index-*.mdb")]) == number
        run("verify", "--level", "decrypt")


def records() -> int:
    """The size of the log."""
    return sum(path.stat().st_size for path in Path("data/segments").iterdir())


# The running server


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    stop = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < stop
        time.sleep(0.02)


def findscu(port: int, study: str) -> tuple[int, str]:
    """Status of the final answer of a real C-FIND, and what else it says."""
    if shutil.which("findscu") is None:
        absent("findscu is not installed")
    keys = ("-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study}", "-k", "PatientID")
    done = run_tool("findscu", "-d", "-S", "-aec", "COFFER", *keys, "127.0.0.1", str(port))
    statuses = re.findall(r"DIMSE Status\s+: 0x([0-9a-f]{4})", done.stdout + done.stderr)
    return int(statuses[-1], 16), f"{done.stdout}{done.stderr}"


@pytest.mark.parametrize("how", ALTERED)
def test_a_server_does_not_start_or_refuses(base: Path, how: str) -> None:
    ALTERED[how]()
    config = load_config(Path("coffer.toml"))
    try:
        server = Server(config)
        server.open()
    except IndexAlteredError as error:
        assert "coffer index rebuild" in error.hint()  # noqa: PT017  # or it serves and refuses
        return
    try:
        job = job_of(server, IndexJob)
        until(lambda: bool(job.concerns()))
        status, said = findscu(config.dimse.port, NEWER)
        assert status == 0xA700, said
        sent = run_tool("storescu", "-R", "-aec", "COFFER", "127.0.0.1", str(config.dimse.port), "one.dcm")
        assert sent.returncode != 0 or "0xa700" in f"{sent.stdout}{sent.stderr}".lower()
        assert any("index was altered" in why for why in server.reasons())
        assert any("coffer index rebuild" in concern for concern in server.concerns())
    finally:
        server.close()
    assert "the index: " in run("scrub", "show", code=None).output
    run("index", "rebuild")
    assert "the index: " not in run("scrub", "show", code=None).output


def test_objects_are_stored_while_questions_are_answered_with_busy(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object that is there already is a duplicate then, too: what decides it was checked."""
    go_on, turn = threading.Event(), IndexJob.turn
    monkeypatch.setattr(IndexJob, "turn", lambda job: turn(job) if go_on.wait(60) else 1.0)
    Path("new.dcm").write_bytes(part10(next(iter(slices("1.2.9.9", "P-4711")))))
    config, size = load_config(Path("coffer.toml")), 0
    with Server(config) as server:
        for name, grows in (("one.dcm", False), ("new.dcm", True)):
            size = records()
            sent = run_tool("storescu", "-R", "-aec", "COFFER", "127.0.0.1", str(config.dimse.port), name)
            assert (sent.returncode, records() > size) == (0, grows), sent.stderr
        status, said = findscu(config.dimse.port, NEWER)
        assert (status, "busy: the index is being checked" in said) == (0xA700, True)
        assert any("being checked" in concern for concern in server.concerns())
        go_on.set()
        until(lambda: server.services.archive.is_checked)
        assert findscu(config.dimse.port, "1.2.9.9")[0] == 0


@pytest.mark.parametrize("how", OLDER)
def test_a_server_answers_from_the_log(base: Path, how: str) -> None:
    OLDER[how]()
    config = load_config(Path("coffer.toml"))
    with Server(config):
        status, said = findscu(config.dimse.port, NEWER)
        assert (status, NEWER in said.split("Find Response")[1]) == (0, True)


def test_rows_altered_under_a_server_are_found_by_its_scrub(base: Path) -> None:
    config = load_config(Path("coffer.toml"))
    with Server(config) as server:
        job = job_of(server, IndexJob)
        assert findscu(config.dimse.port, NEWER)[0] == 0
        store = server.services.archive.index._tables.store
        row = of("instance", {("instance", key): (value,) for key, value in store.scan("instance")})
        with store._file._env.begin(write=True) as txn:  # LMDB's file, behind the store's back
            txn.delete(row[1], db=store._tables["instance"])
        job.turn()
        assert any("the index: " in concern for concern in server.concerns())
        assert findscu(config.dimse.port, NEWER)[0] == 0xA700
        assert b"coffer_index_altered 1.0" in server._metrics.render()
    assert "the index: " in run("scrub", "show", code=None).output


def test_what_was_erased_sealed_again_or_stored_twice_contradicts_nothing(base: Path) -> None:
    """No false alarm, neither from the rows on disk nor from what a running server knows."""
    Path("other.dcm").write_bytes(part10(again := next(iter(slices(UIDS[0], "P-4711"))))[:-2] + b"xy")
    config = load_config(Path("coffer.toml"))
    with Server(config) as server:
        job = job_of(server, IndexJob)
        sent = run_tool("storescu", "-R", "-aec", "COFFER", "127.0.0.1", str(config.dimse.port), "other.dcm", "one.dcm")
        assert sent.returncode == 0, sent.stderr
        assert findscu(config.dimse.port, again.StudyInstanceUID)[0] == 0
        for command in (("shred", UIDS[1]), ("keys", "rekey", UIDS[2])):
            beside = [sys.executable, "-m", "coffer", *command, "--reason", "r", "--yes"]
            assert subprocess.run(beside, check=False).returncode in {0, 1}  # 1: it is not effective yet
        for _ in range(2):
            job.turn()
            assert job.concerns() == []
    assert told("status")["conflicts"] == 1
    run("verify", "--level", "decrypt")
    run("index", "rebuild")
    with Server(config) as server:
        job_of(server, IndexJob).turn()
        assert job_of(server, IndexJob).concerns() == []
    run("verify", "--level", "decrypt")


def test_counts_that_contradict_the_log_are_found_where_every_sum_is_right(base: Path) -> None:
    """As after a fault of the index's own: somebody who has the key removed a part, and every sum follows."""
    with open_writer(load_config(Path("coffer.toml"))) as archive:
        row = max(key for key, _ in archive.index._tables.store.scan("study"))
        archive.index._tables.store.write(0, [("study", row, None)])
    assert "objects, where the log has" in run("verify", "--level", "decrypt", code=1).output
    with open_for_service(load_config(Path("coffer.toml"))) as archive:
        job = IndexJob(archive, Metrics(), 0)
        job.turn()
        assert "the log has" in str(job.concerns())
        with pytest.raises(IndexAlteredError, match="the log has"):
            archive.index.require_writable()
    run("index", "rebuild")
    run("verify", "--level", "decrypt")


def test_a_question_is_answered_with_busy_until_the_index_is_checked(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coffer.server.engine.archive._BUSY_SECONDS", 0.0)
    caller = Principal.peer("TESTER")
    with open_for_service(load_config(Path("coffer.toml"))) as archive:
        archive.expect_check()
        keys = {0x00080052: ("STUDY",), 0x0020000D: (NEWER,)}
        with pytest.raises(UnavailableError, match="busy"):
            list(Finder(archive).rows(keys, model="study", caller=caller))
        with pytest.raises(UnavailableError, match="busy"):
            Retriever(archive).instances({0x0020000D: (NEWER,)}, caller)
        assert archive.check_index(lambda: False) is None
        assert not archive.is_checked
        assert archive.check_index(lambda: True) is None
        assert len(list(Finder(archive).rows(keys, model="study", caller=caller))) == 1
