"""What stands where a file of the archive has to be written: found, named, and moved away by a person.

Rule: nothing is moved here. Coffer writes no folder, link or other file at these names, so somebody else did.
"""

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from coffer.archive.store.folder import ArchiveFolder
from coffer.keys.disk import opening
from coffer.keys.errors import UnavailableError

__all__ = ["writing"]

_OUTSIDE: Final = Path("/var/tmp")  # noqa: S108  a name there is drawn; in the archive it would be a finding again


@contextmanager
def writing(folder: ArchiveFolder, path: Path) -> Iterator[None]:
    """Say in an UnavailableError from the block what stands in the way of a file of the archive, if anything does, and
    with which command it is moved away."""
    try:
        yield
    except UnavailableError as error:
        found = _in_the_way(folder, path)
        if found is None:
            raise
        target = _OUTSIDE / f"{found.name}-{os.urandom(4).hex()}"
        raise UnavailableError(
            f"{found} stands where Coffer has to write {path.name}, and is not Coffer's",
            hint=f"mv {shlex.quote(str(found))} {shlex.quote(str(target))} and wait: a running server tries again "
            "within seconds; then find out who or what writes to the archive folder",
        ) from error


def _in_the_way(folder: ArchiveFolder, path: Path) -> Path | None:
    """The first of the names from the archive folder down to `path` that is no folder, or, at its end, no file."""
    names = path.relative_to(folder.path).parts
    for count in range(1, len(names)):
        above = folder.path.joinpath(*names[:count])
        if opening.exists(above) and not opening.is_folder(above):
            return above
    return path if opening.is_folder(path) else None
