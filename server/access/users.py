"""Who is known here: users with their roles, what proves them to be there, and their own limits.

Rule: pure. It holds no password and no key: hashes stay in the file that `server.identity` reads. An empty directory
means the open role: whoever reaches the archive may do what the rules without roles permit.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from coffer.keys.errors import AccessDeniedError, ConfigError
from coffer.server.access.action import Action
from coffer.server.access.certificate import PeerCertificate
from coffer.server.access.principal import Principal, PrincipalKind, Proof
from coffer.server.access.roles import GRANTS, LISTING, REPORTS, TREATING, Duty, Grant, Limit, Role, conflict
from coffer.server.access.scope import EVERYTHING, Scope

__all__ = ["NOBODY", "OPEN_ROLE", "Directory", "User"]

OPEN_ROLE: Final = "open"  # the name, in messages, metrics and the log, of what is in force while there is no user
_DATA: Final = frozenset({Action.FIND, Action.RETRIEVE, Action.MOVE, Action.EXPORT})


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """One user: a person, a device or a service.

    Proofs: `certificates` are SHA-256 hashes of public keys (64 hex digits) or "ISSUER | KIND:NAME", an issuer's name
    with one subject alternative name; `accounts` are accounts of the operating system; `subjects` are the `sub` of
    tokens; `addresses` make an AE title from there a proof, which it is not otherwise. `ae_titles` are those that the
    user may call itself. The other fields narrow what the roles grant; None: not at all.
    """

    name: str
    roles: frozenset[Role]
    ae_titles: frozenset[str] = frozenset()
    certificates: frozenset[str] = frozenset()
    addresses: frozenset[str] = frozenset()
    accounts: frozenset[str] = frozenset()
    subjects: frozenset[str] = frozenset()
    modalities: frozenset[str] | None = None
    patients: frozenset[str] | None = None
    days: int | None = None
    destinations: frozenset[str] | None = None
    attributes: frozenset[int] | None = None

    def grant(self, action: Action, *, treats_without_consent: bool = False) -> Grant | None:
        """What the roles grant for an action; of several grants the one with the fewest duties, then limits.
        `treats_without_consent`: the site declares that treatment needs no consent."""
        lifted = frozenset({Duty.CONSENT}) if treats_without_consent else frozenset()
        grants = [
            replace(grant, duties=grant.duties - lifted) if role in TREATING else grant
            for role in sorted(self.roles)
            if (grant := GRANTS[role].get(action)) is not None
        ]
        return min(grants, key=lambda one: (len(one.duties), len(one.limits)), default=None)

    def scope(self, action: Action, limits: frozenset[Limit]) -> Scope:
        """How the grant's limits and the user's own narrow an action."""
        if action in {Action.STORE, Action.IMPORT}:
            return Scope(sop_classes=REPORTS) if Limit.REPORTS_ONLY in limits else EVERYTHING
        if action not in _DATA:
            return EVERYTHING
        is_own = Limit.OWN_PATIENTS in limits
        days = [each for each in (self.days, 1 if Limit.LAST_DAY in limits else None) if each is not None]
        shown = LISTING if Limit.LISTING in limits else None
        if self.attributes is not None:
            shown = self.attributes if shown is None else shown & self.attributes
        return Scope(
            sources=self.ae_titles if Limit.OWN_STUDIES in limits else None,
            modalities=self.modalities,
            patients=(self.patients or frozenset()) if is_own else self.patients,
            days=min(days, default=None),
            attributes=shown,
            levels=frozenset({"PATIENT", "STUDY"}) if Limit.LISTING in limits else None,
        )

    def is_proved_by(self, certificate: PeerCertificate) -> bool:
        """Whether a certificate is one of this user's."""
        named = (f"{certificate.issuer} | {name}" for name in certificate.names)
        return certificate.spki_sha256 in self.certificates or not self.certificates.isdisjoint(named)

    def still_is(self, who: Principal) -> bool:
        """Whether what proved a peer or client, and the title that it calls itself by, are this user's now. Passwords
        are not known here: whoever is let in by one is judged by `server.identity.admission` as well."""
        if who.kind is PrincipalKind.PEER and who.proof is not None and who.ae_title not in self.ae_titles:
            return False
        match who.proof:
            case Proof.CERTIFICATE:
                return who.certificate is not None and self.is_proved_by(who.certificate)
            case Proof.TOKEN:
                return who.subject in self.subjects
            case Proof.ADDRESS:
                return who.host in self.addresses
            case _:
                return True

    @property
    def may_change_roles(self) -> bool:
        """Whether this user can run `coffer users` on the archive's host."""
        return Role.ADMIN in self.roles and bool(self.accounts)


