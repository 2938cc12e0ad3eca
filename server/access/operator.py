"""What is kept of a person who acted: the name that was given, and the account of the operating system.

Rule: two names prove that two were named, and no more: whoever may use the account may type any name. Both are kept
with every act, so that questions can be asked later. This is a stored form; who acts now is a `Principal`.
"""

from typing import Final

import msgspec

from coffer.keys.errors import InputError

__all__ = ["Officer", "require_reason", "told"]

_LONGEST_REASON: Final = 1000


class Officer(msgspec.Struct, frozen=True):
    """One person: the name given, and the account it was given under."""

    name: str
    account: str

    def __str__(self) -> str:
        return told(self.name, self.account)


def told(name: str, account: str) -> str:
    """A person for people: the account stands behind the name where it says something else."""
    return name if account in {"", name} else f"{name} ({account})"


def require_reason(what: str, reason: str) -> None:
    """Raise InputError for a reason that says nothing, or too much."""
    if not reason.strip() or len(reason) > _LONGEST_REASON:
        raise InputError(
            f"{what} needs a reason of at most {_LONGEST_REASON} characters",
            hint="say --reason TEXT; it is kept for good, so write no name into it",
        )
