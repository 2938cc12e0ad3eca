"""The settings in a snapshot, which nobody signed: put beside those in force, and shown to a person.

Rule: nothing reads what is written here. A backup has no key, so whoever writes the target can write them, too; only a
person who compares them with what the site wants gives them the name that Coffer reads.
"""

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from coffer.archive.copies.segments import read_part
from coffer.archive.copies.shelf import Shelf
from coffer.archive.copies.snapshot import Snapshot
from coffer.keys.disk import durable, opening
from coffer.server.backup.parts import SETTINGS
from coffer.server.config.settings import Config

__all__ = ["KeptFile", "write_beside"]

_NAMES: Final = ("coffer.toml", "users.toml")
_SUFFIX: Final = ".restored"
_MOST_LINES: Final = 500
_NO_TOML: Final = "it cannot be read as TOML: do not use it"


@dataclass(frozen=True, slots=True)
class KeptFile:
    """A file that was written beside the one of its name, and each of its settings that differs from the default, as
    printable text."""

    path: Path
    differs: tuple[str, ...]


def write_beside(shelf: Shelf, snapshot: Snapshot, into: Path) -> list[KeptFile]:
    """Write the settings of a snapshot as `coffer.toml.restored` and `users.toml.restored` into a folder, which must
    exist; durable on return. Raises UnavailableError if one is there already."""
    written = []
    for name in _NAMES:
        pieces = read_part(shelf, snapshot, SETTINGS + name)
        if pieces is not None:
            data, path = b"".join(pieces), into / (name + _SUFFIX)
            durable.write_new(path, data)
            written.append(KeptFile(path, _differing(data)))
    return written


def _differing(data: bytes) -> tuple[str, ...]:
    try:
        found = list(_leaves("", tomllib.loads(data.decode())))
    except (ValueError, RecursionError):
        return (_NO_TOML,)
    usual = dict(_leaves("", msgspec.to_builtins(Config(archive=Path()), enc_hook=str)))
    lines = [opening.shown(f"{name} = {value}") for name, value in found if usual.get(name) != value]
    more = (f"and {len(lines) - _MOST_LINES:,} more: read the file",) if len(lines) > _MOST_LINES else ()
    return (*lines[:_MOST_LINES], *more)


def _leaves(name: str, value: object) -> Iterator[tuple[str, str]]:
    """Each value with the names that lead to it."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _leaves(f"{name}.{key}" if name else str(key), each)
    elif isinstance(value, list | tuple) and any(isinstance(each, dict) for each in value):
        for number, each in enumerate(value):
            yield from _leaves(f"{name}[{number}]", each)
    else:
        yield name, repr(list(value) if isinstance(value, tuple) else value)
