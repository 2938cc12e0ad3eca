"""`users.toml`: users, roles and password hashes, as a file of this account alone.

Rule: whoever can write it decides who sees patients, so it is read only if it belongs to this account or root and is
closed to all others, and it is never in an archive folder. Each reading states the hash of its bytes, for the log. What
is written is complete or not written at all.
"""

import hashlib
import os
import pwd
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final

import msgspec
import tomli_w
from msgspec import UNSET, Meta, UnsetType

from coffer.index.dicom.keywords import keyword_of, tag_of
from coffer.keys.clock import clock_ms
from coffer.keys.disk import durable, lock
from coffer.keys.disk.permissions import read_secret
from coffer.keys.errors import ConfigError
from coffer.server.access.roles import Role
from coffer.server.access.users import Directory, User
from coffer.server.config.doors import AeTitle

__all__ = ["StoredUsers", "changed_users", "decode", "encode", "read_users", "standing"]

_WHAT: Final = "file of users"
_VERSION: Final = 1
_MOST_BYTES: Final = 1 << 20
_HEADER: Final = "# Written by `coffer users`, which checks every change. Keep it closed to others (mode 0600).\n"
_REMEDY: Final = "docs/security/roles.md describes the file; coffer users writes it"

_Name = Annotated[str, Meta(pattern=r"^[^\s\x00-\x1f\x7f]([^\x00-\x1f\x7f]{0,62}[^\s\x00-\x1f\x7f])?$")]
_Certificate = Annotated[str, Meta(pattern=r"^([0-9a-f]{64}|.{1,500} \| (DNS|IP|URI|email):.{1,250})$")]
_Text = Annotated[str, Meta(min_length=1, max_length=255)]
_Hash = Annotated[str, Meta(pattern=r"^\$argon2id\$v=19\$m=[0-9]{1,7},t=[0-9]{1,2},p=[0-9]{1,2}\$[!-~]{20,200}$")]


class _Entry(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One `[[users]]`; the fields mean what those of `server.access.users.User` do."""

    name: _Name
    roles: Annotated[list[Role], Meta(min_length=1)]
    ae_titles: list[AeTitle] = []
    certificates: list[_Certificate] = []
    addresses: list[_Text] = []
    accounts: list[_Text] = []
    subjects: list[_Text] = []
    modalities: list[_Text] | UnsetType = UNSET
    patients: list[_Text] | UnsetType = UNSET
    days: Annotated[int, Meta(ge=0, le=36_500)] | UnsetType = UNSET
    destinations: list[AeTitle] | UnsetType = UNSET
    attributes: list[_Text] | UnsetType = UNSET
    password: _Hash = ""


class _File(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    version: int
    single_officer: bool = False
    treatment_without_consent: bool = False
    users: list[_Entry] = []


@dataclass(frozen=True, slots=True)
class StoredUsers:
    """What the file says: the directory, and by user name the password hashes (PHC strings, RFC 9106 names)."""

    directory: Directory = field(default_factory=Directory)
    passwords: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)


def decode(data: bytes) -> StoredUsers:
    """The users in the bytes of a file. Raises ConfigError, and AccessDeniedError as `Directory.require_sound`."""
    try:
        file = msgspec.convert(tomllib.loads(data.decode("utf-8")), _File)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ConfigError(f"the {_WHAT} is not usable: {error}", hint=_REMEDY) from error
    if file.version != _VERSION:
        raise ConfigError(f"the {_WHAT} has version {file.version}, not {_VERSION}", hint=_REMEDY)
    users = tuple(_user(entry) for entry in file.users)
    declared = {name: getattr(file, name) for name in _DECLARED}
    directory = Directory(users, **declared, sha256=hashlib.sha256(data).hexdigest())
    directory.require_sound()
    return StoredUsers(directory, {entry.name: entry.password for entry in file.users if entry.password})


def encode(stored: StoredUsers) -> bytes:
    """The file of these users; `decode` returns them again."""
    entries = [_entry(user, stored.passwords.get(user.name, "")) for user in stored.directory.users]
    declared = {name: getattr(stored.directory, name) for name in _DECLARED}
    file = _File(version=_VERSION, users=entries, **declared)
    return (_HEADER + tomli_w.dumps(msgspec.to_builtins(file))).encode()


def read_users(path: Path) -> StoredUsers:
    """The users in a file; nobody where there is none, or where `path` is empty.

    Raises ConfigError for a file that is open to others, belongs to another account, or is not usable.
    """
    if path == Path() or not os.path.lexists(path):
        return StoredUsers()
    data = read_secret(path, _WHAT, _MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise ConfigError(f"the {_WHAT} {path} is larger than 1 MiB", hint=_REMEDY)
    stored = decode(data)
    return replace(stored, directory=replace(stored.directory, owner=_owner(path)))


def changed_users(path: Path, change: Callable[[StoredUsers], StoredUsers]) -> StoredUsers:
    """Read the file, apply `change`, and write what it returns if it is sound; durable on return. One process at a time
    changes it. Raises as `read_users`, what `change` raises, and LockedError, UnavailableError."""
    with _alone(path):
        wanted = encode(change(read_users(path)))
        decode(wanted)
        durable.replace(path, wanted)
    return read_users(path)


def standing(user: User, password: str) -> str:
    """A hash of everything that the file says of a user, the password's hash included: another one says something else.
    It reveals neither."""
    return hashlib.sha256(msgspec.json.encode(_entry(user, password))).hexdigest()


def _alone(path: Path) -> lock.ProcessLock:
    return lock.ProcessLock(
        path.with_name(f"{path.name}.lock"),
        "coffer users",
        clock_ms(),
        busy=f"the {_WHAT} {path} is being changed by",
        hint="wait until that command has ended, and run this one again",
    )


def _user(entry: _Entry) -> User:
    values: dict[str, Any] = {name: getattr(entry, name) for name in _SETS}
    limits = {name: getattr(entry, name) for name in _LIMITS if getattr(entry, name) is not UNSET}
    attributes = None if entry.attributes is UNSET else frozenset(_tag(word) for word in entry.attributes)
    return User(
        name=entry.name,
        roles=frozenset(entry.roles),
        days=None if entry.days is UNSET else entry.days,
        attributes=attributes,
        **{name: frozenset(each) for name, each in {**values, **limits}.items()},
    )


def _entry(user: User, password: str) -> _Entry:
    limits = {name: getattr(user, name) for name in _LIMITS if getattr(user, name) is not None}
    return _Entry(
        name=user.name,
        roles=sorted(user.roles),
        days=UNSET if user.days is None else user.days,
        attributes=UNSET if user.attributes is None else sorted(map(keyword_of, user.attributes)),
        password=password,
        **{name: sorted(getattr(user, name)) for name in _SETS},
        **{name: sorted(each) for name, each in limits.items()},
    )


_DECLARED: Final = ("single_officer", "treatment_without_consent")  # of the site
_SETS: Final = ("ae_titles", "certificates", "addresses", "accounts", "subjects")
_LIMITS: Final = ("modalities", "patients", "destinations")


def _tag(word: str) -> int:
    tag = tag_of(word)
    if tag is None:
        raise ConfigError(f"the {_WHAT} names an attribute that DICOM has not: {word}", hint=_REMEDY)
    return tag


def _owner(path: Path) -> str:
    uid = path.stat().st_uid
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # the user of a container may have no name
        return f"uid {uid}"
