"""Who acts: one type from the door to the log, whichever the door.

Rule: a door states what it knows and no more. The caller chooses the AE title, the operator types the name; the
account comes from the kernel, the address from the connection, the certificate from the process that ends TLS. None of
them proves a person: a token will be a further field here.
"""

import os
import pwd
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from coffer.archive.events.officer import Officer, display_name
from coffer.keys.errors import InputError
from coffer.server.access.certificate import PeerCertificate

__all__ = ["Principal", "PrincipalKind", "Proof"]

_LONGEST: Final = 64


class PrincipalKind(StrEnum):
    """The kind of actor; the values appear in the log."""

    PEER = "peer"
    PERSON = "person"
    SERVICE = "service"
    CLIENT = "client"


class Proof(StrEnum):
    """What proved a peer or client to be a user."""

    CERTIFICATE = "certificate"
    PASSWORD = "password"  # noqa: S105  # the word
    TOKEN = "token"  # noqa: S105
    ADDRESS = "address"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who acts, as it is recorded.

    `name` is the calling AE title of a peer, the name given for a person, the account of a service. `ae_title` is the
    one under which objects enter and leave: a peer's own, or the archive's for an operator on its host. `called_ae` and
    `host` belong to a peer (titles as in the association request), `account` to a person or a service. `certificate` is
    what a peer proved over TLS; None without TLS, or where none was asked for. `user` is the name of the user that a
    door has proved the peer or the client to be; a person's follows from the account. `proof` is what proved it, one of
    the words of `Proof`, and `subject` that of the token, if it was one, which expires at `until` (seconds since 1970
    UTC). `standing` is the hash of the user's entry and password that it was proved by
    (`server.access.users_file.standing`).
    """

    kind: PrincipalKind
    name: str
    ae_title: str = ""
    called_ae: str = ""
    host: str = ""
    account: str = ""
    certificate: PeerCertificate | None = None
    user: str = ""
    proof: Proof | None = None
    subject: str = ""
    until: int | None = None
    standing: str = ""

    @classmethod
    def peer(
        cls, ae_title: str, called_ae: str = "", host: str = "", certificate: PeerCertificate | None = None
    ) -> "Principal":
        """A DICOM application entity on the network, with the certificate that its connection proved."""
        return cls(PrincipalKind.PEER, ae_title, ae_title, called_ae, host, certificate=certificate)

    @classmethod
    def client(cls, user: str, host: str, certificate: PeerCertificate | None = None) -> "Principal":
        """Who sends a request over HTTP; `user` is empty where nobody was proved."""
        return cls(PrincipalKind.CLIENT, user, host=host, certificate=certificate, user=user)

    @classmethod
    def person(cls, name: str, account: str, ae_title: str = "") -> "Principal":
        """An operator at the command line, by the name given and the account it was given under."""
        return cls(PrincipalKind.PERSON, name, ae_title, account=account)

    @classmethod
    def here(cls, name: str | None = None, ae_title: str = "") -> "Principal":
        """The operator who runs this process; `name` defaults to the account. Raises InputError for an unusable one."""
        account = _account()
        given = account if name is None else name.strip()
        if not given or len(given) > _LONGEST or not given.isprintable():
            raise InputError("an officer's name has 1 to 64 printable characters", hint="give one with --officer NAME")
        return cls.person(given, account, ae_title)

    @classmethod
    def service(cls) -> "Principal":
        """This process, for what it does on its own."""
        account = _account()
        return cls(PrincipalKind.SERVICE, account, account=account)

    @property
    def officer(self) -> Officer:
        """The two fields that are stored with holds, requests and shreds."""
        return Officer(self.name, self.account)

    def __str__(self) -> str:
        return display_name(self.name, self.account)


def _account() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # the user of a container may have no name
        return f"uid {os.getuid()}"
