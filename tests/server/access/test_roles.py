"""Roles: the table of docs/security/roles.md, cell by cell; the limits of users; which duties are fulfilled."""

import datetime as dt
from dataclasses import replace

import pytest

from coffer.keys.errors import AccessDeniedError, ConfigError
from coffer.server.access import decision
from coffer.server.access.action import ARCHIVE, Action, PurposeOfUse, Resource
from coffer.server.access.certificate import PeerCertificate
from coffer.server.access.decision import Policy
from coffer.server.access.principal import Principal
from coffer.server.access.roles import GRANTS, Duty, Role
from coffer.server.access.rules import AccessRules, DenialReason, Deny, Permit
from coffer.server.access.scope import Scope, StudyFacts
from coffer.server.access.users import Directory, User
from tests.role_table import ACTIONS, CELLS, ROLES

CT, SR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.88.22"
TODAY = dt.date(2026, 11, 30)
# What the doors fulfil today. A duty that is added here opens cells of the table: first comes the code that fulfils it.
FULFILLED = frozenset({Duty.NARROW, Duty.FURTHER_APPROVAL})


def user(role: str, **more: object) -> User:
    given: dict[str, object] = {"ae_titles": frozenset({"US"}), "accounts": frozenset({"u"}), **more}
    return User(name="u", roles=frozenset({Role(role)}), **given)  # type: ignore[arg-type]


def policy(*users: User, single_officer: bool = False, owner: str = "") -> Policy:
    return Policy(AccessRules({"WARD", "US"}, False, 1, Directory(users, single_officer, owner)))


def asked(of: Policy, action: Action, who: Principal, resource: Resource = ARCHIVE) -> Permit | Deny:
    found = of.decide(who, action, resource, PurposeOfUse.of(who), 0)
    return found.for_one_who(FULFILLED) if isinstance(found, Permit) else found


NETWORK = {Action.ASSOCIATE, Action.ECHO, Action.STORE, Action.FIND, Action.RETRIEVE, Action.MOVE, Action.MONITOR}


def resource_of(action: Action) -> Resource:
    """What is asked for, so that only the role decides."""
    match action:
        case Action.MOVE:
            return Resource.destination("WARD")
        case Action.APPROVE | Action.SHRED:
            return Resource.erasure(("Another",))
        case _:
            return ARCHIVE


def test_the_page_has_every_role_and_every_action() -> None:
    assert sorted(ROLES) == sorted(Role)
    assert sorted(Action) == ACTIONS


@pytest.mark.parametrize(("action", "role", "cell"), [(*name, cell) for name, cell in CELLS.items()])
def test_a_role_may_do_what_its_cell_says(action: str, role: str, cell: str) -> None:
    do = Action(action)
    reached = User(name="ward", roles=frozenset({Role.PACS}), ae_titles=frozenset({"WARD"}))
    who = Principal.person("u", "u")
    found = asked(policy(user(role), reached), do, who, resource_of(do))
    expected = {
        "–": DenialReason.ROLE, "later": DenialReason.NOT_BUILT, "consent": DenialReason.CONSENT,
        "own + consent": DenialReason.CONSENT, "de-identified": DenialReason.DEIDENTIFY,
    }  # fmt: skip
    if cell in expected:
        assert isinstance(found, Deny)
        assert found.reason is expected[cell]
        return
    assert isinstance(found, Permit)
    limited = {
        "own, 24 h": lambda scope: (scope.sources, scope.days) == ({"US"}, 1),
        "listing": lambda scope: scope.shows(0x00100010) and not scope.shows(0x00104000),
        "reports": lambda scope: scope.takes(SR) and not scope.takes(CT),
    }
    if cell == "yes":
        assert found == Permit()
    else:
        assert found.duties == {Duty.NARROW}
        assert limited[cell](found.scopes[0])


@pytest.mark.parametrize(
    ("action", "role", "cell"), [(*name, cell) for name, cell in CELLS.items() if "de" in cell or "consent" in cell]
)
def test_a_site_may_declare_that_treatment_needs_no_consent(action: str, role: str, cell: str) -> None:
    """Then the cells of those who treat are open, to the same limits, and nobody else's."""
    reached = User(name="ward", roles=frozenset({Role.PACS}), ae_titles=frozenset({"WARD"}))
    of = Policy(AccessRules({"WARD"}, False, 1, Directory((user(role), reached), treatment_without_consent=True)))
    found = asked(of, Action(action), Principal.person("u", "u"), resource_of(Action(action)))
    if cell == "consent":
        assert found == Permit()
    elif cell == "own + consent":
        assert isinstance(found, Permit)
        assert found.scopes[0].patients == frozenset()
    else:
        assert isinstance(found, Deny)
        assert found.reason is DenialReason.DEIDENTIFY
        grant = of.directory.grant(user(role), Action(action))
        assert grant is not None
        assert Duty.CONSENT in grant.duties


