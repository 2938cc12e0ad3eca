"""Shredding by commands: who may, what is refused and why, and that a stop anywhere leaves nothing half-gone."""

import datetime as dt
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner
from pydicom.dataset import Dataset

from coffer.archive.format.record import Kind
from coffer.archive.log import LogWriter
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.writer_lock import WriterLock
from coffer.index.backends.lmdb_store import IndexStore
from coffer.index.tables.sealed_rows import INSTANCE, SERIES, STUDY
from coffer.keys.buffer import Buffer
from coffer.keys.clock import clock_ms
from coffer.keys.disk.syscalls import SystemCalls
from coffer.keys.errors import AccessDeniedError, ShreddedError
from coffer.keys.keyring import rows, shred
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.keyring.store import RowStore
from coffer.keys.providers.key_file import KeyFileProvider
from coffer.server.access.operator import Officer
from coffer.server.cli import main
from coffer.server.config.load import load_config
from coffer.server.engine.archive import WritableArchive
from coffer.server.engine.opening import open_for_keys, open_reading, open_writer
from coffer.server.erasure.shred import Authorization, Shredding, wait_until_compacted
from coffer.server.keyops.provider_job import ProviderJob
from coffer.server.main.demo import sample_study
from coffer.server.main.service import Server
from coffer.server.retention.holds import Hold, HoldAdmin, matching_holds
from coffer.server.retention.selection import PartToShred, by_study
from tests.server.filled import free_port, job_of, part10, run, told

BASE = "archive = 'data'\n[storage]\nreserve_bytes = 0\n[dimse]\nport = {}\n[http]\nenabled = false\n"
UIDS = ("1.2.3.1", "1.2.3.2", "1.2.3.3")


def slices(study_uid: str, patient_id: str) -> Iterator[Dataset]:
    """The sample study's slices under other names."""
    for number, ds in enumerate(sample_study()):
        ds.StudyInstanceUID, ds.SeriesInstanceUID = study_uid, study_uid + ".1"
        ds.SOPInstanceUID = f"{study_uid}.1.{number + 1}"
        ds.PatientID, ds.StudyDate = patient_id, "20240131"
        yield ds


def put(*studies: str, patient_id: str = "P-4711") -> None:
    """Store studies by the command."""
    folder = Path("files")
    folder.mkdir(exist_ok=True)
    for study_uid in studies:
        for ds in slices(study_uid, patient_id):
            (folder / f"{ds.SOPInstanceUID}.dcm").write_bytes(part10(ds))
    run("put", *map(str, sorted(folder.iterdir())))
    shutil.rmtree(folder)


def configure(*tables: str) -> None:
    """Write the config file."""
    Path("coffer.toml").write_text(BASE.format(free_port()) + "\n".join(tables))


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An archive of three studies, two of one patient, verified with keys at the end."""
    monkeypatch.chdir(tmp_path)
    configure()
    run("init")
    put(*UIDS[:2])
    put(UIDS[2], patient_id="P-99")
    yield tmp_path / "data"
    run("verify", "--level", "decrypt")


def found() -> list[str]:
    """The studies that can be found."""
    rows = json.loads(run("find", "--json").stdout)
    return sorted(str(row["StudyInstanceUID"]) for row in rows)


def events(*kinds: Kind) -> list[dict[str, object]]:
    """The facts of the log's events of these kinds."""
    with open_reading(load_config(Path("coffer.toml"))) as engine:
        return [dict(event.facts) for _, event in engine.events(frozenset(kinds))]


