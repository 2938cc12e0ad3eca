"""Who does it: the account of the operating system, and the name that is given for the person at it.

Rule: the account is what the kernel says; the name is what was typed. Two names prove that two were named, and no more:
whoever may use the account may type any name. Both are kept with every deed, so that it can be asked about later.
"""

import os
import pwd
from typing import Final

import msgspec

from coffer.keys.errors import InputError

__all__ = ["Officer", "require_reason"]

_LONGEST = 64
_LONGEST_REASON: Final = 1000


class Officer(msgspec.Struct, frozen=True):
    """One person: the name given, and the account it was given under."""

    name: str
    account: str

    @classmethod
    def here(cls, name: str | None) -> "Officer":
        """Whoever runs this process. Without a name, the account's stands. Raises InputError for an unusable one."""
        try:
            account = pwd.getpwuid(os.getuid()).pw_name
        except KeyError:  # a container's user need not have a name
            account = f"uid {os.getuid()}"
        given = account if name is None else name.strip()
        if not given or len(given) > _LONGEST or not given.isprintable():
            raise InputError("an officer's name has 1 to 64 printable characters", hint="say --officer NAME")
        return cls(given, account)

    def is_same(self, other: "Officer") -> bool:
        """Whether both go by one name, in whatever letters."""
        return self.name.casefold() == other.name.casefold()

    def __str__(self) -> str:
        return self.name if self.name == self.account else f"{self.name} ({self.account})"


def require_reason(what: str, reason: str) -> None:
    """Raise InputError for a reason that says nothing, or too much."""
    if not reason.strip() or len(reason) > _LONGEST_REASON:
        raise InputError(
            f"{what} needs a reason of at most {_LONGEST_REASON} characters",
            hint="say --reason TEXT; it is kept for good, so write no name into it",
        )
