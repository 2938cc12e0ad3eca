"""Who is let in by a door that a test opens without worker processes: whoever the configuration's users say."""

from dataclasses import dataclass

from coffer.server.access.decision import policy_of
from coffer.server.access.principal import Principal
from coffer.server.access.users_file import read_users
from coffer.server.config.settings import Config
from coffer.server.identity.admission import Admission, Connected
from coffer.server.identity.claim import AssociationClaim, Refusal


@dataclass(frozen=True, slots=True)
class LocalGate:
    """`server.services.api.Gate` in one process."""

    admission: Admission
    by: Connected

    def admit(self, claim: AssociationClaim) -> Principal | Refusal:
        return self.admission.associate(claim, self.by)


def admission_of(config: Config) -> Admission:
    """What lets callers in, by the configuration."""
    stored = read_users(config.access.users)
    return Admission(stored, policy_of(config, stored.directory))


def open_gate(config: Config, host: str) -> LocalGate:
    """The gate for a connection from this address without TLS."""
    return LocalGate(admission_of(config), Connected(host))
