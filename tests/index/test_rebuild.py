"""Catch-up and rebuild from a log in memory: same answers, damage and shredded keys passed over, other logs noticed."""

import contextlib
import random
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from pydicom import Dataset, dcmwrite
from pydicom.filebase import DicomBytesIO

from coffer.archive.format.entry import Position, RecordId, Tip
from coffer.archive.format.merkle import leaf_hash
from coffer.archive.format.record import Kind, RecordHeader
from coffer.index.backends.memory_store import MemoryRowStore
from coffer.index.backends.row_store import TABLES, Change
from coffer.index.dicom.headers import scan
from coffer.index.index import Index
from coffer.index.instance.entry import Identity, extract
from coffer.index.instance.object_meta import ObjectMeta
from coffer.index.rebuild import catch_up, rebuild, retry
from coffer.index.tables.rows import Version
from coffer.index.tables.skipped import Skipped
from coffer.keys.errors import (
    FormatError,
    IntegrityError,
    KeyUnavailableError,
    ShreddedError,
    UnavailableError,
    UnreadableError,
)
from coffer.keys.keyring.keyring import Keyring
from tests.index.conftest import CT_CLASS, EXPLICIT_LE, everything

SOP_UID = 0x00080018


@pytest.fixture(params=["folder", "memory"])
def backend(request: pytest.FixtureRequest) -> str:
    """Every test on both."""
    return str(request.param)


@dataclass
class Stored:
    """One object of the made-up log, as an opened body."""

    meta: bytes
    data: bytes

    @property
    def length(self) -> int:
        return len(self.data)

    def read(self, start: int, stop: int) -> bytes:
        return self.data[start:stop]


class MemoryLog:
    """Records in a list; `failing` maps a seq to what opening its body raises."""

    def __init__(self) -> None:
        self.rows: list[tuple[Position, RecordHeader]] = []
        self.bodies: dict[int, Stored] = {}
        self.failing: dict[int, Exception] = {}

    def add(self, kind: Kind, key_id: bytes, body: Stored | None = None) -> tuple[Position, RecordHeader]:
        seq = len(self.rows)
        content = (body.data[-8:] + seq.to_bytes(2, "big") if body else b"").ljust(32, b"\1")
        header = RecordHeader(kind, seq, 1000 + seq, key_id, 0, 10, content, bytes(32), self.tip.head, seq)
        self.rows.append((Position(0, seq, 1, 200 * seq, 10), header))
        if body:
            self.bodies[seq] = body
        return self.rows[-1]

    @property
    def tip(self) -> Tip:
        return Tip(0, len(self.rows), leaf_hash(self.rows[-1][1].serialize()) if self.rows else bytes(32))

    def records(self, from_seq: int) -> Iterator[tuple[Position, RecordHeader]]:
        return iter(self.rows[from_seq:])

    @contextlib.contextmanager
    def open_body(self, position: Position, header: RecordHeader) -> Iterator[Stored]:
        if position.seq in self.failing:
            raise self.failing[position.seq]
        yield self.bodies[position.seq]


def data_set(study: str, number: int) -> bytes:
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = CT_CLASS, f"{study}.1.{number}"
    made.StudyInstanceUID, made.SeriesInstanceUID = study, f"{study}.1"
    made.PatientName, made.PatientID, made.Modality = f"Name{study}^X", f"P{study}", "CT"
    stream = DicomBytesIO()
    dcmwrite(stream, made, implicit_vr=False, little_endian=True)
    return stream.getvalue()


@pytest.fixture
def log(index: Index, keyring: Keyring) -> MemoryLog:
    """A log of ten objects of two studies, applied to `index` as ingest does."""
    made = MemoryLog()
    keys = {study: keyring.new_study().key_id for study in ("1.1", "2.2")}
    for number in range(10):
        study = ("1.1", "2.2")[number % 2]
        covers = 1
        if number < 2:
            made.add(Kind.STUDY_KEY_CREATED, keys[study])
            covers = 2
        data = data_set(study, number)
        meta = ObjectMeta(EXPLICIT_LE, CT_CLASS, f"{study}.1.{number}", study, "SCU", 1000 + number)
        position, header = made.add(Kind.OBJECT, keys[study], Stored(meta.encode(), data))
        entry = extract(scan(lambda a, b, d=data: d[a:b], len(data), EXPLICIT_LE), Identity("", ""))  # type: ignore[misc]
        version = Version.of(
            position, header.time_ms, header.content_id, EXPLICIT_LE, len(data), 1000 + number, 0, "SCU"
        )
        index.apply(version, keys[study], entry, covers=covers, tip=made.tip)
    return made


