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
from coffer.server.access.action import AccessRequest, Action
from coffer.server.access.principal import PrincipalKind

__all__ = ["AccessRules", "DenialReason", "Deny", "Duty", "Permit", "rules_for"]


class Duty(StrEnum):
    """An obligation that comes with a permission; the caller must fulfil it."""

    FURTHER_APPROVAL = "further-approval"  # another officer must agree before anything is erased


class DenialReason(StrEnum):
    """Why access was denied; the values appear in the log."""

    UNKNOWN_PEER = "unknown-peer"
    UNKNOWN_DESTINATION = "unknown-destination"
    NOT_FROM_THE_NETWORK = "not-from-the-network"
    TOO_FEW_OFFICERS = "too-few-officers"
    SAME_OFFICER = "same-officer"


@dataclass(frozen=True, slots=True)
class Permit:
    """Permitted, with these duties."""

    duties: frozenset[Duty] = frozenset()


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
    """The configuration of access: the AE titles of the peers, whether only they are served, and how many officers must
    agree to an erasure."""

    peers: Collection[str]
    known_peers_only: bool
    shred_approvals: int

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
        """Holders of the account may administer; no peer may. File permissions decide who can use the account."""
        if asked.principal.kind is not PrincipalKind.PEER:
            return Permit()
        return Deny(
            DenialReason.NOT_FROM_THE_NETWORK,
            f"{asked.action} is not available to peers",
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
        is_enough = len(agreed) + 1 >= self.shred_approvals
        return Permit() if is_enough else Permit(frozenset({Duty.FURTHER_APPROVAL}))

    def enough_officers(self, asked: AccessRequest) -> Permit | Deny:
        """Nothing is erased before `[keys] shred_approvals` officers have agreed, the caller included."""
        if len(_names((*asked.resource.agreed, asked.principal.name))) >= self.shred_approvals:
            return Permit()
        return Deny(
            DenialReason.TOO_FEW_OFFICERS,
            f"{self.shred_approvals} officers must agree ([keys] shred_approvals)",
            "request it with coffer shred request",
        )


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
    }
)


def rules_for(action: Action) -> tuple[Rule, ...]:
    """The rules that must all permit an action, in the order in which they are applied."""
    return _TABLE.get(action, _HOST_ONLY)


def _names(officers: Collection[str]) -> frozenset[str]:
    return frozenset(name.casefold() for name in officers)
