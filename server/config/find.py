"""Where coffer.toml is looked for, and the check that nobody else can have written it.

Rule: no file is taken from an archive folder, which may be on disks and shares of others, nor one that another account
than root and the running one may write: a configuration names libraries to load and keys to use. A file that was named
and may not be taken is refused; one that was only found in an archive folder is ignored and reported.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coffer.keys.disk import permissions
from coffer.keys.errors import ConfigError

__all__ = ["FILE_NAME", "MOST_BYTES", "FoundConfig", "find_config", "read_believable", "remedy_for", "require_outside"]

FILE_NAME: Final = "coffer.toml"
SYSTEM: Final = Path("/etc/coffer") / FILE_NAME
MOST_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class FoundConfig:
    """The config file to read, None if there is none, and those that were ignored in an archive folder."""

    path: Path | None
    ignored: tuple[Path, ...] = ()


def find_config(
    named: Path | None, archive: Path | None = None, environment: Mapping[str, str] = os.environ
) -> FoundConfig:
    """The file that was named, or else the first that exists of ./coffer.toml, $XDG_CONFIG_HOME/coffer/coffer.toml and
    /etc/coffer/coffer.toml. `archive` is the archive folder, if one was named.

    Raises ConfigError for a named file inside an archive folder. Nothing is read.
    """
    if named is not None:
        if _is_in_archive(named, archive):
            raise ConfigError(
                f"the config file {named} is in an archive folder, whose files are not trusted",
                hint=remedy_for(named),
            )
        return FoundConfig(named)
    ignored: list[Path] = []
    for place in _places(environment):
        if not os.path.lexists(place) or place.is_dir():
            continue
        if not _is_in_archive(place, archive):
            return FoundConfig(place, tuple(ignored))
        ignored.append(place)
    return FoundConfig(None, tuple(ignored))


def read_believable(source: Path) -> bytes:
    """The bytes of a config file. Raises ConfigError if it cannot be read, is no file, or others may write it."""
    try:
        fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(
            f"cannot read the config file {source}: {error.strerror}", hint="check the path and its permissions"
        ) from error
    with os.fdopen(fd, "rb") as file:
        real = Path(os.path.realpath(source))
        permissions.require_trusted(real, os.fstat(fd), "the config file")
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ConfigError(f"the config file {source} is larger than 1 MiB", hint="name another one")
    return data


def require_outside(source: Path, archive: Path) -> None:
    """Raise ConfigError if a config file is inside the archive folder that it names."""
    if Path(os.path.realpath(source)).is_relative_to(os.path.realpath(archive)):
        raise ConfigError(
            f"the config file {source} is in the archive folder that it names, {archive}", hint=remedy_for(source)
        )


def remedy_for(path: Path) -> str:
    """How to move a config file out of an archive folder."""
    return (
        f"read it; if it is yours, move it to {SYSTEM} or beside the archive folder, "
        f'add archive = "...", and name it with --config: mv {path} {SYSTEM}'
    )


def _places(environment: Mapping[str, str]) -> list[Path]:
    places = [Path(FILE_NAME)]
    base = environment.get("XDG_CONFIG_HOME", "")
    if os.path.isabs(base):  # noqa: PTH117  the XDG Base Directory Specification ignores a relative one
        places.append(Path(base, "coffer", FILE_NAME))
    elif environment.get("HOME"):
        places.append(Path(environment["HOME"], ".config", "coffer", FILE_NAME))
    return [*places, SYSTEM]


def _is_in_archive(path: Path, archive: Path | None) -> bool:
    """Whether a file, or the target of its link, is in the named archive folder or in any other."""
    named = None if archive is None else Path(os.path.realpath(archive))
    for place in {Path(os.path.realpath(path)), Path(os.path.realpath(path.parent)) / path.name}:
        if any(folder == named or _is_archive(folder) for folder in place.parents):
            return True
    return False


def _is_archive(folder: Path) -> bool:
    """Whether a folder is an archive, even if a part of it was removed."""
    parts = ("archive.json", "segments", "keyring", "checkpoints")
    return sum(os.path.lexists(folder / part) for part in parts) >= 2
