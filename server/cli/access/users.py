"""`coffer users`: who may use the archive, in the file beside the configuration."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from coffer.keys.errors import InputError, NotFoundError
from coffer.server.access.action import Action, Resource
from coffer.server.cli import output
from coffer.server.cli.access.user_options import described, user_options
from coffer.server.cli.options import Admitted, Chosen, archive_options, confirm, json_option

if TYPE_CHECKING:
    from coffer.server.access.users import User
    from coffer.server.access.users_file import StoredUsers

_RELOAD = "A running server is told by coffer reload."


@click.group()
def users() -> None:
    """List, add, change and remove users, and set their passwords."""


@users.command(
    epilog="""\b
Examples:
  coffer users add anna --role admin --account anna
  coffer users add ct1 --role modality --ae-title CT1 --certificate ct1.pem
  coffer users add ward3 --role pacs --ae-title WARD3 --address 10.0.3.7

\b
The first user is an admin with an account on this host, added by the account that owns archive and key. From then on
everybody else is denied. docs/security/roles.md has the roles. Exit code 10: nobody could change roles any more, or the
roles exclude each other."""
)
@click.argument("name")
@user_options
@archive_options()
@json_option
@click.pass_obj
def add(chosen: Chosen, /, name: str, **given: Any) -> None:
    """Add a user with its roles, what proves it to be there, and its limits."""
    from coffer.server.access.users import User

    if not given["roles"]:
        raise click.UsageError("Give at least one --role.")
    user = described(User(name=name, roles=frozenset()), given)
    admitted = _admitted(chosen, name)
    is_first = admitted.policy.directory.is_open
    if is_first:
        _require_founder(admitted)
        _require_none_gone(admitted)

    def added(stored: StoredUsers) -> StoredUsers:
        if stored.directory.named(name) is not None:
            raise InputError(f"there is a user {name} already", hint="coffer users change NAME changes it")
        return _with(stored, (*stored.directory.users, user))

    _change(admitted, added)
    if is_first:  # from now on the archive does not open without them, wherever a configuration looks for the file
        admitted.record_users()
    _report(chosen, "added", name)


@users.command(
    epilog="""\b
Examples:
  coffer users change ct1 --ae-title CT1 --ae-title CT1B
  coffer users change ward3 --address none --certificate ward3.pem

\b
An option replaces what the user had; `none` empties a list or lifts a limit. Nobody changes their own entry."""
)
@click.argument("name")
@user_options
@archive_options()
@json_option
@click.pass_obj
def change(chosen: Chosen, /, name: str, **given: Any) -> None:
    """Change a user's roles, proofs or limits."""
    admitted = _admitted(chosen, name)

    def changed(stored: StoredUsers) -> StoredUsers:
        old = _named(stored, name)
        new = described(old, given)
        return _with(stored, tuple(new if each == old else each for each in stored.directory.users))

    _change(admitted, changed)
    _report(chosen, "changed", name)


@users.command(
    epilog="""\b
Examples:
  coffer users remove ct1

\b
A user who comes back is seen: the log has the hash of the users that each server has read."""
)
@click.argument("name")
@archive_options()
@json_option
@click.pass_obj
def remove(chosen: Chosen, name: str) -> None:
    """Remove a user. Refused if nobody could change roles afterwards."""
    admitted = _admitted(chosen, name)

    def removed(stored: StoredUsers) -> StoredUsers:
        gone = _named(stored, name)
        return _with(stored, tuple(each for each in stored.directory.users if each != gone))

    _change(admitted, removed)
    _report(chosen, "removed", name)


@users.command(
    "none",
    epilog="""\b
Examples:
  coffer users none

\b
An archive that has had users does not open without them: whoever can remove the file could do everything otherwise.
This command records in the log that there are none any more, and the open role is in force again. Run it under the
account that owns archive and key, after the file of users was moved away.""",
)
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@archive_options()
@json_option
@click.pass_obj
def no_users(chosen: Chosen, yes: bool) -> None:
    """Return to the open role, recorded: there are no users any more."""
    admitted = chosen.existing(Action.MANAGE_USERS)
    if not admitted.policy.directory.is_open:
        raise InputError(
            f"there are users in {admitted.config.access.users}", hint="move that file away first, and keep it"
        )
    _require_founder(admitted)
    last = admitted.missing_users()
    if last is not None:
        confirm(
            "Go on?",
            yes=yes,
            lines=[f"The log has {last.users} users. Without them whoever reaches the archive may do everything."],
        )
        admitted.record_users()
    done = "recorded" if last is not None else "nothing to record"
    if chosen.json:
        output.as_json({"done": done, "open_role": True})
    else:
        output.say(f"{done}: there are no users, the open role is in force")


