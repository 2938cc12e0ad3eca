"""The list of users that a process works under, left for the log.

Rule: whoever is about to change something records it first, a server as it reads it and a command as it opens to write:
an earlier list that was put back, with somebody on it who was removed, is then in the log under its hash.
"""

from coffer.archive.events.recorded import Occurrence
from coffer.archive.events.users import UsersLoaded
from coffer.keys.clock import clock_ms
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.mailbox import events
from coffer.server.access.users import Directory
from coffer.server.mailbox import outbox

__all__ = ["record_users"]


def record_users(keyring: Keyring, users: Directory) -> None:
    """Leave the hash of the list for the log, durable on return: whoever writes the archive appends it. Raises
    UnavailableError."""
    said = UsersLoaded(
        users_hash=users.sha256 or None,
        users=len(users.users),
        single_officer=users.single_officer,
        treatment_without_consent=users.treatment_without_consent,
    )
    events.leave(keyring, [outbox.enclosed(keyring, Occurrence(said, clock_ms()))])
