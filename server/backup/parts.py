"""What of the host belongs to a snapshot beside the archive itself.

Rule: one list. Whoever keeps something that a restore must bring back adds a function to `SOURCES`; it returns no
private key, no PIN, no passphrase and no password hash.
"""

import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final

import tomli_w

from coffer.archive.copies.backup import NamedBytes
from coffer.archive.store.folder import ArchiveFolder
from coffer.server.access.users_file import encode, read_users
from coffer.server.config.load import read_text
from coffer.server.config.settings import Config

__all__ = ["SETTINGS", "SOURCES", "Host", "host_parts"]

SETTINGS: Final = "settings/"


@dataclass(frozen=True, slots=True)
class Host:
    """What a backup is made of: the archive's folder, its configuration, and the file that came from, if there is
    one."""

    folder: ArchiveFolder
    config: Config
    config_file: Path | None


def _settings(host: Host) -> Iterable[NamedBytes]:
    """The configuration file, without comments, in which anything may stand. None of its keys is a secret."""
    if host.config_file is not None:
        text = tomli_w.dumps(tomllib.loads(read_text(host.config_file)))
        yield NamedBytes(f"{SETTINGS}coffer.toml", text.encode())


def _users(host: Host) -> Iterable[NamedBytes]:
    """The file of users, without password hashes."""
    stored = read_users(host.config.access.users)
    if stored.directory.users:
        yield NamedBytes(f"{SETTINGS}users.toml", encode(replace(stored, passwords=MappingProxyType({}))))


SOURCES: Final[tuple[Callable[[Host], Iterable[NamedBytes]], ...]] = (_settings, _users)


def host_parts(host: Host) -> list[NamedBytes]:
    """All of them. Raises as `read_text` and `read_users`."""
    return [part for source in SOURCES for part in source(host)]
