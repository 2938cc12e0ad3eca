"""The JSON of events: each class comes back as it was, what breaks its schema is refused, what is newer is kept."""

import json
import re

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coffer.archive.events.codec import EVENTS, RESERVED, decode, encode
from coffer.archive.events.event import Event, UnknownEvent
from coffer.archive.events.holds import HoldAdded
from coffer.archive.events.shreds import ShredRequested, StudyShredded
from coffer.archive.format.record import Kind
from coffer.keys.errors import FormatError, IntegrityError
from tests.archive.events import made
from tests.archive.events.samples import SAMPLES, sample


@pytest.mark.parametrize("of", EVENTS, ids=lambda of: of.code)
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(data=st.data())
def test_every_event_comes_back_as_it_was(of: type[Event], data: st.DataObject) -> None:
    event = data.draw(made.events(of))
    text = encode(event)
    body = json.loads(text)
    assert (body["code"], body["v"]) == (of.code, of.version)
    assert text == json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert decode(text, of.kind) == event


def test_every_code_is_a_noun_and_a_verb_and_stands_once() -> None:
    codes = [(each.code, each.version) for each in EVENTS]
    assert len({*codes}) == len(codes)
    assert [code for code, _ in codes if not re.fullmatch(r"[a-z]+(_[a-z]+)*\.[a-z]+(_[a-z]+)*", code)] == []
    taken = {code for code, _ in codes} | {code.partition(".")[0] + ".*" for code, _ in codes}
    assert not taken & {*RESERVED}
    others = {Kind.OBJECT, Kind.STUDY_KEY_CREATED, Kind.AUDIT_HEAD, Kind.REGISTER}
    assert {each.kind for each in EVENTS} == {*Kind} - others
    assert [type(each) for each in SAMPLES] == [*EVENTS]


def changed(event: Event, **changes: object) -> bytes:
    """An event's JSON with other values; None removes one."""
    body = json.loads(encode(event)) | changes
    kept = {name: value for name, value in body.items() if value is not None}
    return json.dumps(kept, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


@pytest.mark.parametrize(
    "changes",
    [
        {"hold": None},
        {"hold": "0102030"},
        {"hold": "0102030A"},
        {"hold": "0102030\n"},
        {"on": "ward"},
        {"until": "31.12.2031"},
        {"until": ""},
        {"reason": 7},
        {"by": "Meyer"},
        {"by": {"name": "Meyer"}},
        {"by": {"name": "Meyer", "account": "a", "role": "b"}},
        {"more": 1},
    ],
    ids=str,
)
def test_what_breaks_its_schema_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(FormatError, match=r"hold\.added has fields that are not those of version 1"):
        decode(changed(sample(HoldAdded), **changes), Kind.STATE)


@pytest.mark.parametrize("epoch", [-1, 1 << 63, 1 << 80, 1.0, True, "1"])
def test_numbers_are_whole_and_bounded(epoch: object) -> None:
    with pytest.raises(FormatError):
        decode(changed(sample(StudyShredded), epoch=epoch), Kind.SHRED_SCHEDULED)


def test_the_officers_of_a_shred_are_at_least_one() -> None:
    with pytest.raises(FormatError):
        encode(msgspec.structs.replace(sample(StudyShredded), officers=()))


@pytest.mark.parametrize(
    "changes", [{"reason": "\udcff"}, {"hold": "nothing"}, {"token": 7}, {"until": "soon"}], ids=ascii
)
def test_what_could_not_be_read_is_not_written(changes: dict[str, object]) -> None:
    with pytest.raises(FormatError):
        encode(msgspec.structs.replace(sample(HoldAdded), **changes))


def test_a_class_that_is_not_in_the_register_is_not_written() -> None:
    class Draft(Event, frozen=True, kw_only=True):
        code = "draft.made"

    with pytest.raises(FormatError, match="not in the register"):
        encode(Draft())


def test_an_event_stands_under_the_kind_of_its_class() -> None:
    with pytest.raises(FormatError, match="another kind"):
        decode(encode(sample(HoldAdded)), Kind.REPAIR)


def test_an_event_has_one_encoding() -> None:
    text = encode(sample(ShredRequested))
    body = json.loads(text)
    backwards = json.dumps(dict(reversed(body.items())), separators=(",", ":")).encode()
    for other in (
        text + b" ",
        json.dumps(body, sort_keys=True).encode(),
        backwards,
        text.replace(b"17", b"\\u0031\\u0037"),
    ):
        with pytest.raises(FormatError, match="canonical"):
            decode(other, Kind.STATE)


def test_a_newer_event_is_kept() -> None:
    text = b'{"code":"project.opened","v":3,"x":[1.5]}'
    assert decode(text, Kind.AUDIT_HEAD) == UnknownEvent("project.opened", 3, Kind.AUDIT_HEAD)
    assert decode(changed(sample(HoldAdded), v=2, more=1), 99) == UnknownEvent("hold.added", 2, 99)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"7",
        b"{",
        b"\xff",
        b"{}",
        b'{"code":"a.b"}',
        b'{"v":1}',
        b'{"code":1,"v":1}',
        b'{"code":"a","v":true}',
        b"[" * 9999,
    ],
)
def test_what_is_no_event_is_refused(text: bytes) -> None:
    with pytest.raises(IntegrityError):
        decode(text, Kind.STATE)
