"""Who a caller over the network is: its certificate, its token, its password, or where the configuration says so its
AE title from its address.

Rule: the strongest that is given decides: a wrong proof is never made good by a weaker one. A secret is looked at only
if the connection is encrypted. Failures are counted by user and by address, and waits are kept.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final

from coffer.keys.errors import AccessDeniedError
from coffer.server.access.action import Action
from coffer.server.access.certificate import PeerCertificate
from coffer.server.access.decision import Policy
from coffer.server.access.principal import Principal, Proof
from coffer.server.access.users import User
from coffer.server.access.users_file import StoredUsers, standing
from coffer.server.identity.claim import AssociationClaim, IdentityType, Refusal, UserIdentity, Withdrawal
from coffer.server.identity.passwords import is_right
from coffer.server.identity.throttle import Throttle
from coffer.server.identity.tokens import Proved, Tokens
from coffer.server.observe.logs import get_logger

__all__ = ["Admission", "Connected"]

_log = get_logger()
_BEARER: Final = "bearer "


@dataclass(frozen=True, slots=True)
class Connected:
    """What the process that accepts connections knows of one: its address, the certificate that it proved, and whether
    nobody else can read it."""

    host: str
    certificate: PeerCertificate | None = None
    is_encrypted: bool = False


@dataclass(frozen=True, slots=True)
class _Found:
    """A user, the hash of its password, and what proved it."""

    user: User
    password: str = field(repr=False)
    proof: Proof
    token: Proved | None = None

    def as_user(self, who: Principal) -> Principal:
        """The principal who was proved so."""
        proved = replace(
            who,
            name=who.name or self.user.name,
            user=self.user.name,
            proof=self.proof,
            standing=standing(self.user, self.password),
        )
        return proved if self.token is None else replace(proved, subject=self.token.subject, until=self.token.until)


def _origin(host: str) -> str:
    """What failures from an address count for: itself, or with IPv6 its network of 64 bits, all of whose addresses one
    machine can have (RFC 4291 2.5.4)."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return f"address {host}"
    if isinstance(address, IPv6Address):
        return f"network {ip_network((address, 64), strict=False)}"
    return f"address {address}"