def test_a_rebuilt_index_answers_the_same(index: Index, log: MemoryLog) -> None:
    assert index.applied_seq == 11
    expected = everything(index)
    report = rebuild(index, log, log.open_body)
    assert (report.applied, report.shredded, report.damaged) == (10, 0, [])
    assert everything(index) == expected
    assert catch_up(index, log, log.open_body).applied == 0


def test_a_deleted_index_comes_back(index: Index, log: MemoryLog, tmp_path: Path, keyring: Keyring) -> None:
    expected = everything(index)
    fresh = Index.open(tmp_path / "fresh", keyring)
    assert catch_up(fresh, log, log.open_body).applied == 10
    assert everything(fresh) == expected
    fresh.close()


class _LostAnswer(MemoryRowStore):
    """The answer to one write is lost, after its effect or instead of it."""

    def __init__(self, *, has_effect: bool) -> None:
        super().__init__()
        self._has_effect = has_effect
        self._is_due = True

    def write(self, epoch: int, changes: Sequence[Change]) -> None:
        if not self._is_due or self._has_effect:
            super().write(epoch, changes)
        if self._is_due:
            self._is_due = False
            raise UnavailableError("no answer")


@pytest.mark.parametrize("has_effect", [True, False])
def test_an_index_whose_write_got_no_answer_is_whole_when_it_is_opened_again(
    index: Index, log: MemoryLog, keyring: Keyring, has_effect: bool
) -> None:
    expected, rows = everything(index), _LostAnswer(has_effect=has_effect)
    broken = Index.over(rows, keyring)
    with pytest.raises(UnavailableError, match="no answer"):
        catch_up(broken, log, log.open_body)
    with pytest.raises(UnavailableError, match="no answer"):
        broken.require_writable()
    broken.close(flush=False)
    again = Index.over(rows, keyring)
    catch_up(again, log, log.open_body)
    assert everything(again) == expected
    again.close()


def test_an_index_that_another_writer_took_over_writes_nothing_more(
    index: Index, log: MemoryLog, keyring: Keyring
) -> None:
    expected, rows = everything(index), MemoryRowStore()
    old = Index.over(rows, keyring, epoch=1)
    catch_up(old, log, log.open_body)
    new = Index.over(rows, keyring, epoch=2)
    rebuild(new, log, log.open_body)
    before = [rows.scan(table) for table in TABLES]
    with pytest.raises(UnavailableError, match="another writer has taken over"):
        rebuild(old, log, log.open_body)
    old.mark_skipped(RecordId(0, 3))
    with pytest.raises(UnavailableError, match="another writer has taken over"):
        old.flush()
    with pytest.raises(UnavailableError, match="another writer has taken over"):
        old.require_writable()
    assert [rows.scan(table) for table in TABLES] == before
    assert everything(new) == expected
    old.close(flush=False)
    new.close()


def test_damaged_and_shredded_objects_are_passed_over(index: Index, log: MemoryLog) -> None:
    log.failing = {
        3: IntegrityError("altered"), 5: ShreddedError("gone"), 6: KeyUnavailableError("missing"),
        7: UnreadableError("Input/output error"),
    }  # fmt: skip
    report = rebuild(index, log, log.open_body)
    assert (report.applied, report.shredded, report.damaged, report.keyless) == (6, 1, [3, 7], [6])
    assert index.applied_seq == 11
    assert index.skipped == ((0, 3, 3), (0, 6, 7))  # what was shredded will never be read: it is not missed
    assert (index.skipped_objects, index.stats().skipped) == (3, 3)


