"""Audit messages: one golden message of each kind, all judged by rules written from the standard's tables."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coffer.archive.events.accesses import Act, Actor, SopClassCount, Subject
from coffer.server.access.action import Action
from coffer.server.audit.codes import EVENT_IDS
from coffer.server.audit.message import Source, kind_of, messages_of
from coffer.server.audit.xml import encoded
from tests.server.audit.rules import EVENTS, require_sound

GOLDEN = Path(__file__).with_name("golden.xml")
SOURCE = Source("COFFER", "coffer/golden")
PEER = Actor(kind="peer", name="WARD", user="ward3", ae_title="WARD", called_ae="COFFER", host="192.0.2.7")
PERSON = Actor(kind="person", name="Meyer", account="meyer", ae_title="COFFER")
SERVICE = Actor(kind="service", name="coffer", account="coffer")
ONE = Subject(
    patient="PID-1", issuer="CLINIC", study="1.2.3", classes=(SopClassCount(sop_class="1.2.840.10008.5.1", objects=3),)
)


def act(action: Action, who: Actor, **more: object) -> Act:
    return msgspec.structs.replace(
        Act(at_ms=1_760_000_000_123, action=action.value, code="E", who=who, purpose="TREAT", resource="archive"),
        **more,
    )


ACTS = [
    act(Action.SERVE, SERVICE, stage="begun"),
    act(Action.SERVE, SERVICE),
    act(Action.ASSOCIATE, PEER, stage="begun"),
    act(Action.ASSOCIATE, PEER, stage="begun", outcome=8, reason="calling-ae"),
    act(Action.ASSOCIATE, PEER),
    act(Action.FIND, PEER, target="1.2.840.10008.5.1.4.1.2.2.1", query="CAAgAERB", syntax="1.2.840.10008.1.2"),
    act(Action.FIND, PEER, outcome=8, reason="role"),
    act(Action.STORE, PEER, code="C", subjects=(ONE,)),
    act(Action.STORE, PEER, code="R", subjects=(ONE,)),
    act(Action.STORE, PEER, code="U", subjects=(ONE,)),
    act(Action.RETRIEVE, PEER, stage="begun", code="R", subjects=(ONE,)),
    act(Action.RETRIEVE, PEER, code="R", subjects=(ONE,), outcome=4, reason="2 of 3 objects were sent"),
    act(Action.MOVE, PEER, stage="begun", code="R", subjects=(ONE,), resource="destination", target="VIEWER"),
    act(Action.MOVE, PEER, code="R", subjects=(ONE,), resource="destination", target="VIEWER"),
    act(Action.RETRIEVE, PERSON, stage="begun", code="R", subjects=(ONE,)),
    act(Action.EXPORT, PERSON, stage="begun", code="R", subjects=(ONE,)),
    act(Action.IMPORT, PERSON, code="C", subjects=(ONE,)),
    act(Action.SHRED, PERSON, stage="begun", code="D", subjects=(Subject(patient="PID-1", study="1.2.3"),)),
    act(Action.READ_AUDIT, PERSON, stage="begun", code="R"),
    act(Action.ROTATE, PERSON, stage="begun"),
    act(Action.HOLD, PERSON, stage="begun"),
    act(Action.MANAGE_USERS, PERSON, stage="begun"),
    act(Action.RELOAD, SERVICE),
]


def lines() -> list[str]:
    return [encoded(each).decode() for act in ACTS for each in messages_of(act, SOURCE)]


def test_every_message_is_written_as_ever() -> None:
    assert GOLDEN.read_text(encoding="utf-8").splitlines() == lines()


def test_there_is_one_of_each_kind_and_each_obeys_the_tables() -> None:
    found = [require_sound(line.encode())[0][0].get("csd-code") for line in GOLDEN.read_text("utf-8").splitlines()]
    assert set(found) == set(EVENTS) == {each.value for each in EVENT_IDS}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('EventActionCode="D"', 'EventActionCode="R"'),
        ('csd-code="110153"', 'csd-code="110152"'),
        ('UserIsRequestor="true"', 'UserIsRequestor="false"'),
        ("<ParticipantObjectName>Security Audit Log</ParticipantObjectName>", "<ParticipantObjectName />"),
        ('csd-code="110180"', 'csd-code="110181"'),
        ("T08:53:20.123+00:00", "T08:53:20.123"),
    ],
)
def test_the_rules_find_what_breaks_them(old: str, new: str) -> None:
    text = next(line for line in lines() if old in line)
    with pytest.raises(AssertionError):
        require_sound(text.replace(old, new).encode())


def test_an_act_about_several_patients_is_a_message_for_each() -> None:
    other = msgspec.structs.replace(ONE, patient="PID-2")
    more = msgspec.structs.replace(ONE, study="1.2.4")
    whole = act(Action.STORE, PEER, code="C", subjects=(ONE, other, more))
    found = [require_sound(encoded(each)) for each in messages_of(whole, SOURCE)]
    ids = [[each.get("ParticipantObjectID") for each in root.iter("ParticipantObjectIdentification")] for root in found]
    assert ids == [["1.2.3", "1.2.4", "PID-1^^^CLINIC"], ["1.2.3", "PID-2^^^CLINIC"]]


@pytest.mark.parametrize("action", Action)
@pytest.mark.parametrize("outcome", [0, 8])
@pytest.mark.parametrize("who", [PEER, PERSON], ids=["peer", "person"])
@pytest.mark.parametrize("subjects", [(), (ONE,)], ids=["nothing", "a study"])
def test_every_action_has_a_message(action: Action, outcome: int, who: Actor, subjects: tuple[Subject, ...]) -> None:
    made = act(action, who, outcome=outcome, subjects=subjects, reason="role" if outcome else "")
    found = [require_sound(encoded(each)) for each in messages_of(made, SOURCE)]
    assert len(found) == 1
    assert found[0][0][0].get("csd-code") == kind_of(made).value


@given(st.text(), st.text())
def test_no_name_breaks_a_message(name: str, patient: str) -> None:
    who = Actor(kind="peer", name=name, ae_title=name, host=name)
    made = act(Action.STORE, who, code="C", reason=name, subjects=(Subject(patient=patient, study=name),))
    for each in messages_of(made, SOURCE):
        require_sound(encoded(each))
