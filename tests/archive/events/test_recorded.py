"""Events as records: sealed, bound to their record, and opened only as what they were written."""

import dataclasses
import os

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coffer.archive.events.codec import MAX_EVENT_BYTES
from coffer.archive.events.event import Event
from coffer.archive.events.recorded import Occurrence, Recorded
from coffer.archive.events.rekeys import RekeyOrdered
from coffer.archive.format.entry import Entry
from coffer.archive.format.record import Kind, RecordHeader
from coffer.keys.errors import FormatError, IntegrityError
from coffer.keys.memory.secret import Secret
from tests.archive.events.samples import SAMPLES, sample

KEY, ARCHIVE = Secret(bytes(range(32))), b"a" * 16


def header_of(entry: Entry, **changes: object) -> RecordHeader:
    body = bytes(entry.body)  # type: ignore[arg-type]
    header = RecordHeader(
        entry.kind, 7, entry.least_ms + 5, entry.study_key_id, 0, len(body), entry.content_id, bytes(32), bytes(32), 7
    )
    return dataclasses.replace(header, **changes)  # type: ignore[arg-type]


@given(st.sampled_from(SAMPLES), st.binary(min_size=16, max_size=16), st.integers(0, 2**63))
def test_an_event_comes_back_as_it_was(event: Event, key_id: bytes, time_ms: int) -> None:
    entry = Occurrence(event, time_ms, key_id).seal(KEY, ARCHIVE, os.urandom)
    assert entry.kind == event.kind
    found = Recorded.open(KEY, ARCHIVE, header_of(entry), bytes(entry.body))  # type: ignore[arg-type]
    assert found == Recorded(7, time_ms, key_id, event)


@pytest.mark.parametrize(
    "changes", [{"kind": Kind.REPAIR}, {"study_key_id": b"b" * 16}, {"content_id": bytes(32)}], ids=str
)
def test_an_event_opens_nowhere_else(changes: dict[str, object]) -> None:
    entry = Occurrence(sample(RekeyOrdered), 1, b"k" * 16).seal(KEY, ARCHIVE, bytes)
    with pytest.raises(IntegrityError):
        Recorded.open(KEY, ARCHIVE, header_of(entry, **changes), bytes(entry.body))  # type: ignore[arg-type]
    with pytest.raises(IntegrityError):
        Recorded.open(KEY, b"c" * 16, header_of(entry), bytes(entry.body))  # type: ignore[arg-type]


def test_what_is_too_long_is_refused_before_it_is_written() -> None:
    long = msgspec.structs.replace(sample(RekeyOrdered), reason="x" * MAX_EVENT_BYTES)
    with pytest.raises(FormatError, match="too long"):
        Occurrence(long, 1).seal(KEY, ARCHIVE, bytes)