def test_what_was_skipped_is_remembered_and_found_again(
    index: Index, log: MemoryLog, reopen: Callable[..., Index]
) -> None:
    expected = everything(index)
    log.failing = {3: IntegrityError("altered"), 6: KeyUnavailableError("missing"), 7: UnreadableError("EIO")}
    rebuild(index, log, log.open_body)
    index.close()
    again = reopen()
    assert again.skipped == ((0, 3, 3), (0, 6, 7))
    assert catch_up(again, log, log.open_body).applied == 0
    assert retry(again, log, log.open_body).damaged == [3, 7]
    del log.failing[3], log.failing[6]
    assert retry(again, log, log.open_body, most=1).applied == 1
    assert again.skipped == ((0, 6, 7),)
    assert retry(again, log, log.open_body).applied == 1
    again.close()
    again = reopen()
    assert again.skipped == ((0, 7, 7),)
    log.failing = {7: ShreddedError("gone meanwhile")}
    assert retry(again, log, log.open_body).shredded == 1
    assert again.skipped == ()
    again.close()
    log.failing = {}
    again = reopen()
    assert again.skipped == ()
    again.clear()
    catch_up(again, log, log.open_body)
    assert everything(again) == expected


def test_runs_of_skipped_records() -> None:
    rng = random.Random(20)
    for _ in range(200):
        runs, naive = Skipped(), set[RecordId]()
        for _ in range(rng.randrange(60)):
            record, adds = RecordId(rng.randrange(3), rng.randrange(20)), rng.random() < 0.6
            (runs.add if adds else runs.discard)(record)
            (naive.add if adds else naive.discard)(record)
        everywhere = [RecordId(log, seq) for log in range(4) for seq in range(-1, 25)]
        assert {record for record in everywhere if record in runs} == naive
        assert len(runs) == len(naive)
        assert Skipped.decode(runs.encode()).runs == runs.runs
        assert all((b.log, b.first) > (a.log, a.last + 1) for a, b in pairwise(runs.runs))


@pytest.mark.parametrize(
    "runs",
    [[(0, 3, 2)], [(0, 1, 2), (0, 3, 4)], [(0, 5, 6), (0, 1, 2)], [(0, 1, 4), (0, 2, 3)], [(1, 1, 1), (0, 5, 5)]],
)
def test_runs_that_are_none_are_rejected(runs: list[tuple[int, int, int]]) -> None:
    with pytest.raises(FormatError, match="skipped records"):
        Skipped.decode(b"".join(struct.pack(">IQQ", *run) for run in runs))
    with pytest.raises(FormatError, match="is cut"):
        Skipped.decode(bytes(19))


def test_an_index_of_another_or_longer_history_is_emptied(
    index: Index, log: MemoryLog, reopen: Callable[..., Index]
) -> None:
    index.close()
    again = reopen()
    log.rows = log.rows[:7]
    report = catch_up(again, log, log.open_body)
    assert report.emptied
    assert again.stats().instances == report.applied == 5


def test_a_fork_with_the_same_last_object_is_not_taken_for_ours(
    index: Index, log: MemoryLog, reopen: Callable[..., Index]
) -> None:
    """Record 2 of the fork is another object; everything else, the newest object included, is equal and in place."""
    index.close()
    again = reopen()
    fork, other = MemoryLog(), data_set("1.1", 99)
    meta = ObjectMeta(EXPLICIT_LE, CT_CLASS, "1.1.1.99", "1.1", "SCU", 1000)
    for position, header in log.rows:
        body = Stored(meta.encode(), other) if position.seq == 3 else log.bodies.get(position.seq)
        fork.add(Kind(header.kind), header.study_key_id, body)
    assert fork.rows[-1][0] == log.rows[-1][0]
    assert fork.rows[-1][1].content_id == log.rows[-1][1].content_id
    assert catch_up(again, fork, fork.open_body).emptied
    assert [each.sop_instance for each in again.locate({SOP_UID: ("1.1.1.99",)})] == ["1.1.1.99"]
    again.close()
    assert not catch_up(reopen(), fork, fork.open_body).emptied


def test_a_record_applied_late_is_not_lost(index: Index, log: MemoryLog, reopen: Callable[..., Index]) -> None:
    expected = everything(index)
    index.clear()
    late = 4
    for position, header in log.rows:
        if header.kind != Kind.OBJECT or position.seq == late:
            index.cover(position.id) if position.seq != late else None
            continue
        body = log.bodies[position.seq]
        entry = extract(scan(body.read, body.length, EXPLICIT_LE), Identity("", ""))
        received = ObjectMeta.decode(body.meta).received_ms
        version = Version.of(position, header.time_ms, header.content_id, EXPLICIT_LE, body.length, received, 0, "SCU")
        index.apply(version, header.study_key_id, entry)
    assert index.applied_seq == late - 1
    index.close()
    again = reopen()
    catch_up(again, log, log.open_body)
    assert everything(again) == expected