@users.command(
    epilog="""\b
Examples:
  coffer users passwd ward3
  coffer users passwd ward3 < password.txt
  coffer users passwd ward3 --none

\b
The password proves the user in a DICOM association over TLS (user identity with passcode). Only its Argon2id hash is
kept. Without a terminal it is the first line of standard input."""
)
@click.argument("name")
@click.option("--none", "is_none", is_flag=True, help="Take the password away.")
@archive_options()
@json_option
@click.pass_obj
def passwd(chosen: Chosen, name: str, is_none: bool) -> None:
    """Set a user's password, or take it away."""
    admitted = _admitted(chosen)
    from coffer.server.identity.passwords import hashed

    phc = "" if is_none else hashed(_asked_for())

    def changed(stored: StoredUsers) -> StoredUsers:
        kept = {each: one for each, one in stored.passwords.items() if each != _named(stored, name).name}
        return replace(stored, passwords=kept | ({_named(stored, name).name: phc} if phc else {}))

    _change(admitted, changed)
    _report(chosen, "took away the password of" if is_none else "set the password of", name)


@users.command(
    "list",
    epilog="""\b
Examples:
  coffer users list
  coffer users list --json | jq -r '.users[].name'""",
)
@archive_options()
@json_option
@click.pass_obj
def list_users(chosen: Chosen) -> None:
    """List the users with their roles, proofs and limits."""
    config = chosen.admit(Action.LIST_USERS).config
    from coffer.server.access.users import OPEN_ROLE
    from coffer.server.access.users_file import read_users

    stored = read_users(config.access.users)
    rows = [_row(user, has_password=user.name in stored.passwords) for user in stored.directory.users]
    if chosen.json:
        listed = stored.directory
        declared = {
            "open_role": listed.is_open,
            "single_officer": listed.single_officer,
            "treatment_without_consent": listed.treatment_without_consent,
        }
        output.as_json({**declared, "sha256": listed.sha256, "users": rows})
    elif not rows:
        output.say(f"no users: the {OPEN_ROLE} role is in force, everybody who reaches the archive may do everything")
    else:
        for each in stored.directory.concerns():
            output.say(each)
        output.table(("user", "roles", "proofs", "limits"), [_shown(row) for row in rows])


def _admitted(chosen: Chosen, name: str = "") -> Admitted:
    return chosen.admit(Action.MANAGE_USERS, resource=Resource.user(name) if name else None)


def _require_founder(admitted: Admitted) -> None:
    from coffer.server.identity.account import require_founder

    keys = admitted.config.keys
    require_founder(admitted.config.archive, keys.key_file if keys.provider == "file" else None)


def _require_none_gone(admitted: Admitted) -> None:
    """The first user is no way around the users that were taken away."""
    from coffer.server.mailbox.users_record import users_gone

    if (last := admitted.missing_users()) is not None:
        raise users_gone(last, admitted.config.access.users)


def _change(admitted: Admitted, how: Callable[[StoredUsers], StoredUsers]) -> None:
    from coffer.server.access.users_file import changed_users

    changed_users(admitted.config.access.users, how)


def _report(chosen: Chosen, what: str, name: str) -> None:
    if chosen.json:
        output.as_json({"user": name, "done": what})
    else:
        output.say(f"{what} {name}. {_RELOAD}")


def _named(stored: StoredUsers, name: str) -> User:
    found = stored.directory.named(name)
    if found is None:
        raise NotFoundError(f"there is no user {name}", hint="coffer users list shows them")
    return found


def _with(stored: StoredUsers, all_users: tuple[User, ...]) -> StoredUsers:
    names = {each.name for each in all_users}
    kept = {name: phc for name, phc in stored.passwords.items() if name in names}
    return replace(stored, directory=replace(stored.directory, users=all_users), passwords=kept)


def _asked_for() -> str:
    if sys.stdin.isatty():
        return str(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    return sys.stdin.readline().rstrip("\r\n")


def _row(user: User, *, has_password: bool) -> dict[str, Any]:
    from coffer.index.dicom.keywords import keyword_of

    proofs = {name: sorted(getattr(user, name)) for name in ("certificates", "addresses", "accounts", "subjects")}
    limits = {name: getattr(user, name) for name in ("modalities", "patients", "destinations")}
    return {
        "name": user.name,
        "roles": sorted(user.roles),
        "ae_titles": sorted(user.ae_titles),
        **proofs,
        "password": has_password,
        **{name: None if each is None else sorted(each) for name, each in limits.items()},
        "days": user.days,
        "attributes": None if user.attributes is None else sorted(map(keyword_of, user.attributes)),
    }


def _shown(row: dict[str, Any]) -> tuple[str, str, str, str]:
    proofs = [f"{name[:-1]} {each}" for name in ("certificates", "accounts", "subjects") for each in row[name]]
    proofs += [f"{title} from {each}" for title in row["ae_titles"] for each in row["addresses"]]
    proofs += ["password"] if row["password"] else []
    limited = ("modalities", "patients", "destinations", "days", "attributes")
    limits = [f"{name} {row[name]}" for name in limited if row[name] is not None]
    return row["name"], ", ".join(row["roles"]), "; ".join(proofs), "; ".join(limits)
