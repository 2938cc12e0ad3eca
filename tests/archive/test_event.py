"""Events: sealed, bound to their record, and opened only as what they were written."""

import dataclasses
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coffer.archive.event import MAX_EVENT_BYTES, Event
from coffer.archive.format.entry import Entry
from coffer.archive.format.record import Kind, RecordHeader
from coffer.keys.errors import FormatError, IntegrityError
from coffer.keys.memory.secret import Secret

KEY, ARCHIVE = Secret(bytes(range(32))), b"a" * 16
FACTS = st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text()))


def header_of(entry: Entry, **changes: object) -> RecordHeader:
    body = bytes(entry.body)  # type: ignore[arg-type]
    header = RecordHeader(
        entry.kind, 7, entry.time_ms, entry.study_key_id, 0, len(body), entry.content_id, bytes(32), bytes(32), 7
    )
    return dataclasses.replace(header, **changes)  # type: ignore[arg-type]


@given(FACTS, st.binary(min_size=16, max_size=16), st.integers(0, 2**63))
def test_an_event_comes_back_as_it_was(facts: dict[str, object], key_id: bytes, time_ms: int) -> None:
    event = Event(Kind.STATE, time_ms, facts, key_id)
    entry = event.seal(KEY, ARCHIVE, os.urandom(24))
    assert Event.open(KEY, ARCHIVE, header_of(entry), bytes(entry.body)) == event  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes", [{"kind": Kind.REPAIR}, {"study_key_id": b"b" * 16}, {"content_id": bytes(32)}], ids=str
)
def test_an_event_opens_nowhere_else(changes: dict[str, object]) -> None:
    entry = Event(Kind.STATE, 1, {"reason": "test"}, b"k" * 16).seal(KEY, ARCHIVE, bytes(24))
    with pytest.raises(IntegrityError):
        Event.open(KEY, ARCHIVE, header_of(entry, **changes), bytes(entry.body))  # type: ignore[arg-type]
    with pytest.raises(IntegrityError):
        Event.open(KEY, b"c" * 16, header_of(entry), bytes(entry.body))  # type: ignore[arg-type]


def test_what_is_too_long_is_refused_before_it_is_written() -> None:
    with pytest.raises(FormatError):
        Event(Kind.STATE, 1, {"reason": "x" * MAX_EVENT_BYTES}).seal(KEY, ARCHIVE, bytes(24))
