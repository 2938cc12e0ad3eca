"""Every rule about who may do what, in one table by action.

Rule: pure. All rules of an action must permit it; the first that denies it gives the reason. A permission may carry
duties. An action that is missing from the table is permitted only to the account on the archive's host: a new action
is closed to the network until it is opened here.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final, TypeAlias

from coffer.keys.errors import AccessDeniedError
from coffer.server.access.action import AccessRequest, Action, ResourceKind
from coffer.server.access.principal import PrincipalKind
from coffer.server.access.roles import Duty
from coffer.server.access.scope import EVERYTHING, Scope
from coffer.server.access.users import NOBODY, Directory, User

__all__ = ["AccessRules", "DenialReason", "Deny", "Permit", "rules_for"]


class DenialReason(StrEnum):
    """Why access was denied; the values appear in the log."""

    UNKNOWN_PEER = "unknown-peer"
    UNKNOWN_DESTINATION = "unknown-destination"
    NOT_FROM_THE_NETWORK = "not-from-the-network"
    TOO_FEW_OFFICERS = "too-few-officers"
    SAME_OFFICER = "same-officer"
    UNKNOWN_USER = "unknown-user"
    ROLE = "role"
    OWN_ROLE = "own-role"
    DESTINATION_LIMIT = "destination-limit"
    DESTINATION_ROLE = "destination-role"
    OBJECT_LIMIT = "object-limit"
    # Of a permission, a duty that nobody fulfils
    FURTHER_APPROVAL = "further-approval"
    NARROW = "narrow"
    CONSENT = "consent"
    DEIDENTIFY = "deidentify"
    NOT_BUILT = "not-built"


_UNFULFILLED: Final[Mapping[Duty, str]] = MappingProxyType({
    Duty.NOT_BUILT: "Coffer cannot do this yet",
    Duty.DEIDENTIFY: "the role permits a de-identified view only, which Coffer cannot make yet",
    Duty.CONSENT: "the role permits it with the patient's consent only, which Coffer cannot check yet",
    Duty.FURTHER_APPROVAL: "another officer must agree first",
    Duty.NARROW: "the role permits a part of the archive only, and this is not limited to it",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Permit:
    """Permitted, with these duties, for what lies inside every one of the scopes."""

    duties: frozenset[Duty] = frozenset()
    scopes: tuple[Scope, ...] = ()

    @classmethod
    def within(cls, duties: frozenset[Duty], scope: Scope) -> "Permit":
        """A permission for what lies inside one scope; unless that is everything, to narrow is a duty."""
        if scope == EVERYTHING:
            return cls(duties)
        return cls(duties | {Duty.NARROW}, (scope,))

    def __and__(self, other: "Permit") -> "Permit":
        """What both permit."""
        return Permit(self.duties | other.duties, self.scopes + other.scopes)

    def for_one_who(self, fulfils: Collection[Duty]) -> "Permit | Deny":
        """The same for a caller who fulfils these duties: a denial if there are others."""
        missing = next((duty for duty in _UNFULFILLED if duty in self.duties and duty not in fulfils), None)
        if missing is None:
            return self
        hint = _EXPLAIN if missing is not Duty.CONSENT or Duty.DEIDENTIFY in self.duties else _CONSENT
        return Deny(DenialReason(missing.value), _UNFULFILLED[missing], hint)


_CONSENT: Final = (
    "where the law lets you treat patients without asking each, an admin may set treatment_without_consent = true at "
    "the top of users.toml, which is recorded and shown; docs/security/roles.md says what it opens"
)
_EXPLAIN: Final = "coffer access explain shows what a user may do, and by which rule"


@dataclass(frozen=True, slots=True)
class Deny:
    """Denied: the reason for the log, the cause and the remedy for the person or peer refused."""

    reason: DenialReason
    cause: str
    hint: str

    def error(self) -> AccessDeniedError:
        """The error to raise for it."""
        return AccessDeniedError(self.cause, hint=self.hint)


@dataclass(frozen=True, slots=True)
class AccessRules:
    """The configuration of access: the AE titles of the peers, whether only they are served, how many officers must
    agree to an erasure, and who the users are."""

    peers: Collection[str]
    known_peers_only: bool
    shred_approvals: int
    directory: Directory = NOBODY

    @property
    def officers_needed(self) -> int:
        """How many officers must agree to an erasure: with roles two at least, unless there is one person only."""
        alone = self.directory.is_open or self.directory.single_officer
        return self.shred_approvals if alone else max(2, self.shred_approvals)

    def by_role(self, asked: AccessRequest) -> Permit | Deny:
        """Once there are users, everybody is one of them, and may do what a role of theirs grants. What the server does
        on its own passes; what the account that owns the users' file starts by itself is no person's act."""
        who, users = asked.principal, self.directory
        if users.is_open or who.kind is PrincipalKind.SERVICE:
            return Permit()
        if asked.action in _UNATTENDED and who.account and who.account == users.owner:
            return Permit()
        user = users.of(who)
        if user is None:
            return Deny(
                DenialReason.UNKNOWN_USER,
                "no user of this archive was proved to be there",
                "an admin adds one with coffer users add, or what proves an existing one with coffer users change",
            )
        grant = users.grant(user, asked.action)
        if grant is None:
            roles = ", ".join(sorted(user.roles))
            return Deny(DenialReason.ROLE, f"the role {roles} does not permit {asked.action}", _EXPLAIN)
        return self._limited(asked, user, Permit.within(grant.duties, user.scope(asked.action, grant.limits)))

    def _limited(self, asked: AccessRequest, user: User, permit: Permit) -> Permit | Deny:
        """The permission under the limits that depend on what is asked for."""
        what = asked.resource
        if what.kind is ResourceKind.OBJECT:
            if not all(scope.takes(what.name) for scope in permit.scopes):
                return Deny(DenialReason.OBJECT_LIMIT, "the role may not store objects of this SOP class", _EXPLAIN)
            return Permit(permit.duties - {Duty.NARROW})
        if asked.action is Action.MOVE:
            return self._to_destination(what.name, user, permit)
        if (
            what.kind is ResourceKind.USER
            and not self.directory.single_officer
            and self.directory.named(what.name) == user
        ):
            return Deny(
                DenialReason.OWN_ROLE, "nobody changes their own roles", "another admin does it, with coffer users"
            )
        return permit

    def _to_destination(self, ae_title: str, user: User, permit: Permit) -> Permit | Deny:
        """Who asks may send there, and who is reached there may see it: both, and no more than both may."""
        if user.destinations is not None and ae_title not in user.destinations:
            return Deny(DenialReason.DESTINATION_LIMIT, f"{user.name} may not send to {ae_title}", _EXPLAIN)
        reached = self.directory.with_title(ae_title)
        for each in reached:
            grant = self.directory.grant(each, Action.RETRIEVE)
            if grant is None:
                break
            permit &= Permit.within(grant.duties, each.scope(Action.RETRIEVE, grant.limits))
        else:
            if reached:
                return permit
        return Deny(
            DenialReason.DESTINATION_ROLE,
            f"no user with the AE title {ae_title} may retrieve",
            "a destination is a user too: coffer users add NAME --role ROLE --ae-title TITLE",
        )

    def known_peer(self, asked: AccessRequest) -> Permit | Deny:
        """With `dimse.known_peers_only`, a peer is one of `[[peers]]`. An AE title prevents mistakes, not attacks."""
        who = asked.principal
        if who.kind is not PrincipalKind.PEER or not self.known_peers_only or who.ae_title in self.peers:
            return Permit()
        return Deny(
            DenialReason.UNKNOWN_PEER,
            f"AE title {who.ae_title!r} is not a configured peer",
            "add it under [[peers]] in coffer.toml, or set dimse.known_peers_only = false",
        )

    def known_destination(self, asked: AccessRequest) -> Permit | Deny:
        """Objects are sent to `[[peers]]` only, whoever the caller is (PS3.4 C.4.2)."""
        if asked.resource.name in self.peers:
            return Permit()
        return Deny(
            DenialReason.UNKNOWN_DESTINATION,
            f"move destination {asked.resource.name!r} is not configured",
            "add it under [[peers]] in coffer.toml",
        )

    def on_this_host(self, asked: AccessRequest) -> Permit | Deny:
        """Holders of the account may administer; nobody from the network may. File permissions decide who can use the
        account."""
        if asked.principal.kind not in {PrincipalKind.PEER, PrincipalKind.CLIENT}:
            return Permit()
        return Deny(
            DenialReason.NOT_FROM_THE_NETWORK,
            f"{asked.action} is not available over the network",
            "run the command on the archive's host, under its account",
        )

    def another_officer(self, asked: AccessRequest) -> Permit | Deny:
        """Each approval comes from a different officer, compared by name without case; more may still be needed."""
        who, agreed = asked.principal.name, _names(asked.resource.agreed)
        if who.casefold() in agreed:
            return Deny(
                DenialReason.SAME_OFFICER,
                f"{who} has already requested or approved it: another officer must agree",
                "[keys] shred_approvals requires it; the other officer gives --officer NAME",
            )
        is_enough = len(agreed) + 1 >= self.officers_needed
        return Permit() if is_enough else Permit(frozenset({Duty.FURTHER_APPROVAL}))

    def enough_officers(self, asked: AccessRequest) -> Permit | Deny:
        """Nothing is erased before `[keys] shred_approvals` officers have agreed, the caller included."""
        if len(_names((*asked.resource.agreed, asked.principal.name))) >= self.officers_needed:
            return Permit()
        return Deny(
            DenialReason.TOO_FEW_OFFICERS,
            f"{self.officers_needed} officers must agree ([keys] shred_approvals)",
            "request it with coffer shred request",
        )


# Started by the host, at boot or by a timer, where nobody has logged in. None of it shows anybody an object.
_UNATTENDED: Final = frozenset({Action.SERVE, Action.VERIFY, Action.BACKUP, Action.PRUNE})

Rule: TypeAlias = Callable[[AccessRules, AccessRequest], Permit | Deny]

_HOST_ONLY: Final[tuple[Rule, ...]] = (AccessRules.on_this_host,)
_TABLE: Final[Mapping[Action, tuple[Rule, ...]]] = MappingProxyType(
    {
        Action.ASSOCIATE: (AccessRules.known_peer,),
        Action.ECHO: (AccessRules.known_peer,),
        Action.STORE: (AccessRules.known_peer,),
        Action.FIND: (AccessRules.known_peer,),
        Action.RETRIEVE: (AccessRules.known_peer,),
        Action.MOVE: (AccessRules.known_peer, AccessRules.known_destination),
        Action.APPROVE: (AccessRules.on_this_host, AccessRules.another_officer),
        Action.SHRED: (AccessRules.on_this_host, AccessRules.enough_officers),
        Action.MONITOR: (),
    }
)


def rules_for(action: Action) -> tuple[Rule, ...]:
    """The rules that must all permit an action, in the order in which they are applied: from where, who, the rest."""
    rules = _TABLE.get(action, _HOST_ONLY)
    return (*rules[:1], AccessRules.by_role, *rules[1:])


def _names(officers: Collection[str]) -> frozenset[str]:
    return frozenset(name.casefold() for name in officers)
