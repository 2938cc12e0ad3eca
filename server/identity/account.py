"""Who runs a command on the archive's host: the account of the operating system, and the user that it belongs to.

Rule: the kernel says it, nobody types it. The account that logged in counts only where the command runs under the
account that owns the file of users: there several people become one account by `sudo`, and the kernel still knows them
apart (audit login uid, proc(5)).
"""

import os
import pwd
from dataclasses import replace
from pathlib import Path
from typing import Final

from coffer.keys.errors import AccessDeniedError, UnavailableError
from coffer.server.access.principal import Principal
from coffer.server.access.users import Directory

__all__ = ["login_account", "operator", "require_founder"]

_LOGIN_UID: Final = Path("/proc/self/loginuid")
_UNSET: Final = (1 << 32) - 1


def login_account(source: Path = _LOGIN_UID) -> str:
    """The account that logged in to what became this process; empty where the kernel does not know or keep it."""
    try:
        uid = int(source.read_text(encoding="ascii"))
        return "" if uid == _UNSET else pwd.getpwuid(uid).pw_name
    except (OSError, ValueError, KeyError):
        return ""


def operator(users: Directory, named: str | None, ae_title: str, login: str | None = None) -> Principal:
    """The person who runs this process, `named` by --officer if by anything.

    Without users the name is believed, as it is kept beside the account. With users the account says who it is, and a
    name that says otherwise is refused. Raises InputError for an unusable name, AccessDeniedError.
    """
    here = Principal.here(named, ae_title)
    if users.is_open:
        return here
    account = here.account
    if account == users.owner:
        account = (login_account() if login is None else login) or account
    user = users.with_account(account)
    if user is None:
        return replace(here, account=account)
    if named is not None and here.name.casefold() != user.name.casefold():
        raise AccessDeniedError(
            f"the account {account} belongs to {user.name}, not to {here.name}",
            hint="leave --officer out; the other officer runs the command from their own account",
        )
    return replace(here, name=user.name, account=account, user=user.name)


def require_founder(archive: Path, key_file: Path | None) -> None:
    """Raise AccessDeniedError unless this account owns the archive and may read its key: while there is no user, nobody
    else makes the first one. `key_file` is None where a token or a service keeps the key."""
    try:
        owner = archive.stat().st_uid
        if owner == os.geteuid() and (key_file is None or os.access(key_file, os.R_OK)):
            return
        remedy = f"run it under the archive's account: sudo -u {_name(owner)} coffer users add NAME --role admin ..."
    except OSError:
        remedy = "create the archive first: coffer init"
    raise AccessDeniedError("the first user is added by the account that owns archive and key", hint=remedy)


def require_open_to_account(archive: Path) -> None:
    """Raise UnavailableError if this account may not look into the folder: it would seem to hold no archive."""
    try:
        os.lstat(archive / "archive.json")
    except PermissionError as error:
        try:
            remedy = f"run the command under the archive's account: sudo -u {_name(archive.stat().st_uid)} coffer ..."
        except OSError:
            remedy = "run the command under the archive's account"
        raise UnavailableError(f"this account may not look into {archive}", hint=remedy) from error
    except OSError:
        return


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # the user of a container may have no name
        return f"'#{uid}'"
