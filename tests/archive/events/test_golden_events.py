"""The golden encodings of events, by the product and by a second reader that knows the tables of FORMAT.md only."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coffer.archive.events.codec import EVENTS, decode, encode
from coffer.archive.events.event import Event
from coffer.keys.errors import FormatError
from tests.archive.events import made
from tests.archive.events.samples import SAMPLES
from tests.vectors import reader_events
from tests.vectors.make_events import FILE, golden

TABLES = reader_events.Tables(reader_events.PAGE.read_text(encoding="utf-8"))


def test_every_event_is_encoded_as_ever() -> None:
    kept = json.loads(FILE.read_text(encoding="utf-8"))
    assert {name: each for name, each in golden().items() if kept.get(name) != each} == {}
    assert [decode(each["json"].encode(), each["kind"]) for each in kept.values()] == [*SAMPLES]


def test_the_second_reader_reads_them_all() -> None:
    assert reader_events.read_all() == len(EVENTS)
    assert set(TABLES.events) == {(each.code, each.version) for each in EVENTS}
    assert TABLES.known_types == {*reader_events.TYPES}


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda each: each.code)
@pytest.mark.parametrize("value", [None, "", "x", 0, -1, 1.5, True, [], ["x"], {}], ids=repr)
def test_both_refuse_the_same(sample: Event, value: object) -> None:
    """Each field in turn gets a value that it may not have; what one reader refuses the other refuses."""
    body = json.loads(encode(sample))
    for name in body:
        text = json.dumps({**body, name: value}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        if name not in {"code", "v"}:
            assert is_refused_here(text, sample) == is_refused_there(text, sample), name


def is_refused_here(text: str, of: Event) -> bool:
    try:
        decode(text.encode(), of.kind)
    except FormatError:
        return True
    return False


def is_refused_there(text: str, of: Event) -> bool:
    try:
        TABLES.read(text, of.kind)
    except reader_events.RejectedError:
        return True
    return False


@pytest.mark.parametrize("of", EVENTS, ids=lambda of: of.code)
@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(data=st.data())
def test_the_second_reader_reads_whatever_is_written(of: type[Event], data: st.DataObject) -> None:
    text = encode(data.draw(made.events(of))).decode()
    assert TABLES.read(text, of.kind) is not None
