"""What lies outside the limits of a user is not found, not counted and not retrieved, at any level and by any key."""

import datetime as dt
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from coffer.index.dicom.attributes import Values
from coffer.index.dicom.identifier import encode_identifier
from coffer.index.index import Index
from coffer.keys.errors import AccessDeniedError
from coffer.server.access.action import Action
from coffer.server.access.decision import Policy
from coffer.server.access.principal import Principal
from coffer.server.access.roles import Duty, Role
from coffer.server.access.rules import AccessRules
from coffer.server.access.scope import Scope
from coffer.server.access.users import Directory, User
from coffer.server.config.load import load_config
from coffer.server.engine.opening import open_reading
from coffer.server.services import retrieve
from coffer.server.services.narrowing import Narrowing
from coffer.server.services.retrieve import Retriever
from tests.server.three_studies import UIDS, archive

__all__ = ["archive"]

LEVEL, STUDY, SERIES, SOP, PATIENT, DATE, NAME, MODALITY = (
    0x00080052, 0x0020000D, 0x0020000E, 0x00080018, 0x00100020, 0x00080020, 0x00100010, 0x00080060,
)  # fmt: skip
COMMENTS, STUDIES, INSTANCES = 0x00104000, 0x00201200, 0x00201208
THEN = dt.date(2024, 2, 1)  # the day after the Study Date of all three
FIRST_PATIENT = Scope(patients=frozenset({"P-4711"}))


@pytest.fixture
def index(archive: Path) -> Iterator[Index]:
    with open_reading(load_config(archive.with_name("coffer.toml"))) as opened:
        yield opened.index


def rows(
    index: Index, *scopes: Scope, level: str = "STUDY", model: str = "study", **keys: Values
) -> list[dict[int, Values]]:
    asked = {LEVEL: (level,), STUDY: ()} | {int(tag[1:], 16): values for tag, values in keys.items()}
    return [row for row in Narrowing(index, scopes, THEN).matches(level, asked, model) if row is not None]


def studies(index: Index, *scopes: Scope) -> set[str]:
    """What a query finds, which must be what a retrieval gets, and a query one level below."""
    found = {str(row[STUDY][0]) for row in rows(index, *scopes)}
    narrowing = Narrowing(index, scopes, THEN)
    located = [one for uid in UIDS for one in index.locate_in_steps({STUDY: (uid,)}) if one is not None]
    assert {one.study_uid for one in located if narrowing.has(one)} == found
    assert {uid for uid in UIDS if narrowing.has_study(uid)} == found
    for uid in UIDS:
        for level, more in (("SERIES", {}), ("IMAGE", {SERIES: (f"{uid}.1",)})):
            asked = {LEVEL: (level,), STUDY: (uid,), **more}
            seen = [row for row in Narrowing(index, scopes, THEN).matches(level, asked, "study") if row is not None]
            assert bool(seen) == (uid in found)
    return found


def test_what_lies_outside_is_not_there(index: Index) -> None:
    source = next(one for one in index.locate_in_steps({STUDY: UIDS[:1]}) if one is not None).version.source_ae
    everything, nothing = set(UIDS), set[str]()
    assert studies(index) == everything
    assert studies(index, FIRST_PATIENT) == set(UIDS[:2])
    assert studies(index, Scope(patients=frozenset())) == nothing
    assert studies(index, Scope(modalities=frozenset({"CT"}))) == everything
    assert studies(index, Scope(modalities=frozenset({"MR"}))) == nothing
    assert studies(index, Scope(sources=frozenset({source}))) == everything
    assert studies(index, Scope(sources=frozenset({"ELSEWHERE"}))) == nothing
    assert studies(index, Scope(days=1)) == everything
    assert studies(index, Scope(days=0)) == nothing
    assert studies(index, FIRST_PATIENT, Scope(patients=frozenset({"P-99"}))) == nothing  # both, as of a C-MOVE