def test_a_shred_is_recorded_and_the_study_is_gone_everywhere(archive: Path) -> None:
    shown = told("shred", UIDS[0], "--reason", "request 17", "--officer", "Meyer", "--yes")
    assert (shown["studies"], shown["instances"], shown["state"], shown["recorded"]) == (1, 3, "scheduled", True)
    assert found() == [UIDS[1], UIDS[2]]
    run("get", "--study", UIDS[0], code=5)
    run("get", "--instance", UIDS[0] + ".1.1", code=5)
    run("index", "rebuild")
    assert found() == [UIDS[1], UIDS[2]]
    run("get", "--study", UIDS[0], code=5)
    (facts,) = events(Kind.SHRED_SCHEDULED)
    assert (facts["reason"], facts["instances"]) == ("request 17", 3)
    assert [each["officer"] for each in facts["officers"]] == ["Meyer"]  # type: ignore[attr-defined]
    assert not {UIDS[0], "P-4711"} & {str(value) for value in facts.values()}
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


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (("1.2.3.1", "--reason", "r"), 2),  # nobody to ask
        (("1.2.3.1", "--reason", " ", "--yes"), 12),
        (("--reason", "r", "--yes"), 2),
        (("1.2.3.1", "--patient", "P-4711", "--reason", "r", "--yes"), 2),
        (("1.2.3.1", "--yes"), 2),
        (("1.2.3", "--reason", "r", "--yes"), 5),
        (("--patient", "P-471*", "--reason", "r", "--yes"), 5),
        (("", "--reason", "r", "--yes"), 12),
        (("1.2.3.1", "--reason", "r", "--yes", "--officer", "\t"), 12),
        (("approve", "5f1c0a77"), 5),
        (("approve", "no id"), 5),
        (("cancel", "5f1c0a77"), 5),
    ],
)
def test_what_is_wrong_is_refused_and_changes_nothing(archive: Path, args: tuple[str, ...], code: int) -> None:
    run("shred", *args, code=code)
    assert found() == list(UIDS)


def test_a_hold_refuses_and_says_who_and_why(archive: Path) -> None:
    study = str(told("hold", "add", UIDS[0], "--reason", "court case", "--officer", "Meyer")["hold"])
    patient = told("hold", "add", "--patient", "P-99", "--reason", "trial", "--until", "2999-12-31")["hold"]
    refused = run("shred", "--patient", "P-4711", "--reason", "r", "--yes", code=10).output
    assert "Meyer" in refused
    assert "court case" in refused
    assert "trial" in run("shred", UIDS[2], "--reason", "r", "--yes", code=10).output
    run("shred", UIDS[1], "--reason", "r", "--yes")
    assert found() == [UIDS[0], UIDS[2]]
    holds = json.loads(run("hold", "list", "--json").stdout)
    assert [(each["study"], each["patient"], each["until"]) for each in holds] == [
        (UIDS[0], "", ""),
        ("", "P-99", "2999-12-31"),
    ]
    run("hold", "remove", study, "--officer", "Schmidt")
    run("hold", "remove", study, code=5)
    run("shred", UIDS[0], "--reason", "r", "--yes")
    assert [f["what"] for f in events(Kind.STATE)] == ["hold added", "hold added", "hold removed"]
    assert not any({UIDS[0], "P-99"} & {str(value) for value in facts.values()} for facts in events(Kind.STATE))
    run("hold", "add", "--reason", "r", code=12)
    run("hold", "add", UIDS[2], "--reason", "r", "--until", "2001-01-01", code=2)
    assert patient


class _Overtaken(Shredding):
    """A shred that is found allowed a moment before an officer puts a hold."""

    def __init__(self, engine: WritableArchive, hold: Hold) -> None:
        super().__init__(engine)
        self._late = [hold]
        self._holds = HoldAdmin(engine)

    def require_allowed(self, doomed: Sequence[PartToShred]) -> None:
        super().require_allowed(doomed)
        if self._late:
            self._holds.add(self._late.pop())


def test_a_hold_counts_from_the_moment_it_is_written(archive: Path) -> None:
    with open_writer(load_config(Path("coffer.toml"))) as engine:
        late = Hold(UIDS[0], "", "court case", "", Officer("Meyer", "a"), clock_ms())
        deed = Authorization("r", (Officer("Braun", "a"),))
        with pytest.raises(AccessDeniedError, match="court case"):
            _Overtaken(engine, late).shred(by_study(engine, UIDS[0]), deed)
        assert not shred.tombstones(engine.keyring)
        late = Hold("", "P-99", "unrelated", "", Officer("Meyer", "a"), clock_ms())
        assert _Overtaken(engine, late).shred(by_study(engine, UIDS[1]), deed)  # asked again, and allowed
        engine.reconcile()
    assert found() == [UIDS[0], UIDS[2]]


def test_a_request_is_held_to_what_its_studies_are_when_it_is_approved(archive: Path) -> None:
    configure("[keys]", "shred_approvals = 2")
    request = str(told("shred", "request", UIDS[0], "--reason", "r", "--officer", "Meyer")["request"])
    run("hold", "add", "--patient", "P-77", "--reason", "mixed up")
    moved = next(slices(UIDS[0], "P-77"))
    moved.SOPInstanceUID += ".9"
    Path("moved.dcm").write_bytes(part10(moved))
    run("put", "moved.dcm")
    assert "mixed up" in run("shred", "approve", request, "--officer", "Braun", code=10).output
    assert found() == [UIDS[0], *UIDS]  # once for each patient


