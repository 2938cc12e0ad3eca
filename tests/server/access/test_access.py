"""The decision by its rules: peers by AE title, acts by account, erasures by officers; and what a denial logs."""

from pathlib import Path

import pytest

from coffer.keys.errors import AccessDeniedError, InputError
from coffer.server.access.action import ARCHIVE, Action, PurposeOfUse, Resource
from coffer.server.access.decision import Policy, policy_of
from coffer.server.access.principal import Principal, PrincipalKind
from coffer.server.access.roles import Duty
from coffer.server.access.rules import DenialReason, Deny, Permit
from coffer.server.config.settings import Config, Dimse, Keys, Logging, Peer
from coffer.server.observe import logs
from tests.captured_logs import capture_logs

PEER, STRANGER, MEYER = Principal.peer("WARD"), Principal.peer("STRANGER"), Principal.person("Meyer", "pacs")
SERVICES = (Action.ASSOCIATE, Action.ECHO, Action.STORE, Action.FIND, Action.RETRIEVE)


def policy(*, known_peers_only: bool = False, approvals: int = 1) -> Policy:
    return policy_of(
        Config(
            archive=Path("/nowhere"),
            dimse=Dimse(known_peers_only=known_peers_only),
            keys=Keys(shred_approvals=approvals),
            peers=(Peer(ae_title="WARD", host="127.0.0.1", port=104),),
        )
    )


def reason(of: Policy, who: Principal, action: Action, resource: Resource = ARCHIVE) -> DenialReason | None:
    """Why not, or None."""
    found = of.decide(who, action, resource, PurposeOfUse.of(who), 0)
    return found.reason if isinstance(found, Deny) else None


@pytest.mark.parametrize("action", SERVICES)
def test_known_peers_only_is_one_rule_for_every_service(action: Action) -> None:
    strict, open_ = policy(known_peers_only=True), policy()
    assert reason(open_, STRANGER, action) is None
    assert reason(strict, PEER, action) is None
    assert reason(strict, STRANGER, action) is DenialReason.UNKNOWN_PEER
    assert reason(strict, Principal.peer("COFFER"), action) is DenialReason.UNKNOWN_PEER  # the archive's own
    assert reason(strict, Principal.here(ae_title="COFFER"), action) is None


def test_objects_are_moved_to_peers_only() -> None:
    for who in (PEER, STRANGER, MEYER):
        assert reason(policy(), who, Action.MOVE, Resource.destination("WARD")) is None
        assert reason(policy(), who, Action.MOVE, Resource.destination("ELSEWHERE")) is DenialReason.UNKNOWN_DESTINATION
    strict = policy(known_peers_only=True)
    assert reason(strict, STRANGER, Action.MOVE, Resource.destination("WARD")) is DenialReason.UNKNOWN_PEER


@pytest.mark.parametrize("action", sorted(set(Action) - {*SERVICES, Action.MOVE, Action.MONITOR}))
def test_no_peer_administers_and_whoever_has_the_account_does(action: Action) -> None:
    assert reason(policy(), PEER, action) is DenialReason.NOT_FROM_THE_NETWORK
    assert reason(policy(), MEYER, action) is None
    assert reason(policy(), Principal.service(), action) is None


def test_an_erasure_takes_as_many_officers_as_are_configured() -> None:
    three = policy(approvals=3)
    braun, klein = Principal.person("Braun", "pacs"), Principal.person("Klein", "pacs")
    assert reason(three, MEYER, Action.SHRED) is DenialReason.TOO_FEW_OFFICERS
    one, two = Resource.erasure(("meyer",)), Resource.erasure(("Meyer", "Braun"))
    assert reason(three, MEYER, Action.APPROVE, one) is DenialReason.SAME_OFFICER
    further = Permit(frozenset({Duty.FURTHER_APPROVAL}))
    assert three.decide(braun, Action.APPROVE, one, PurposeOfUse.ADMINISTRATION, 0) == further
    assert three.decide(klein, Action.APPROVE, two, PurposeOfUse.ADMINISTRATION, 0) == Permit()
    assert reason(three, braun, Action.SHRED, one) is DenialReason.TOO_FEW_OFFICERS
    assert reason(three, klein, Action.SHRED, two) is None
    assert (
        reason(three, MEYER, Action.SHRED, Resource.erasure(("Meyer", "MEYER", "meyer")))
        is DenialReason.TOO_FEW_OFFICERS
    )


def test_a_denial_is_raised_and_logged_by_names_that_stay() -> None:
    logs.configure(Logging(), level="warning")  # whatever another test of this process has configured
    who = Principal.peer("STRANGER", "COFFER", "192.0.2.7")
    with capture_logs() as lines, pytest.raises(AccessDeniedError, match="'STRANGER' is not a configured peer"):
        policy(known_peers_only=True).require(who, Action.FIND)
    assert lines == [
        {
            "event": "access denied",
            "name": "access.denied",
            "log_level": "warning",
            "action": "find",
            "reason": "unknown-peer",
            "kind": "peer",
            "principal": "STRANGER",
            "user": "",
            "calling_ae": "STRANGER",
            "host": "192.0.2.7",
            "resource": "archive",
            "purpose": "TREAT",
        }
    ]


def test_a_principal_says_who_acts() -> None:
    assert (PEER.kind, PEER.name, PEER.ae_title) == (PrincipalKind.PEER, "WARD", "WARD")
    assert str(MEYER) == "Meyer (pacs)"
    assert str(MEYER.officer) == "Meyer (pacs)"
    here = Principal.here()
    assert str(here) == here.name == here.account == Principal.service().name
    for name in ("", " ", "x" * 65, "a\nb"):
        with pytest.raises(InputError):
            Principal.here(name)
