"""Every rule about who may do what, in one table by action.

Rule: pure. All rules of an action must permit it; the first that denies it says why. What a rule permits may carry
duties. An action that the table does not name is for whoever has the account on the archive's host, and for nobody
else: so a new one is closed to the network until somebody opens it here.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final, TypeAlias

from coffer.keys.errors import AccessDeniedError
from coffer.server.access.action import Action, Asked
from coffer.server.access.principal import Kind

__all__ = ["Deny", "Duty", "Permit", "Reason", "Rules", "rules_for"]


class Duty(StrEnum):
    """What goes with a permission: whoever got it must see that it is done."""

    FURTHER_APPROVAL = "further-approval"  # another officer has to agree before anything is erased


class Reason(StrEnum):
    """Why not; the values appear in the log."""

    UNKNOWN_PEER = "unknown-peer"
    UNKNOWN_DESTINATION = "unknown-destination"
    NOT_FROM_THE_NETWORK = "not-from-the-network"
    TOO_FEW_OFFICERS = "too-few-officers"
    SAME_OFFICER = "same-officer"


@dataclass(frozen=True, slots=True)
class Permit:
    """Yes, with these duties."""

    duties: frozenset[Duty] = frozenset()


@dataclass(frozen=True, slots=True)
class Deny:
    """No: the reason for the log, the cause and the remedy for the person or peer refused."""

    reason: Reason
    cause: str
    hint: str

    def error(self) -> AccessDeniedError:
        """What is raised for it."""
        return AccessDeniedError(self.cause, hint=self.hint)


@dataclass(frozen=True, slots=True)
class Rules:
    """What the configuration says about access: the AE titles of the peers, whether only they are served, and how many
    officers must agree to an erasure."""

    peers: Collection[str]
    known_peers_only: bool
    shred_approvals: int

    def known_peer(self, asked: Asked) -> Permit | Deny:
        """With `dimse.known_peers_only`, a peer is one of `[[peers]]`. An AE title prevents mistakes, not attacks."""
        who = asked.principal
        if who.kind is not Kind.PEER or not self.known_peers_only or who.ae_title in self.peers:
            return Permit()
        return Deny(
            Reason.UNKNOWN_PEER,
            f"AE title {who.ae_title!r} is not a configured peer",
            "add it under [[peers]] in coffer.toml, or set dimse.known_peers_only = false",
        )

    def known_destination(self, asked: Asked) -> Permit | Deny:
        """Objects are sent to `[[peers]]` only, whoever asks for it (PS3.4 C.4.2)."""
        if asked.resource.name in self.peers:
            return Permit()
        return Deny(
            Reason.UNKNOWN_DESTINATION,
            f"move destination {asked.resource.name!r} is not configured",
            "add it under [[peers]] in coffer.toml",
        )

    def on_this_host(self, asked: Asked) -> Permit | Deny:
        """Whoever has the account may administer; no peer may. The files' permissions say who has it."""
        if asked.principal.kind is not Kind.PEER:
            return Permit()
        return Deny(
            Reason.NOT_FROM_THE_NETWORK,
            f"{asked.action} is not for peers",
            "run the command on the archive's host, under its account",
        )

    def another_officer(self, asked: Asked) -> Permit | Deny:
        """Each approval is another officer's, by the name, in whatever letters; then more may be needed still."""
        who, agreed = asked.principal.name, _names(asked.resource.agreed)
        if who.casefold() in agreed:
            return Deny(
                Reason.SAME_OFFICER,
                f"{who} has asked for it or agreed already: another officer must",
                "that is the rule of [keys] shred_approvals; the other one says --officer NAME",
            )
        is_enough = len(agreed) + 1 >= self.shred_approvals
        return Permit() if is_enough else Permit(frozenset({Duty.FURTHER_APPROVAL}))

    def enough_officers(self, asked: Asked) -> Permit | Deny:
        """Nothing is erased before as many officers have agreed as `[keys] shred_approvals` says, who acts included."""
        if len(_names((*asked.resource.agreed, asked.principal.name))) >= self.shred_approvals:
            return Permit()
        return Deny(
            Reason.TOO_FEW_OFFICERS,
            f"{self.shred_approvals} officers must agree ([keys] shred_approvals)",
            "ask with coffer shred request",
        )


Rule: TypeAlias = Callable[[Rules, Asked], Permit | Deny]

_HOST_ONLY: Final[tuple[Rule, ...]] = (Rules.on_this_host,)
_TABLE: Final[Mapping[Action, tuple[Rule, ...]]] = MappingProxyType(
    {
        Action.ASSOCIATE: (Rules.known_peer,),
        Action.ECHO: (Rules.known_peer,),
        Action.STORE: (Rules.known_peer,),
        Action.FIND: (Rules.known_peer,),
        Action.RETRIEVE: (Rules.known_peer,),
        Action.MOVE: (Rules.known_peer, Rules.known_destination),
        Action.APPROVE: (Rules.on_this_host, Rules.another_officer),
        Action.SHRED: (Rules.on_this_host, Rules.enough_officers),
    }
)


def rules_for(action: Action) -> tuple[Rule, ...]:
    """The rules that must all permit an action, in the order in which they are asked."""
    return _TABLE.get(action, _HOST_ONLY)


def _names(officers: Collection[str]) -> frozenset[str]:
    return frozenset(name.casefold() for name in officers)