def test_a_hold_that_is_over_holds_nothing(archive: Path) -> None:
    holds = [("5f", Hold(UIDS[0], "", "r", "2026-03-31", Officer("a", "b"), 0))]
    with open_reading(load_config(Path("coffer.toml"))) as engine:
        parts = engine.index.parts(UIDS[0])
        assert len(matching_holds(holds, parts, dt.date(2026, 3, 31))) == 1
        assert not matching_holds(holds, parts, dt.date(2026, 4, 1))
        assert not matching_holds(holds, engine.index.parts(UIDS[1]), dt.date(2026, 3, 31))


def test_the_retention_refuses_and_names_the_day(archive: Path) -> None:
    configure("[retention]", "years = 100")
    assert "2124-01-" in run("shred", UIDS[0], "--reason", "r", "--yes", code=10).output
    assert "retention" in run("shred", "request", UIDS[0], "--reason", "r", code=10).output
    configure("[retention]", "years = 0.5")
    run("shred", UIDS[0], "--reason", "r", "--yes")
    undated = next(slices("1.2.3.8", "P-8"))
    undated.StudyDate = ""
    Path("undated.dcm").write_bytes(part10(undated))
    run("put", "undated.dcm")
    run("shred", "1.2.3.8", "--reason", "r", "--yes", code=10)  # counts from its receipt


def test_two_officers_must_agree(archive: Path) -> None:
    configure("[keys]", "shred_approvals = 3")
    assert "coffer shred request" in run("shred", UIDS[0], "--reason", "r", "--yes", code=10).output
    asked = told("shred", "request", "--patient", "P-4711", "--reason", "r", "--officer", "Meyer")
    request = str(asked["request"])
    assert asked["approvals_missing"] == 2
    put("1.2.3.7")  # comes in later: not covered
    assert "another officer" in run("shred", "approve", request, "--officer", " MEYER ", code=10).output
    assert told("shred", "approve", request, "--officer", "Schmidt")["state"] == "requested"
    run("shred", "approve", request, "--officer", "Schmidt", code=10)
    assert found() == [*UIDS, "1.2.3.7"]
    hold = str(told("hold", "add", UIDS[1], "--reason", "since yesterday")["hold"])
    assert "since yesterday" in run("shred", "approve", request, "--officer", "Braun", code=10).output
    run("hold", "remove", hold)
    assert told("shred", "approve", request, "--officer", "Braun")["studies"] == 2
    assert found() == [UIDS[2], "1.2.3.7"]
    run("shred", "approve", request, "--officer", "Weber", code=5)
    officers = [[each["officer"] for each in f["officers"]] for f in events(Kind.SHRED_SCHEDULED)]  # type: ignore[attr-defined]
    assert officers == [["Meyer", "Schmidt", "Braun"]] * 2


def test_a_request_can_be_taken_back(archive: Path) -> None:
    configure("[keys]", "shred_approvals = 2")
    request = str(told("shred", "request", UIDS[0], "--reason", "r")["request"])
    assert [each["request"] for each in told("shred", "list")["requests"]] == [request]  # type: ignore[attr-defined]
    run("shred", "cancel", request)
    run("shred", "approve", request, "--officer", "Schmidt", code=5)
    assert found() == list(UIDS)
    assert [f["what"] for f in events(Kind.STATE)] == ["shred requested", "shred request cancelled"]


def stop_at(number: int) -> None:
    """Let this process die before or after its `number`th durable step."""
    left = [number]

    def stopping(owner: type, name: str) -> None:
        real = getattr(owner, name)

        def call(*args: object, **options: object) -> object:
            tick()
            done = real(*args, **options)
            tick()
            return done

        setattr(owner, name, staticmethod(call) if owner is SystemCalls else call)

    def tick() -> None:
        left[0] -= 1
        if left[0] == 0:
            os._exit(77)

    for owner, name in ((RowStore, "put"), (IndexStore, "write"), (LogWriter, "append"), (SystemCalls, "rename")):
        stopping(owner, name)


