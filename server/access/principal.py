"""Who acts: one type from the door to the log, whichever the door.

Rule: a door says what it knows and no more. An AE title is chosen by the caller, a given name by whoever types it; the
account is what the kernel says, the address what the connection says. None of them proves a person: a certificate or a
token will be one more thing that a door knows, and this is where it goes.
"""

import os
import pwd
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from coffer.keys.errors import InputError
from coffer.server.access.operator import Officer, told

__all__ = ["Kind", "Principal"]

_LONGEST: Final = 64


class Kind(StrEnum):
    """What sort of actor; the values appear in the log."""

    PEER = "peer"
    PERSON = "person"
    SERVICE = "service"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who acts, as it is recorded.

    `name` is the calling AE title of a peer, the name given for a person, the account of a service. `ae_title` is the
    one under which objects come and go: a peer's own, or the archive's for whoever acts on its host. `called_ae` and
    `host` are a peer's (titles as in the association request), `account` is that of a person or a service.
    """

    kind: Kind
    name: str
    ae_title: str = ""
    called_ae: str = ""
    host: str = ""
    account: str = ""

    @classmethod
    def peer(cls, ae_title: str, called_ae: str = "", host: str = "") -> "Principal":
        """A DICOM application entity on the network."""
        return cls(Kind.PEER, ae_title, ae_title, called_ae, host)

    @classmethod
    def person(cls, name: str, account: str, ae_title: str = "") -> "Principal":
        """Somebody at the command line, by the name given and the account it was given under."""
        return cls(Kind.PERSON, name, ae_title, account=account)

    @classmethod
    def here(cls, name: str | None = None, ae_title: str = "") -> "Principal":
        """Whoever runs this process. Without a name, the account's stands. Raises InputError for an unusable one."""
        account = _account()
        given = account if name is None else name.strip()
        if not given or len(given) > _LONGEST or not given.isprintable():
            raise InputError("an officer's name has 1 to 64 printable characters", hint="say --officer NAME")
        return cls.person(given, account, ae_title)

    @classmethod
    def service(cls) -> "Principal":
        """This process, for what it does by itself."""
        account = _account()
        return cls(Kind.SERVICE, account, account=account)

    @property
    def officer(self) -> Officer:
        """The two fields of it that are kept with holds, requests and shreds."""
        return Officer(self.name, self.account)

    def __str__(self) -> str:
        return told(self.name, self.account)


def _account() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user need not have a name
        return f"uid {os.getuid()}"
