"""Officers' records: sealed and padded, and changed only by who has read them as they are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from coffer.keys.errors import FormatError, IntegrityError, NotFoundError
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.mailbox import events, officer_records
from coffer.keys.mailbox.officer_records import OfficerRecordAdmin, OfficerRecords
from coffer.keys.values.officer_record import RecordAsRead, RecordKind
from coffer.keys.values.waiting_event import WaitingEvent
from tests.keys.left import left

ROOT = Path(__file__).resolve().parents[3]


class Note(msgspec.Struct, frozen=True):
    """A record of two fields."""

    text: str
    count: int = 0


@pytest.fixture
def holds(keyring: Keyring) -> OfficerRecordAdmin[Note]:
    return OfficerRecordAdmin(keyring, RecordKind.HOLD, Note)


def added(record_id: str) -> WaitingEvent:
    return left(b"added", bytes.fromhex(record_id))


def test_a_record_comes_with_its_event_and_is_there_for_all(keyring: Keyring, holds: OfficerRecordAdmin[Note]) -> None:
    changes = keyring.changes()
    record_id = holds.add(Note("Müller, keep"), added)
    assert (len(record_id), keyring.changes()) == (8, changes + 1)
    assert events.waiting(keyring) == [added(record_id)]
    reading = OfficerRecords(keyring, RecordKind.HOLD, Note)
    assert list(reading.all()) == [(record_id, Note("Müller, keep"))]
    assert reading.get(record_id)[0] == Note("Müller, keep")
    assert officer_records.is_there(keyring, RecordKind.HOLD, record_id)
    assert not officer_records.is_there(keyring, RecordKind.REQUEST, record_id)
    assert list(OfficerRecords(keyring, RecordKind.REQUEST, Note).all()) == []


def test_neither_words_nor_their_number_show_in_the_row(keyring: Keyring, holds: OfficerRecordAdmin[Note]) -> None:
    short, long = (holds.get(holds.add(Note(text), added))[1] for text in ("Müller", "Müller" + "x" * 200))
    assert len(short.sealed) == len(long.sealed) == 56 + 256 + 16
    assert b"ller" not in short.sealed
    assert keyring.row(b"L" + bytes.fromhex(short.record_id)) == short.sealed
    (longer,) = (holds.get(holds.add(Note("x" * 300), added))[1],)
    assert len(longer.sealed) == 56 + 512 + 16


def test_a_record_is_replaced_and_removed_only_as_it_was_read(
    keyring: Keyring, holds: OfficerRecordAdmin[Note]
) -> None:
    record_id = holds.add(Note("a"), added)
    _, before = holds.get(record_id)
    changes = keyring.changes()
    assert holds.replace(before, Note("b"), left(b"b"))
    assert keyring.changes() == changes + 1
    now, told = keyring.row(before.row_key), events.waiting(keyring)
    assert not holds.replace(before, Note("c"), left(b"c", b"c"))
    assert not holds.remove(before, left(b"gone", b"d"))
    assert (keyring.row(before.row_key), events.waiting(keyring), keyring.changes()) == (now, told, changes + 1)
    record, after = holds.get(record_id)
    assert record == Note("b")
    assert holds.remove(after, left(b"gone", b"d"))
    assert left(b"gone", b"d") in events.waiting(keyring)
    assert not holds.remove(after, left(b"gone", b"e"))
    assert not holds.replace(after, Note("again"), left(b"again", b"f"))
    with pytest.raises(NotFoundError, match="any more"):
        holds.get(record_id)


def test_an_id_that_is_taken_is_drawn_again(keyring: Keyring) -> None:
    ids = [b"1234", b"1234", b"5678"]
    holds = OfficerRecordAdmin(keyring, RecordKind.HOLD, Note, lambda n: ids.pop(0) if n == 4 else os.urandom(n))
    assert [holds.add(Note(text), added) for text in "ab"] == [b"1234".hex(), b"5678".hex()]
    assert [record for _, record in holds.all()] == [Note("a"), Note("b")]
    assert events.waiting(keyring) == [added(b"1234".hex()), added(b"5678".hex())]


@pytest.mark.parametrize("wrong", ["", "abc", "zz", "12345678"])
def test_an_id_without_a_record(holds: OfficerRecordAdmin[Note], wrong: str) -> None:
    with pytest.raises(NotFoundError):
        holds.get(wrong)


def test_what_was_altered_or_moved_does_not_open(keyring: Keyring, holds: OfficerRecordAdmin[Note]) -> None:
    _, read = holds.get(holds.add(Note("a"), added))
    altered = read.sealed[:-1] + bytes([read.sealed[-1] ^ 1])
    moved = read.row_key[:-1] + bytes([read.row_key[-1] ^ 1])
    for row in ((read.row_key, altered), (moved, read.sealed), (b"Q" + read.row_key[1:], altered)):
        keyring.amend([row], [read.row_key])
        kind = RecordKind(row[0][:1])
        with pytest.raises(IntegrityError):
            list(OfficerRecords(keyring, kind, Note).all())
        keyring.amend([], [row[0]])


def test_a_record_of_another_form_is_refused(keyring: Keyring, holds: OfficerRecordAdmin[Note]) -> None:
    class Other(msgspec.Struct, frozen=True):
        other: int

    record_id = holds.add(Note("a"), added)
    with pytest.raises(FormatError):
        OfficerRecords(keyring, RecordKind.HOLD, Other).get(record_id)


def test_a_kind_names_its_rows() -> None:
    assert RecordAsRead(RecordKind.REQUEST, "0a0b0c0d", b"x").row == (b"Q\x0a\x0b\x0c\x0d", b"x")
    with pytest.raises(ValueError, match="hexadecimal"):
        RecordKind.HOLD.row_key("?")


COUNTER = """
import sys
from pathlib import Path
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.mailbox.officer_records import OfficerRecordAdmin
from coffer.keys.providers.key_file import KeyFileProvider
from coffer.keys.values.officer_record import RecordKind
from tests.keys.mailbox.test_officer_records import count_up
ring = Keyring.open(Path(sys.argv[1]), KeyFileProvider(Path(sys.argv[2])))
print(count_up(ring, sys.argv[3], 50))
"""


def count_up(keyring: Keyring, record_id: str, times: int) -> int:
    """Add one to a record that many times, and return how often another process was faster."""
    holds, lost = OfficerRecordAdmin(keyring, RecordKind.HOLD, Note), 0
    for _ in range(times):
        while True:
            record, before = holds.get(record_id)
            event = left(b"counted", os.urandom(8))
            if holds.replace(before, msgspec.structs.replace(record, count=record.count + 1), event):
                break
            lost += 1
    return lost


def test_of_two_processes_none_overwrites_the_other(
    keyring: Keyring, holds: OfficerRecordAdmin[Note], keyfile: Path, tmp_path: Path
) -> None:
    record_id = holds.add(Note("a"), added)
    command = [sys.executable, "-c", COUNTER, str(tmp_path / "keyring"), str(keyfile), record_id]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) for _ in range(2)]
    count_up(keyring, record_id, 50)
    for each in both:
        assert each.wait(60) == 0
        each.communicate()
    assert holds.get(record_id)[0].count == 150
    assert len(events.waiting(keyring)) == 151  # one for each change, none for one that did not happen
    assert keyring.complaint() is None