def test_only_what_was_asked_for_is_in_a_row(index: Index) -> None:
    assert set(rows(index, FIRST_PATIENT)[0]) == {LEVEL, STUDY}
    named = rows(index, replace(FIRST_PATIENT, attributes=frozenset({NAME})), k00100010=(), k00100020=(), k00080020=())
    assert set(named[0]) == {LEVEL, STUDY, NAME}


def test_a_key_that_is_not_shown_narrows_nothing(index: Index) -> None:
    scope = Scope(attributes=frozenset({NAME}))
    assert len(rows(index, scope, k00100020=("P-99",))) == 3
    assert len(rows(index, replace(scope, attributes=frozenset({PATIENT})), k00100020=("P-99",))) == 1


def test_no_count_tells_of_what_lies_outside(index: Index) -> None:
    assert rows(index, k00201200=())[0][STUDIES]
    row = rows(index, FIRST_PATIENT, k00201200=(), k00201208=())[0]
    assert STUDIES not in row
    assert row[INSTANCES]
    assert INSTANCES not in rows(index, Scope(modalities=frozenset({"CT"})), k00201208=())[0]  # of all modalities


@pytest.mark.parametrize(
    ("requester", "reached", "expected"),
    [
        ({}, {}, set(UIDS)),
        ({"patients": frozenset({"P-4711"})}, {}, set(UIDS[:2])),
        ({}, {"patients": frozenset({"P-99"})}, {UIDS[2]}),
        ({"patients": frozenset({"P-4711"})}, {"patients": frozenset({"P-99"})}, set()),
        ({}, {"modalities": frozenset({"MR"})}, set()),
    ],
)
def test_what_is_sent_is_what_requester_and_destination_may_see(
    archive: Path,
    monkeypatch: pytest.MonkeyPatch,
    requester: dict[str, Any],
    reached: dict[str, Any],
    expected: set[str],
) -> None:
    """As it will be once a duty is fulfilled that keeps these cells of the roles closed today."""
    duties = {action: frozenset({Duty.NARROW, Duty.CONSENT}) for action in (Action.RETRIEVE, Action.MOVE)}
    monkeypatch.setattr(retrieve, "FULFILLED", duties)
    pacs, ward = (
        User(name=name, roles=frozenset({Role.PACS}), ae_titles=frozenset({name}), **limits)
        for name, limits in (("PACS", requester), ("WARD", reached))
    )
    caller = replace(Principal.peer("PACS"), user="PACS")
    identifier = encode_identifier({LEVEL: ("STUDY",), STUDY: UIDS}, (), implicit=True)
    with open_reading(load_config(archive.with_name("coffer.toml"))) as opened:
        opened.policy = Policy(AccessRules({"WARD"}, False, 1, Directory((pacs, ward))))
        planned = Retriever(opened).plan(identifier, implicit=True, model="study", caller=caller, destination="WARD")
        own = Retriever(opened).plan(identifier, implicit=True, model="study", caller=caller)
        with pytest.raises(AccessDeniedError):
            Retriever(opened).plan(identifier, implicit=True, model="study", caller=caller, destination="ELSEWHERE")
    assert {one.located.study_uid for one in planned.instances} == expected
    seen = requester.get("patients")
    assert {one.located.study_uid for one in own.instances} == (set(UIDS) if seen is None else set(UIDS[:2]))


def test_levels_that_cannot_be_judged_are_denied(index: Index) -> None:
    patient = {"level": "PATIENT", "model": "patient", "k00100020": ()}
    assert [row[PATIENT] for row in rows(index, FIRST_PATIENT, **patient)] == [("P-4711",)]  # type: ignore[arg-type]
    for scope in (Scope(days=1), Scope(sources=frozenset())):
        with pytest.raises(AccessDeniedError, match="of studies, not of patients"):
            rows(index, scope, **patient)  # type: ignore[arg-type]
    listing = Scope(levels=frozenset({"PATIENT", "STUDY"}))
    assert len(rows(index, listing)) == 3
    with pytest.raises(AccessDeniedError, match="patients and studies only"):
        rows(index, listing, level="SERIES", k0020000D=UIDS[:1])
