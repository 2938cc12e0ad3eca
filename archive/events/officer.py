"""What is recorded of a person who acted: the name given, and the account of the operating system.

Rule: two names prove that two people were named, and no more: anyone who may use the account may type any name. Both
are kept with every act, so that they can be investigated later.
"""

import msgspec

__all__ = ["Officer", "display_name"]


class Officer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One person: the name given, and the account it was given under."""

    name: str
    account: str

    def __str__(self) -> str:
        return display_name(self.name, self.account)


def display_name(name: str, account: str) -> str:
    """A person as shown to people: the name, followed by the account where it differs."""
    return name if account in {"", name} else f"{name} ({account})"
