"""The list of users that a process works under, left for the log, and the last one that the log has.

Rule: whoever is about to change something records it first, a server as it reads it and a command as it opens to write:
an earlier list that was put back, with somebody on it who was removed, is then in the log under its hash. Where the log
has users and there are none, the list was taken away: nothing is opened by the open role until a person records that.
"""

from collections.abc import Iterator
from pathlib import Path

from coffer.archive.events.event import Event, UnknownEvent
from coffer.archive.events.recorded import Occurrence, Recorded
from coffer.archive.events.users import UsersLoaded
from coffer.archive.format.record import Kind
from coffer.archive.reader import LogReader
from coffer.keys.clock import clock_ms
from coffer.keys.crypto import derive
from coffer.keys.errors import ConfigError
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.mailbox import events
from coffer.server.access.users import Directory
from coffer.server.mailbox import outbox

__all__ = ["missing_users", "record_users", "users_gone"]


def record_users(keyring: Keyring, users: Directory) -> None:
    """Leave the hash of the list for the log, durable on return: whoever writes the archive appends it. One without
    users says that the open role is in force from then on. Raises UnavailableError."""
    said = UsersLoaded(
        users_hash=users.sha256 or None,
        users=len(users.users),
        single_officer=users.single_officer,
        treatment_without_consent=users.treatment_without_consent,
    )
    events.leave(keyring, [outbox.enclosed(keyring, Occurrence(said, clock_ms()))])


def missing_users(keyring: Keyring, reader: LogReader, users: Directory) -> UsersLoaded | None:
    """The list of users that was in force last, if there is none now and nobody has recorded that; else None.

    Costs nothing while there are users, otherwise a look at every record's header back to the last such list. Raises
    IntegrityError, UnavailableError.
    """
    if not users.is_open:
        return None
    last = next((event for event in _newest(keyring, reader) if isinstance(event, UsersLoaded)), None)
    return last if last is not None and last.users else None


def users_gone(last: UsersLoaded, path: Path) -> ConfigError:
    """The error for a list that is missing from the file at `path`."""
    return ConfigError(
        f"the users are gone: the log has a list of {last.users} with the hash {str(last.users_hash)[:16]}..., and "
        f"{path} has none",
        hint="put the file back, each backup has it as settings/users.toml; if there are to be no users any more: "
        "coffer users none",
    )


def _newest(keyring: Keyring, reader: LogReader) -> Iterator[Event | UnknownEvent]:
    """The events of the kind that lists of users are recorded in, the newest first, those on their way to the log
    included."""
    key = keyring.archive_key(derive.EVENT)
    for event in reversed(events.waiting(keyring)):
        if event.kind == Kind.STATE:
            yield Recorded.open(key, keyring.archive_id, outbox.header_of(event), event.body).event
    for position, header in reader.latest(Kind.STATE):
        yield Recorded.open(key, keyring.archive_id, header, reader.read_body(position)).event