def stopped(number: int, *args: str) -> int:
    """Run a command in a process that dies at a step; its exit code, 77 when it died."""
    child = os.fork()  # a fresh interpreter would cost a second each time
    if child == 0:
        code = 70
        try:
            stop_at(number)
            code = CliRunner().invoke(main, args, env={"COFFER_ARCHIVE": "", "COFFER_CONFIG": ""}).exit_code
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_killed_at_every_step_it_is_whole_or_gone_and_the_next_one_finishes(archive: Path) -> None:
    command = ("shred", UIDS[0], "--reason", "r", "--yes")
    untouched = Path("untouched")
    shutil.copytree("data", untouched)
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
            assert not engine.keyring.rows(rows.EVENT_PREFIX)
            assert len(shred.tombstones(engine.keyring)) == 1
            assert not shred.waiting(engine.keyring)
            assert engine.index.stats().unreadable_studies == 0
        assert found() == [UIDS[1], UIDS[2]]
        assert len(events(Kind.SHRED_SCHEDULED)) == 1
        if code == 0:
            break
        shutil.rmtree("data")
        shutil.copytree(untouched, "data")
    assert seen == {True, False}
    assert number > 10, number


def effective_at_once() -> None:
    """No backups are kept: what is shredded is due."""
    configure("[keys]", "shred_hold_days = 0")


def states() -> list[str]:
    """The state of every shred."""
    return [each["state"] for each in told("shred", "list")["shreds"]]  # type: ignore[attr-defined]


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
    (facts,) = events(Kind.EPOCH_DESTROYED)
    assert (facts["epoch"], facts["provider"]) == (1, "keyfile")
    assert [(f["epoch"], f["moved"]) for f in events(Kind.KEYRING_ROTATED)] == [(2, 1)]
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
        engine.keyring.destroy_epoch(1)
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
    shutil.copytree("data", "untouched")
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
        assert len(events(Kind.KEYRING_ROTATED)) == 1
        assert len(events(Kind.EPOCH_DESTROYED)) == (0 if step == "first" else 1)
        assert step == "first" or not in_the_index(gone)
        if code == 0:
            break
        shutil.rmtree("data")
        shutil.copytree("untouched", "data")
        shutil.copy("untouched.key", "data.key")
    assert number > 10


def test_a_key_file_with_a_destroyed_secret_is_told_and_destroyed_again(archive: Path) -> None:
    effective_at_once()
    run("shred", UIDS[0], "--reason", "r", "--yes")
    run("shred", "finish")
    shutil.copy("data.key", "between.key")  # it has the secrets of epochs 1 and 2
    run("shred", "finish", "--destroy")
    assert told("keys", "audit")["findings"] == []
    shutil.copy("between.key", "data.key")
    assert found() == [UIDS[1], UIDS[2]]
    (finding,) = told("keys", "audit", code=1)["findings"]  # type: ignore[misc]
    assert "epoch 1 is back" in finding
    with Server(load_config(Path("coffer.toml"))) as server:
        wait_for(lambda: any("epoch 1 is back" in each for each in server.concerns()))
        server.services.archive.keyring.destroy_epoch(1)
        job_of(server, ProviderJob).ask()
        assert not server.concerns()
    shutil.copy("between.key", "data.key")
    run("keys", "destroy", "1", "--yes")
    assert told("keys", "audit")["findings"] == []
    assert told("keys", "audit")["unasked"] == []
    assert len(events(Kind.EPOCH_DESTROYED)) == 1
    Path("data.key").rename("away.key")
    assert told("keys", "audit")["unasked"] == ["keyfile"]
    Path("away.key").rename("data.key")


