"""Events of the list of users, which lies outside the archive folder.

Rule: they name the list by its hash, and nobody on it: the log is kept for good, people come and go.
"""

from typing import Annotated

from coffer.archive.events.event import Event
from coffer.archive.events.fields import Count, Flag, Hex32, doc

__all__ = ["UsersLoaded"]


class UsersLoaded(Event, frozen=True, kw_only=True):
    """A server or a command began to work under a list of users: an earlier list that comes back is seen."""

    code = "users.loaded"
    version = 2

    users_hash: Annotated[
        Hex32 | None, doc("the SHA-256 of `users.toml`; null: no users, and everybody on the network may do everything")
    ]
    users: Annotated[Count, doc("how many users it has")]
    single_officer: Annotated[Flag, doc("whether one person may hold roles that exclude each other")]
    treatment_without_consent: Annotated[Flag, doc("whether consent is not asked for where patients are treated")]