class Admission:
    """Says who is there, for both doors. Thread-safe."""

    def __init__(  # noqa: PLR0917  # what proofs are checked with
        self,
        stored: StoredUsers,
        policy: Policy,
        tokens: Tokens | None = None,
        count: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
        throttle: Throttle | None = None,
    ) -> None:
        """`count` is called for each failed proof; `clock` gives seconds since 1970 UTC."""
        self.use(stored, policy, tokens)
        self._count = count
        self._clock = clock
        self._throttle = throttle or Throttle()

    def use(self, stored: StoredUsers, policy: Policy, tokens: Tokens | None) -> None:
        """Judge by these from now on; failures that were counted go on counting."""
        self._users = stored.directory
        self._passwords = stored.passwords
        self._standings = {
            user.name.casefold(): standing(user, stored.passwords.get(user.name, "")) for user in stored.directory.users
        }
        self._policy = policy
        self._tokens = tokens

    def is_slow(self, claim: AssociationClaim) -> bool:
        """Whether judging a claim takes long: a password has to be checked."""
        return claim.identity is not None and not self._users.is_open

    def associate(self, claim: AssociationClaim, by: Connected) -> Principal | Refusal:
        """Who calls, if the caller was proved to be a user who may call itself so and may associate.

        Without users everybody is let in who is a known peer, under the AE title claimed.
        """
        peer = Principal.peer(claim.calling_ae, claim.called_ae, by.host, by.certificate)
        if not self._users.is_open:
            found = self._caller(claim, by)
            if found is None:
                self._refused(Refusal.IDENTITY, claim, by)
                return Refusal.IDENTITY
            peer = found.as_user(peer)
            if claim.calling_ae not in found.user.ae_titles:
                self._refused(Refusal.CALLING_AE, claim, by)
                return Refusal.CALLING_AE
        try:
            self._policy.require(peer, Action.ASSOCIATE)
        except AccessDeniedError:  # it is logged
            return Refusal.CALLING_AE
        return peer

    def withdrawn(self, who: Principal) -> Withdrawal | None:
        """Why somebody who was let in as `who` would not be let in so again, by the users and the time as they are now;
        None if nothing has changed."""
        if not who.user:
            return None if self._users.is_open else Withdrawal.GONE
        if who.until is not None and who.until <= self._clock():
            return Withdrawal.EXPIRED
        now = self._standings.get(who.user.casefold())
        if now is None:
            return Withdrawal.GONE
        return None if now == who.standing else Withdrawal.CHANGED

    def may_monitor(self, authorization: str, by: Connected) -> bool | None:
        """Whether whoever sends this `Authorization` header over this connection may see reasons and metrics; None if
        nobody was proved. Without users everybody may."""
        client = self.request(authorization, by)
        if not client.user and not self._users.is_open:
            return None
        try:
            self._policy.require(client, Action.MONITOR)
        except AccessDeniedError:  # it is logged
            return False
        return True

    def request(self, authorization: str, by: Connected) -> Principal:
        """Who sends an HTTP request with this `Authorization` header; without a `user` where nobody was proved."""
        found = self._by_certificate(by)
        if found is None and authorization.lower().startswith(_BEARER) and by.is_encrypted:
            found = self._by_token(authorization[len(_BEARER) :].strip().encode(), by)
        client = Principal.client("", by.host, by.certificate)
        return client if found is None else found.as_user(client)

    def _caller(self, claim: AssociationClaim, by: Connected) -> "_Found | None":
        if claim.identity is not None and claim.identity.kind != IdentityType.USERNAME:
            found = self._by_identity(claim.identity, by)
            # Whose certificate it is must be who logs in, if it is anybody's.
            holder = self._by_certificate(by)
            return found if found is None or holder is None or holder.user == found.user else None
        if by.certificate is not None:
            return self._by_certificate(by)
        return self._found(self._users.at(claim.calling_ae, by.host), Proof.ADDRESS)

    def _by_certificate(self, by: Connected) -> "_Found | None":
        if by.certificate is None:
            return None
        return self._found(self._users.with_certificate(by.certificate), Proof.CERTIFICATE)

    def _by_identity(self, identity: UserIdentity, by: Connected) -> "_Found | None":
        if not by.is_encrypted:
            return None
        if identity.kind == IdentityType.TOKEN:
            return self._by_token(identity.primary, by)
        if identity.kind == IdentityType.PASSCODE:
            return self._by_password(identity, by)
        return None

    def _by_password(self, identity: UserIdentity, by: Connected) -> "_Found | None":
        name = identity.primary.decode("utf-8", "replace")
        user = self._users.named(name)
        counted = f"user {name.casefold()[:64]}", _origin(by.host)
        if self._throttle.waits(counted):
            return None
        password = self._passwords.get(user.name) if user else None
        is_proved = is_right(identity.secondary, password)  # asked for nobody's too, which takes as long
        if user is None or password is None or not is_proved:
            self._failed(*counted)
            return None
        self._throttle.succeeded(counted[0])
        return _Found(user, password, Proof.PASSWORD)

    def _by_token(self, token: bytes, by: Connected) -> "_Found | None":
        counted = _origin(by.host)
        if self._tokens is None or self._throttle.waits((counted,)):
            return None
        proved = self._tokens.proved(token, int(self._clock()), by.certificate)
        found = None if proved is None else self._found(self._users.with_subject(proved.subject), Proof.TOKEN, proved)
        if found is None:
            self._failed(counted)
        return found

    def _found(self, user: User | None, proof: Proof, token: Proved | None = None) -> "_Found | None":
        """A user that may not have been found."""
        return None if user is None else _Found(user, self._passwords.get(user.name, ""), proof, token)

    def _failed(self, *names: str) -> None:
        self._throttle.failed(names)
        self._count()

    @staticmethod
    def _refused(why: Refusal, claim: AssociationClaim, by: Connected) -> None:
        _log.warning(
            "nobody was proved to be there who may call itself so",
            name="identity.refused",
            reason=why.value,
            calling_ae=claim.calling_ae,
            host=by.host,
            subject=by.certificate.subject if by.certificate else "",
            kind=claim.identity.kind if claim.identity else 0,
        )
