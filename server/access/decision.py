"""The one access decision for everything that enters, leaves or administers the archive: may this principal do this?

Rule: it is made before anything is opened, shown or changed: by the services, so that no door can forget it, and by
the command line before it opens an archive. What is permitted is defined in `rules`, and nowhere else.
"""

from coffer.keys.clock import clock_ms
from coffer.server.access.action import ARCHIVE, AccessRequest, Action, PurposeOfUse, Resource
from coffer.server.access.principal import Principal
from coffer.server.access.rules import AccessRules, Deny, Duty, Permit, rules_for
from coffer.server.config.settings import Config
from coffer.server.observe.logs import get_logger

__all__ = ["Policy", "policy_of"]

_log = get_logger()


class Policy:
    """Decides by the rules of one configuration. Immutable, and safe to use from many threads."""

    def __init__(self, rules: AccessRules) -> None:
        self._rules = rules

    def decide(
        self, principal: Principal, action: Action, resource: Resource, purpose: PurposeOfUse, at: int
    ) -> Permit | Deny:
        """Whether `principal` may do `action` with `resource` for `purpose` at `at` (milliseconds since 1970). Pure."""
        asked = AccessRequest(principal, action, resource, purpose, at)
        duties: frozenset[Duty] = frozenset()
        for rule in rules_for(action):
            found = rule(self._rules, asked)
            if isinstance(found, Deny):
                return found
            duties |= found.duties
        return Permit(duties)

    def require(self, principal: Principal, action: Action, resource: Resource = ARCHIVE) -> Permit:
        """Return the permission to do it now; otherwise log the denial and raise AccessDeniedError."""
        purpose = PurposeOfUse.of(principal)
        found = self.decide(principal, action, resource, purpose, clock_ms())
        if isinstance(found, Permit):
            return found
        _log.warning(
            "access denied",
            name="access.denied",
            action=action.value,
            reason=found.reason.value,
            kind=principal.kind.value,
            principal=principal.name,
            calling_ae=principal.ae_title,
            host=principal.host,
            resource=resource.kind.value,
            purpose=purpose.value,
        )
        raise found.error()


def policy_of(config: Config) -> Policy:
    """The policy that the configuration defines."""
    peers = frozenset(peer.ae_title for peer in config.peers)
    return Policy(AccessRules(peers, config.dimse.known_peers_only, config.keys.shred_approvals))