def test_the_denial_for_want_of_consent_names_the_declaration_only_where_it_helps() -> None:
    for role, helps in (("pacs", True), ("referring", True), ("researcher", False)):
        found = asked(policy(user(role)), Action.FIND, Principal.person("u", "u"))
        assert isinstance(found, Deny)
        assert ("treatment_without_consent" in found.hint) == helps


@pytest.mark.parametrize("duty", Duty)
def test_a_duty_that_nobody_fulfils_is_a_denial(duty: Duty) -> None:
    found = Permit(frozenset({duty})).for_one_who(frozenset(Duty) - {duty})
    assert isinstance(found, Deny)
    assert found.reason == duty.value
    assert Permit(frozenset({duty})).for_one_who({duty}) == Permit(frozenset({duty}))


def test_the_code_claims_to_fulfil_no_other_duty() -> None:
    assert frozenset[Duty]().union(*decision.FULFILLED.values()) == FULFILLED


def test_require_denies_what_its_caller_does_not_fulfil() -> None:
    clerk = policy(user("clerk"))
    assert clerk.require(Principal.person("u", "u"), Action.FIND, fulfils={Duty.NARROW}).scopes
    with pytest.raises(AccessDeniedError, match="a part of the archive only"):
        clerk.require(Principal.person("u", "u"), Action.FIND)


def test_nobody_is_let_in_who_is_no_user_and_no_peer_administers() -> None:
    admin = policy(user("admin"), owner="coffer")
    for who in (Principal.peer("US"), Principal.person("x", "x"), Principal.client("", "::1")):
        found = asked(admin, Action.MONITOR, who)
        assert isinstance(found, Deny)
        assert found.reason is DenialReason.UNKNOWN_USER
    peer = replace(Principal.peer("US"), user="u")
    assert asked(admin, Action.ECHO, peer) == Permit()
    for action in set(Action) - NETWORK:
        found = asked(admin, action, peer)
        assert isinstance(found, Deny)
        assert found.reason is DenialReason.NOT_FROM_THE_NETWORK
    assert asked(admin, Action.ROTATE, Principal.service()) == Permit()


def test_the_account_that_owns_the_file_of_users_starts_the_server_verifies_and_no_more() -> None:
    of = policy(user("admin"), owner="coffer")
    allowed = {each for each in Action if asked(of, each, Principal.person("coffer", "coffer")) == Permit()}
    assert allowed == {Action.SERVE, Action.VERIFY, Action.BACKUP, Action.PRUNE}
    as_user = policy(user("admin"), user("clerk", accounts=frozenset({"coffer"})), owner="coffer")
    assert asked(as_user, Action.SERVE, Principal.person("u", "coffer")) == Permit()


def test_of_several_roles_the_one_with_the_fewest_duties_decides() -> None:
    both = User(name="u", roles=frozenset({Role.PACS, Role.MODALITY}), accounts=frozenset({"u"}))
    found = asked(policy(both), Action.FIND, Principal.person("u", "u"))
    assert isinstance(found, Permit)
    assert found.scopes[0].days == 1


def test_a_move_needs_its_requester_and_its_destination() -> None:
    requester = user("pacs")
    ask = Principal.person("u", "u"), Resource.destination("WARD")

    def reason(*others: User, who: User = requester) -> DenialReason | None:
        found = policy(who, *others).decide(ask[0], Action.MOVE, ask[1], PurposeOfUse.TREATMENT, 0)
        return found.reason if isinstance(found, Deny) else None

    ward = User(name="ward", roles=frozenset({Role.PACS}), ae_titles=frozenset({"WARD"}), modalities=frozenset({"CT"}))
    assert reason() is DenialReason.DESTINATION_ROLE  # nobody is reached there
    assert reason(replace(ward, roles=frozenset({Role.MODALITY}))) is DenialReason.DESTINATION_ROLE
    assert reason(ward) is None
    assert reason(ward, who=replace(requester, destinations=frozenset())) is DenialReason.DESTINATION_LIMIT
    narrowed = replace(requester, patients=frozenset({"P1"}))
    found = policy(narrowed, ward).decide(ask[0], Action.MOVE, ask[1], PurposeOfUse.TREATMENT, 0)
    assert isinstance(found, Permit)
    assert [(each.patients, each.modalities) for each in found.scopes] == [({"P1"}, None), (None, {"CT"})]
    assert found.duties == {Duty.CONSENT, Duty.NARROW}


def test_a_radiologist_stores_reports_and_no_images() -> None:
    of, who = policy(user("radiologist")), Principal.person("u", "u")
    assert asked(of, Action.STORE, who, Resource.arriving(SR)) == Permit()
    found = asked(of, Action.STORE, who, Resource.arriving(CT))
    assert isinstance(found, Deny)
    assert found.reason is DenialReason.OBJECT_LIMIT


