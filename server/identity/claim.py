"""What a caller states of itself, before anything of it is believed.

Rule: pure values. Passcodes and tokens are in no representation of them, so that none gets into a log or a traceback.
"""

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

__all__ = ["AssociationClaim", "IdentityType", "Refusal", "UserIdentity", "Withdrawal"]


class IdentityType(IntEnum):
    """The types of user identity that are known (PS3.7 Table D.3-14)."""

    USERNAME = 1
    PASSCODE = 2
    TOKEN = 5


class Refusal(StrEnum):
    """Why nobody was let in; each word is that of a rejection (`server.dimse.protocol.negotiation`)."""

    CALLING_AE = "calling-ae"
    IDENTITY = "user-identity"


class Withdrawal(StrEnum):
    """Why what let somebody in does so no longer; the values appear in the server's log."""

    EXPIRED = "token-expired"
    CHANGED = "user-changed"
    GONE = "no-user"


@dataclass(frozen=True, slots=True)
class UserIdentity:
    """The user identity of an association request (PS3.7 D.3.3.7): type, and primary and secondary field as received:
    user name and passcode in UTF-8, or a JSON web token."""

    kind: int
    primary: bytes = field(repr=False)
    secondary: bytes = field(default=b"", repr=False)
    wants_response: bool = False


@dataclass(frozen=True, slots=True)
class AssociationClaim:
    """Who an association request says is calling."""

    calling_ae: str
    called_ae: str
    identity: UserIdentity | None = None
