"""Find the files under the paths that an administrator names: files, folders with their contents, and what a DICOMDIR
refers to.

Rule: never leave the folder of a DICOMDIR, whatever it refers to (CVE-2026-32711), never follow a link to a folder,
never open anything but a regular file. It does not open the files that it finds.
"""

import os
import stat
from collections.abc import Iterator, MutableSequence, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coffer.keys.errors import InputError

__all__ = ["Found", "find_files", "read_media_directory"]

_MAX_DIRECTORY: Final = 256 << 20
_RECORDS, _FILE_ID = 0x0004_1220, 0x0004_1500  # Directory Record Sequence, Referenced File ID


@dataclass(frozen=True, slots=True)
class Found:
    """One file to import, or, if `problem` is set, one that cannot be imported."""

    path: Path
    problem: str = ""


def find_files(paths: Sequence[Path]) -> Iterator[Found]:
    """Every file under the paths, folders in the order of their names, each file once."""
    seen: set[tuple[int, int]] = set()
    for found in (one for path in paths for one in _under(path)):
        if found.problem:
            yield found
            continue
        try:
            about = found.path.stat()
        except OSError as error:
            yield Found(found.path, error.strerror or "cannot be read")
            continue
        if not stat.S_ISREG(about.st_mode):
            yield Found(found.path, "not a regular file")
        elif (about.st_dev, about.st_ino) not in seen:
            seen.add((about.st_dev, about.st_ino))
            yield found


def _under(path: Path) -> Iterator[Found]:
    if not path.is_dir():
        yield Found(path)
        return
    problems: list[Found] = []
    for folder, folders, files in os.walk(
        path, onerror=lambda e: problems.append(Found(Path(e.filename), e.strerror or "cannot be read"))
    ):
        folders.sort()
        yield from (Found(Path(folder, name)) for name in sorted(files))
        while problems:
            yield problems.pop()
    yield from problems


def read_media_directory(path: Path) -> list[Found]:
    """The files a DICOMDIR refers to (PS3.3 F.3.2.2), in its order; a reference that leaves its folder, or leads
    nowhere, is reported as a problem. Raises InputError if it cannot be read as a DICOMDIR."""
    from pydicom import dcmread  # here: a command that is given no DICOMDIR need not pay for it

    try:
        if path.stat().st_size > _MAX_DIRECTORY:
            raise InputError(f"{path} is too large for a DICOMDIR")
        records = dcmread(path, force=True, specific_tags=[_RECORDS]).get(_RECORDS)
        references = [] if records is None else [_components(r[_FILE_ID].value) for r in records.value if _FILE_ID in r]
    except (OSError, RecursionError, MemoryError) as error:
        raise InputError(f"{path} cannot be read as a DICOMDIR: {type(error).__name__}") from error
    except InputError:
        raise
    except Exception as error:  # pydicom raises whatever a damaged file provokes
        raise InputError(f"{path} cannot be read as a DICOMDIR: {type(error).__name__}") from error
    root = path.parent
    return [_resolve(root, components) for components in references if components]


def _components(value: object) -> list[str]:
    parts = value if isinstance(value, MutableSequence | tuple) else str(value or "").split("\\")
    return [str(part).strip() for part in parts if str(part).strip()]


def _resolve(root: Path, components: Sequence[str]) -> Found:
    """The file below `root`; names are also compared without case, which some mounts change."""
    shown = Path(*components) if all("\0" not in c for c in components) else Path("?")
    if any(c in (".", "..") or "/" in c or "\0" in c for c in components):
        return Found(shown, "the DICOMDIR refers to a place outside its folder")
    here = root
    for name in components:
        there = here / name
        if not there.exists():
            try:
                there = next((p for p in here.iterdir() if p.name.lower().rstrip(".") == name.lower()), there)
            except OSError:
                return Found(root / shown, "named in the DICOMDIR, but not there")
        here = there
    if not here.exists():
        return Found(root / shown, "named in the DICOMDIR, but not there")
    if not here.resolve().is_relative_to(root.resolve()):
        return Found(here, "the DICOMDIR refers to a place outside its folder")
    return Found(here)