def test_an_erasure_takes_two_once_there_are_roles_and_one_where_there_is_one_person() -> None:
    who = Principal.person("u", "u")
    alone = asked(policy(user("key-officer")), Action.SHRED, who)
    assert isinstance(alone, Deny)
    assert alone.reason is DenialReason.TOO_FEW_OFFICERS
    assert asked(policy(user("key-officer"), single_officer=True), Action.SHRED, who) == Permit()


def test_nobody_changes_their_own_roles() -> None:
    who, own, other = Principal.person("u", "u"), Resource.user("U"), Resource.user("bert")
    found = asked(policy(user("admin")), Action.MANAGE_USERS, who, own)
    assert isinstance(found, Deny)
    assert found.reason is DenialReason.OWN_ROLE
    assert asked(policy(user("admin")), Action.MANAGE_USERS, who, other) == Permit()
    assert asked(policy(user("admin"), single_officer=True), Action.MANAGE_USERS, who, own) == Permit()


@pytest.mark.parametrize(
    ("scope", "inside", "outside"),
    [
        (Scope(patients=frozenset({"P1"})), ("P1", "", (), ()), ("P2", "", (), ())),
        (Scope(modalities=frozenset({"CT"})), ("", "", ("MR", "CT"), ()), ("", "", ("MR",), ())),
        (Scope(sources=frozenset({"CT1"})), ("", "", (), ("CT1",)), ("", "", (), ("MR1",))),
        (Scope(days=1), ("", "20261129", (), ()), ("", "20261128", (), ())),
        (Scope(days=1), ("", "20261201", (), ()), ("", "", (), ())),
        (Scope(days=1), ("", "20261130 ", (), ()), ("", "2026", (), ())),
        (Scope(), ("", "", (), ()), None),
    ],
)
def test_a_scope_covers_what_lies_inside(
    scope: Scope,
    inside: tuple[str, str, tuple[str, ...], tuple[str, ...]],
    outside: tuple[str, str, tuple[str, ...], tuple[str, ...]] | None,
) -> None:
    def covers(facts: tuple[str, str, tuple[str, ...], tuple[str, ...]]) -> bool:
        return scope.covers(StudyFacts(*facts[:3], lambda: facts[3]), TODAY)

    assert covers(inside)
    assert outside is None or not covers(outside)


def test_what_proves_a_user() -> None:
    proof = PeerCertificate("CN=ct", "CN=ca", ("DNS:ct1.example", "IP:10.0.0.1"), "ab" * 32, "1", 0, "ef" * 32)
    by_key, by_name = (
        user("modality", certificates=frozenset({"ab" * 32})),
        user("modality", certificates=frozenset({"CN=ca | IP:10.0.0.1"})),
    )
    for each in (by_key, by_name):
        assert Directory((each,)).with_certificate(proof) == each
    for other in (replace(proof, spki_sha256="cd" * 32), replace(proof, issuer="CN=other")):
        assert Directory((by_key,)).with_certificate(other) == (by_key if other.spki_sha256 == "ab" * 32 else None)
        assert Directory((by_name,)).with_certificate(other) == (by_name if other.issuer == "CN=ca" else None)
    placed = user("pacs", addresses=frozenset({"10.0.0.7"}))
    assert Directory((placed,)).at("US", "10.0.0.7") == placed
    assert Directory((placed,)).at("US", "10.0.0.8") is None
    assert Directory((user("pacs"),)).at("US", "10.0.0.7") is None  # the title alone proves nothing


def test_what_no_directory_may_be() -> None:
    admin = user("admin")
    Directory((admin,)).require_sound()
    key = User(name="k", roles=frozenset({Role.KEY_OFFICER}), accounts=frozenset({"k"}))
    with pytest.raises(AccessDeniedError, match="nobody could change roles"):
        Directory((key,)).require_sound()
    with pytest.raises(AccessDeniedError, match="nobody could change roles"):
        Directory((replace(admin, accounts=frozenset()),)).require_sound()
    with pytest.raises(ConfigError, match="the same name"):
        Directory((admin, replace(key, name="U"))).require_sound()
    with pytest.raises(ConfigError, match="the same accounts: u"):
        Directory((admin, replace(key, accounts=frozenset({"u"})))).require_sound()


@pytest.mark.parametrize(
    "pair",
    [
        "admin key-officer",
        "admin auditor",
        "key-officer auditor",
        "researcher key-officer",
        "researcher privacy-officer",
    ],
)
def test_roles_that_exclude_each_other(pair: str) -> None:
    both = User(name="b", roles=frozenset(map(Role, pair.split())), accounts=frozenset({"b"}))
    with pytest.raises(AccessDeniedError, match="must be different people"):
        Directory((user("admin"), both)).require_sound()
    Directory((user("admin"), both), single_officer=True).require_sound()


def test_nobody_is_given_what_no_role_has() -> None:
    assert {action for grants in GRANTS.values() for action in grants} == set(Action)