@dataclass(frozen=True, slots=True)
class Directory:
    """All users. `owner` is the account that owns the file, the one that the server runs under; it may start the
    server, verify and back up without being a user. `single_officer`: one person may hold roles that exclude each
    other, and approve what they requested. `treatment_without_consent`: this site declares that its law lets it treat
    patients without asking each for consent. Both are recorded in the log and shown."""

    users: tuple[User, ...] = ()
    single_officer: bool = False
    owner: str = ""
    sha256: str = ""  # of the file that it was read from, in hex
    treatment_without_consent: bool = False
    _by_name: dict[str, User] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._by_name.update((user.name.casefold(), user) for user in self.users)

    def grant(self, user: User, action: Action) -> Grant | None:
        """What a user's roles grant for an action at this site."""
        return user.grant(action, treats_without_consent=self.treatment_without_consent)

    def concerns(self) -> list[str]:
        """What this site has declared that loosens a rule, for a human to look at."""
        told = {
            "single_officer = true: one person may hold roles that exclude each other": self.single_officer,
            "treatment_without_consent = true: consent is not asked for where patients are treated": (
                self.treatment_without_consent
            ),
        }
        return [each for each, is_so in told.items() if is_so]

    @property
    def is_open(self) -> bool:
        """Whether there is no user, and the open role is in force."""
        return not self.users

    def named(self, name: str) -> User | None:
        """The user of a name, whatever its case."""
        return self._by_name.get(name.casefold())

    def of(self, who: Principal) -> User | None:
        """The user that a principal was proved to be: by a door, or for a person by the account. What proved it must
        still be that user's: an association lasts longer than the list that it began under."""
        if who.user:
            user = self.named(who.user)
            return user if user is not None and user.still_is(who) else None
        return self.with_account(who.account) if who.kind is PrincipalKind.PERSON else None

    def with_account(self, account: str) -> User | None:
        """The user to whom an account of the operating system belongs."""
        return self._first(lambda user: account in user.accounts)

    def with_subject(self, subject: str) -> User | None:
        """The user to whom a token's subject belongs."""
        return self._first(lambda user: subject in user.subjects)

    def with_certificate(self, certificate: PeerCertificate) -> User | None:
        """The user to whom a verified certificate belongs."""
        return self._first(lambda user: user.is_proved_by(certificate))

    def at(self, ae_title: str, address: str) -> User | None:
        """The user whom an AE title from this address proves, because its entry says so."""
        return self._first(lambda user: address in user.addresses and ae_title in user.ae_titles)

    def has_address(self, address: str) -> bool:
        """Whether any user's entry names this address."""
        return self._first(lambda user: address in user.addresses) is not None

    def with_title(self, ae_title: str) -> tuple[User, ...]:
        """The users who may call themselves so: those who are reached at a destination of that name."""
        return tuple(user for user in self.users if ae_title in user.ae_titles)

    def _first(self, holds: Callable[[User], bool]) -> User | None:
        return next((user for user in self.users if holds(user)), None)

    def require_sound(self) -> None:
        """Raise ConfigError unless every proof belongs to one user, no user holds roles that exclude each other
        (`single_officer` permits it), and somebody can change roles."""
        if len(self._by_name) < len(self.users):
            raise ConfigError("two users have the same name", hint="rename one of them; case does not distinguish them")
        for what in ("certificates", "accounts", "subjects"):
            _require_distinct(what, (getattr(user, what) for user in self.users))
        _require_distinct("ae_titles from addresses", (_places(user) for user in self.users))
        for user in self.users:
            self._require_separate(user)
        if self.users and not any(user.may_change_roles for user in self.users):
            raise AccessDeniedError(
                "then nobody could change roles: no user would have the role admin and an account",
                hint="first add another one: coffer users add NAME --role admin --account ACCOUNT",
            )

    def _require_separate(self, user: User) -> None:
        pair = None if self.single_officer else conflict(user.roles)
        if pair is not None:
            raise AccessDeniedError(
                f"{user.name} cannot be {' and '.join(sorted(pair))} at once: these must be different people",
                hint="give one of the roles to another user; where there is only one person, set single_officer = true "
                "in users.toml, which is recorded and shown",
            )


NOBODY: Final = Directory()  # the open role


def _places(user: User) -> frozenset[str]:
    return frozenset(f"{title} at {address}" for title in user.ae_titles for address in user.addresses)


def _require_distinct(what: str, proofs: Iterable[frozenset[str]]) -> None:
    seen: set[str] = set()
    for each in proofs:
        if twice := seen & each:
            raise ConfigError(
                f"two users have the same {what}: {', '.join(sorted(twice))}", hint="a proof stands for one user"
            )
        seen |= each
