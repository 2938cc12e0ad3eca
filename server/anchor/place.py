"""Where an archive's mark lies, and whether two paths are on one volume.

Rule: pure but for asking the file system. A folder of the system is used only by accounts of the system, or for a mark
that is there; XDG_STATE_HOME, where it is set, says otherwise.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from coffer.server.config.settings import Config

__all__ = ["is_same_volume", "mark_path"]

SYSTEM: Final = Path("/var/lib/coffer")
_FIRST_PERSON: Final = 1000  # user ids below belong to the system (login.defs, UID_MIN)


def mark_path(
    config: Config,
    archive_id: bytes,
    *,
    environment: Mapping[str, str] = os.environ,
    uid: int | None = None,
    system: Path = SYSTEM,
) -> Path:
    """The path of the mark of the archive with this id: `integrity.mark`, or else a name made of the id in
    $XDG_STATE_HOME/coffer, in `system` for an account of the system or if the mark is there, or in
    ~/.local/state/coffer."""
    if config.integrity.mark != Path():
        return config.integrity.mark
    name = f"{archive_id.hex()}.mark"
    base = environment.get("XDG_STATE_HOME", "")
    if os.path.isabs(base):  # noqa: PTH117  the XDG Base Directory Specification ignores a relative one
        return Path(base, "coffer", name)
    is_system = (os.getuid() if uid is None else uid) < _FIRST_PERSON and os.access(system, os.W_OK | os.X_OK)
    if is_system or os.path.lexists(system / name):
        return system / name
    home = environment.get("HOME") or os.path.expanduser("~")  # noqa: PTH111  never raises
    return Path(home, ".local", "state", "coffer", name)


def is_same_volume(one: Path, other: Path) -> bool:
    """Whether two paths, or the nearest folders above them that exist, are on one volume (st_dev)."""
    return _volume(one) == _volume(other)


def _volume(path: Path) -> int:
    for place in (path, *path.absolute().parents):
        try:
            return place.stat().st_dev
        except OSError:
            continue
    return -1
