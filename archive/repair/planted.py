"""Foreign things in an archive folder: links, pipes, devices, files under names that Coffer does not use.

Rule: it opens nothing but folders, through their handles, and examines no more than it reports. What it finds is
harmless by itself, as nothing follows or opens it; but whoever put it there could write here, and that is worth
knowing. The file system's own folders (`.snapshot`, `.zfs`) are ignored.
"""

import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from coffer.archive.repair.deferred_events import read_deferred
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.segment_files import OWN_NAMES
from coffer.archive.tree.tiles import HASH_BYTES, MOST_DEEP, WIDTH
from coffer.archive.verify.report import Finding
from coffer.keys.disk import opening
from coffer.keys.disk.lock import is_foreign
from coffer.keys.errors import FormatError, IntegrityError

__all__ = ["CONFIG", "concerns", "planted"]

CONFIG: Final = "coffer.toml"
MOST: Final = 100  # findings: if thousands of things were planted, the first ones show it
_OWN: Final = {
    "": r"archive\.json|LOCK|pending\.json|segments|checkpoints|tiles|keyring|index|spool|scrub|lost\+found"
    r"|\.(?:archive\.json|pending\.json)\.new|\.(?:tiles|index)\.old",
    "segments": OWN_NAMES,
    "checkpoints": r"(?:latest|history|endorsements)|\.(?:latest|history|endorsements)\.new",
    "keyring": r"data\.mdb|lock\.mdb|LOCK",
    "index": r"data\.mdb|lock\.mdb|\.data\.mdb\.new(?:-lock)?",
    "spool": r"[0-9a-f]{16}\.(?:spool|sealed)",
    "scrub": r"place\.json|\.place\.json\.new|\.?[0-9]+-[0-9]+-[0-9a-f]{6}\.finding(?:\.new)?",
    "lost+found": r".*",
}
_FOLDERS: Final = frozenset(("segments", "checkpoints", "tiles", "keyring", "index", "spool", "scrub", "lost+found"))
_ALSO: Final = frozenset((".tiles.old", ".index.old"))


def planted(folder: ArchiveFolder) -> Iterator[Finding]:
    """Everything in an archive that is not Coffer's, up to a hundred findings, and deferred events that Coffer did not
    write. Works beside a live writer. Names are escaped."""
    for count, what in enumerate(_survey(folder.path, deep=True)):
        if count == MOST:
            yield Finding(0, 0, None, "the folder holds more things that Coffer did not put there than are listed")
            return
        yield Finding(0, 0, None, what)
    for path in (folder.lock, folder.keyring / "LOCK"):
        if is_foreign(path):
            name = path.relative_to(folder.path)
            yield Finding(0, 0, None, f"{name} holds what Coffer did not write; move it away while nothing runs")
    try:
        read_deferred(folder)
    except FormatError as error:
        yield Finding(0, 0, None, f"{error}; {error.hint()}")


def concerns(folder: ArchiveFolder) -> list[str]:
    """The first finding as a sentence, without searching the tiles, so that it can be called often; empty if none."""
    first = next(_survey(folder.path, deep=False), None)
    return [] if first is None else [f"{first}: coffer verify"]


def _survey(root: Path, *, deep: bool) -> Iterator[str]:
    for part in ("", *sorted(_FOLDERS - {"tiles"})):
        try:
            names = opening.names(root / part if part else root)
        except FileNotFoundError:
            continue  # a copy may lack a folder that was empty
        except PermissionError:
            continue  # the file system's own lost+found
        except IntegrityError as error:
            yield str(error)
            continue
        for name in names:
            what = _complaint(root, part, name)
            if what is not None:
                yield what
    if deep:
        yield from _tiles(root)


def _complaint(root: Path, part: str, name: str) -> str | None:
    shown = opening.shown(f"{part}/{name}" if part else name)
    found = opening.status(root / part / name)
    if found is None:
        return None  # it was removed in between
    if not part and name == CONFIG:
        return (
            f"{CONFIG} is not read: it lies in the archive folder, which is not trusted; if it is yours, move it to "
            f"/etc/coffer/{CONFIG} or beside the folder"
        )
    is_folder = stat.S_ISDIR(found.st_mode)
    is_ours = re.fullmatch(_OWN[part], name, re.DOTALL) is not None
    if not part and is_folder and name.startswith(".") and not is_ours:
        return None
    should_be_folder = not part and name in _FOLDERS | _ALSO
    if not (is_folder if should_be_folder else stat.S_ISREG(found.st_mode)):
        return f"{shown} is {opening.kind(found)}: Coffer did not put it there, and does not follow or open it"
    if not is_ours:
        return f"{shown} is not Coffer's: find out who put it there"
    return None


def _tiles(root: Path) -> Iterator[str]:
    if not opening.is_folder(root / "tiles"):
        return
    below = [root / "tiles"]
    while below:
        above = below.pop()
        try:
            names = sorted(opening.names(above))
        except OSError:
            continue  # it was removed in between, or is another account's
        except IntegrityError as error:
            yield str(error)
            continue
        is_last = len(above.relative_to(root).parts) >= MOST_DEEP
        for name in names:
            path = above / name
            found = opening.status(path)
            shown = opening.shown(path.relative_to(root))
            if found is not None and stat.S_ISDIR(found.st_mode):
                if is_last:
                    yield f"{shown} is a folder where no tile lies: find out who put it there"
                else:
                    below.append(path)
            elif found is not None and stat.S_ISREG(found.st_mode) and found.st_size > WIDTH * HASH_BYTES:
                yield f"{shown} is larger than any tile: find out who put it there"
            elif found is not None and not stat.S_ISREG(found.st_mode):
                yield f"{shown} is {opening.kind(found)}: Coffer did not put it there, and does not follow or open it"