def test_shares_of_a_destroyed_epoch_open_an_old_keyring_and_finishing_says_so(archive: Path) -> None:
    effective_at_once()
    run("keys", "split", "-n", "3", "-k", "2", "-o", "shares")
    shares = [word for path in sorted(Path("shares").glob("*.txt"))[:2] for word in ("--share", str(path))]
    shutil.copytree("data/keyring", "before")
    run("shred", UIDS[0], "--reason", "r", "--yes")
    run("shred", "finish")
    done = told("shred", "finish", "--destroy")
    assert (done["destroyed"], done["effective"]) == ([1], 0)
    (what,) = done["opened_by"]  # type: ignore[misc]
    assert "epoch 1: shares of group" in what
    assert states() == ["scheduled"]
    assert "destroyed on purpose" in run("keys", "drill", *shares, code=9).output
    shutil.copytree("data/keyring", "last")
    shutil.copy("data.key", "last.key")

    put_back("before")  # old keyring and shares: whoever has both has the keys, `effective` or not
    run("keys", "recover", *shares, "--key-file", "rescue.key")
    keyring = Keyring.open(Path("data/keyring"), KeyFileProvider(Path("rescue.key")), readonly=True)
    assert len([keyring.study(key_id) for key_id in keyring.study_key_ids()]) == 3
    keyring.close()
    configure("[keys]", 'key_file = "rescue.key"')  # and Coffer serves none of it
    assert "was destroyed since" in run("find", code=13).output
    effective_at_once()
    put_back("last")
    assert found() == [UIDS[1], UIDS[2]]


def wait_for(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def put_back(name: str) -> None:
    """Let a copy of the keyring take its place."""
    shutil.rmtree("data/keyring")
    shutil.copytree(name, "data/keyring")


def test_a_keyring_from_before_the_shred_is_noticed_and_shreds_again(archive: Path) -> None:
    shutil.copytree("data/keyring", "before")
    run("shred", UIDS[0], "--reason", "r", "--yes")
    put_back("before")
    for command in (("find",), ("get", "--study", UIDS[0]), ("shred", "list"), ("verify", "--level", "decrypt")):
        assert "older than the log" in run(*command, code=13).output
    assert "older than the log" in run("index", "rebuild", code=13).output  # as every command that writes
    assert found() == [UIDS[1], UIDS[2]]  # it was shredded again all the same
    run("get", "--study", UIDS[0], code=5)
    assert states() == ["scheduled"]
    put_back("before")
    size = told("recover", "show", code=1)["records"]
    run("recover", "accept-loss", "--to", str(size))  # the newest keyring is lost, and what was shredded stays shredded
    assert found() == [UIDS[1], UIDS[2]]
    assert states() == ["scheduled"]
    assert [f["what"] for f in events(Kind.STATE)] == ["shredded again: an older keyring was put back"]


def test_an_older_keyring_says_which_studies_it_cannot_open(archive: Path) -> None:
    shutil.copytree("data/keyring", "before")
    put("1.2.3.6")
    shutil.copytree("data/keyring", "newest-is-kept")
    put_back("before")
    run("get", "--study", UIDS[1], "--out", "out")
    run("get", "--study", "1.2.3.6", code=5)
    put_back("newest-is-kept")
    run("get", "--study", "1.2.3.6", "--out", "out")


def test_a_destroyed_epoch_stays_destroyed_whatever_is_put_back(archive: Path) -> None:
    effective_at_once()
    shutil.copytree("data/keyring", "before")
    shutil.copy("data.key", "before.key")
    run("shred", UIDS[0], "--reason", "r", "--yes")
    run("shred", "finish")
    shutil.copytree("data/keyring", "rotated")
    shutil.copy("data.key", "data.key.now")

    put_back("before")  # not destroyed yet: the old copies open it still, which is what `scheduled` says
    shutil.copy("before.key", "data.key")
    keyring = Keyring.open(Path("data/keyring"), KeyFileProvider(Path("data.key")), readonly=True)
    assert len([keyring.study(key_id) for key_id in keyring.study_key_ids()]) == 3
    keyring.close()
    assert "older than the log" in run("find", code=13).output
    put_back("rotated")
    shutil.copy("data.key.now", "data.key")

    run("shred", "finish", "--destroy")
    assert states() == ["effective"]
    shutil.copytree("data/keyring", "last")
    shutil.copy("data.key", "last.key")
    put_back("before")  # the key file of now does not open the keyring of then
    assert "epoch 1" in run("find", code=8).output
    assert "epoch 1" in run("put", "before.key", code=8).output
    put_back("rotated")
    assert "was destroyed since" in run("find", code=13).output
    shutil.copy("before.key", "data.key")  # nor do both of then, whoever asks Coffer
    put_back("before")
    assert "was destroyed since" in run("find", code=13).output
    assert "was destroyed since" in run("put", "before.key", code=13).output
    put_back("last")
    assert "epoch 2" in run("find", code=8).output  # nor does the key file of then open what is now
    shutil.copy("last.key", "data.key")
    assert found() == [UIDS[1], UIDS[2]]
