"""Whether a trusted or secret file belongs to this account alone, judged by owner and mode.

Rule: only root and the running account may write a trusted file or read a secret one. A refusal names the account that
the file works for: the remedy is never to open a service's files to more accounts. POSIX ACLs show in the group bits,
so they count.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from pathlib import Path
from typing import Final

from coffer.keys.errors import ConfigError, UnavailableError

__all__ = ["read_secret", "require_secret", "require_trusted"]

_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH


def require_secret(path: Path, found: os.stat_result, what: str) -> None:
    """Raise ConfigError unless a file is regular, closed to group and others, and owned by this account or root.

    A systemd credential is readable through an ACL, which shows in the group bits.
    """
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(f"{what} {path} is not a regular file", hint="give the path of a regular file")
    allowed = stat.S_IRGRP if found.st_uid == 0 and _is_credential(path) else 0
    if found.st_mode & _OTHERS & ~allowed:
        mode = stat.S_IMODE(found.st_mode)
        remedy = f"run: chmod 600 {path}; where that has no effect, use a copy: install -m 600 {path} DIR"
        raise ConfigError(f"{what} {path} is open to others (mode {mode:04o})", hint=remedy)
    _require_owner(path, found, what)


def read_secret(path: Path, what: str, most: int) -> bytes:
    """Return at most `most` bytes of a secret file. Raises ConfigError as `require_secret` and where it cannot be
    opened, UnavailableError where it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(
            f"the {what} {path} cannot be read: {error.strerror}", hint="check its path and mode"
        ) from error
    try:
        require_secret(path, os.fstat(fd), what)
        return os.read(fd, most)
    except OSError as error:
        raise UnavailableError(f"cannot read the {what} {path}: {error.strerror}") from error
    finally:
        os.close(fd)


def require_trusted(path: Path, found: os.stat_result, what: str) -> None:
    """Raise ConfigError unless a file is regular, and it and its folder are writable by this account and root only. In
    a folder with the sticky bit others can create files, but not replace them."""
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(f"{what} {path} is not a regular file", hint="give the path of a regular file")
    _require_owner(path, found, what)
    _require_unwritable(path, found, what)
    folder = path.parent
    about = folder.stat()
    if about.st_mode & stat.S_ISVTX:
        return
    _require_owner(folder, about, f"the folder of {what}")
    _require_unwritable(folder, about, f"the folder of {what}")


def _require_unwritable(path: Path, found: os.stat_result, what: str) -> None:
    may = found.st_mode & _WRITE
    if may == stat.S_IWGRP and _is_own_group(found.st_gid):
        return
    if may:
        mode = stat.S_IMODE(found.st_mode)
        raise ConfigError(f"others may write {what} {path} (mode {mode:04o})", hint=f"run: chmod go-w {path}")


def _require_owner(path: Path, found: os.stat_result, what: str) -> None:
    mine = os.geteuid()
    if found.st_uid in {mine, 0}:
        return
    owner, me = _name(found.st_uid), _name(mine)
    remedy = f"run the command as that account: sudo -u {owner} coffer ..."
    if mine:
        remedy += f"; or, if this account should own the file: chown {me} {path}"
    raise ConfigError(f"{what} {path} belongs to another account, {owner}, and this process runs as {me}", hint=remedy)


def _is_credential(path: Path) -> bool:
    folder = os.environ.get("CREDENTIALS_DIRECTORY", "")
    return bool(folder) and Path(folder) in path.parents


def _is_own_group(gid: int) -> bool:
    """Whether a group is private to this account: it has the same name and no other members, as is usual on Linux."""
    try:
        group, me = grp.getgrgid(gid), _name(os.geteuid())
    except KeyError:
        return False
    return group.gr_name == me and set(group.gr_mem) <= {me}


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
