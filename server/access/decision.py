"""The one access decision for everything that enters, leaves or administers the archive: may this principal do this?

Rule: it is made before anything is opened, shown or changed: by the services, so that no door can forget it, and by
the command line before it opens an archive. What is permitted is defined in `rules`, and nowhere else.
"""

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Final

from coffer.keys.clock import clock_ms
from coffer.server.access.action import ARCHIVE, AccessRequest, Action, PurposeOfUse, Resource
from coffer.server.access.principal import Principal
from coffer.server.access.roles import Duty
from coffer.server.access.rules import AccessRules, Deny, Permit, rules_for
from coffer.server.access.users import Directory
from coffer.server.access.users_file import read_users
from coffer.server.config.settings import Config
from coffer.server.observe.logs import get_logger

__all__ = ["FULFILLED", "Policy", "policy_of"]

_log = get_logger()

# Which duties the code fulfils, by action: what each caller of `require` states. A duty joins here together with the
# code that fulfils it, and never before.
FULFILLED: Final[Mapping[Action, frozenset[Duty]]] = MappingProxyType(
    dict.fromkeys((Action.STORE, Action.IMPORT, Action.FIND, Action.RETRIEVE, Action.MOVE), frozenset({Duty.NARROW}))
    | {Action.APPROVE: frozenset({Duty.FURTHER_APPROVAL})}
)


class Policy:
    """Decides by the rules of one configuration. Immutable, and safe to use from many threads."""

    def __init__(self, rules: AccessRules) -> None:
        self._rules = rules

    @property
    def directory(self) -> Directory:
        """The users that it knows."""
        return self._rules.directory

    @property
    def officers_needed(self) -> int:
        """How many officers must agree to an erasure."""
        return self._rules.officers_needed

    def decide(
        self, principal: Principal, action: Action, resource: Resource, purpose: PurposeOfUse, at: int
    ) -> Permit | Deny:
        """Whether `principal` may do `action` with `resource` for `purpose` at `at` (milliseconds since 1970). Pure."""
        asked = AccessRequest(principal, action, resource, purpose, at)
        permit = Permit()
        for rule in rules_for(action):
            found = rule(self._rules, asked)
            if isinstance(found, Deny):
                return found
            permit &= found
        return permit

    def require(
        self, principal: Principal, action: Action, resource: Resource = ARCHIVE, *, fulfils: Collection[Duty] = ()
    ) -> Permit:
        """Return the permission to do it now, for a caller who fulfils these duties; otherwise log the denial and raise
        AccessDeniedError. A permission with any other duty is a denial."""
        purpose = PurposeOfUse.of(principal)
        found = self.decide(principal, action, resource, purpose, clock_ms())
        if isinstance(found, Permit):
            found = found.for_one_who(fulfils)
        if isinstance(found, Permit):
            return found
        _log.warning(
            "access denied",
            name="access.denied",
            action=action.value,
            reason=found.reason.value,
            kind=principal.kind.value,
            principal=principal.name,
            user=principal.user,
            calling_ae=principal.ae_title,
            host=principal.host,
            resource=resource.kind.value,
            purpose=purpose.value,
        )
        raise found.error()


def policy_of(config: Config, directory: Directory | None = None) -> Policy:
    """The policy that the configuration and its users define; `directory` where they have been read already.

    Raises ConfigError for a file of users that cannot be read or must not be trusted.
    """
    peers = frozenset(peer.ae_title for peer in config.peers)
    users = read_users(config.access.users).directory if directory is None else directory
    return Policy(AccessRules(peers, config.dimse.known_peers_only, config.keys.shred_approvals, users))
