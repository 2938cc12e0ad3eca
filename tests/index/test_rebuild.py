"""Catch-up and rebuild from a log in memory: same answers, damage and shredded keys passed over, other logs noticed."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom import Dataset, dcmwrite
from pydicom.filebase import DicomBytesIO

from archive.log import Position
from archive.record import Kind, RecordHeader
from index.elements import scan
from index.entry import Identity, extract
from index.index import Index
from index.objectmeta import ObjectMeta
from index.rebuild import catch_up, rebuild
from index.rows import Version
from keys.errors import IntegrityError, KeyUnavailableError
from keys.keyring import Keyring
from tests.index.conftest import CT_CLASS, EXPLICIT_LE, everything


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
        header = RecordHeader(kind, seq, 1000 + seq, key_id, 0, 10, content, bytes(32), bytes(32), seq)
        self.rows.append((Position(seq, 1, 200 * seq, 10), header))
        if body:
            self.bodies[seq] = body
        return self.rows[-1]

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
        version = Version.of(position, header.content_id, EXPLICIT_LE, len(data), 1000 + number, 0)
        index.apply(version, keys[study], entry, covers=covers)
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


def test_damaged_and_shredded_objects_are_passed_over(index: Index, log: MemoryLog) -> None:
    log.failing = {3: IntegrityError("altered"), 5: KeyUnavailableError("gone")}
    report = rebuild(index, log, log.open_body)
    assert (report.applied, report.shredded, report.damaged) == (8, 1, [3])
    assert index.applied_seq == 11


def test_an_index_of_another_or_longer_history_is_emptied(
    index: Index, log: MemoryLog, reopen: Callable[..., Index]
) -> None:
    index.close()
    again = reopen()
    log.rows = log.rows[:7]
    report = catch_up(again, log, log.open_body)
    assert report.emptied
    assert again.stats().instances == report.applied == 5


def test_a_record_applied_late_is_not_lost(index: Index, log: MemoryLog, reopen: Callable[..., Index]) -> None:
    expected = everything(index)
    index.clear()
    late = 4
    for position, header in log.rows:
        if header.kind != Kind.OBJECT or position.seq == late:
            index.cover(position.seq) if position.seq != late else None
            continue
        body = log.bodies[position.seq]
        entry = extract(scan(body.read, body.length, EXPLICIT_LE), Identity("", ""))
        received = ObjectMeta.decode(body.meta).received_ms
        version = Version.of(position, header.content_id, EXPLICIT_LE, body.length, received, 0)
        index.apply(version, header.study_key_id, entry)
    assert index.applied_seq == late - 1
    index.close()
    again = reopen()
    catch_up(again, log, log.open_body)
    assert everything(again) == expected
