"""What is recorded of a person who acted: the name given, and the account of the operating system.

Rule: two names prove that two people were named, and no more: anyone who may use the account may type any name. Both
are kept with every act, so that they can be investigated later. This is the stored form; the acting party is a
`Principal`.
"""

from typing import Final

import msgspec

from coffer.keys.errors import InputError

__all__ = ["Officer", "display_name", "require_reason"]

_LONGEST_REASON: Final = 1000


class Officer(msgspec.Struct, frozen=True):
    """One person: the name given, and the account it was given under."""

    name: str
    account: str

    def __str__(self) -> str:
        return display_name(self.name, self.account)


def display_name(name: str, account: str) -> str:
    """A person as shown to people: the name, followed by the account where it differs."""
    return name if account in {"", name} else f"{name} ({account})"


def require_reason(what: str, reason: str) -> None:
    """Raise InputError if the reason is blank or too long."""
    if not reason.strip() or len(reason) > _LONGEST_REASON:
        raise InputError(
            f"{what} needs a reason of at most {_LONGEST_REASON} characters",
            hint="give --reason TEXT; it is kept permanently, so write no patient's name into it",
        )
