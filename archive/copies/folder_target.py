"""A target in a folder: on another disk, a stick, or a share that is mounted.

Rule: everything goes through `keys.disk`, so nothing that was planted in the folder leads out of it.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from coffer.archive.copies.target import MOST_BYTES, Stored, Target, is_name, require_name
from coffer.keys.buffer import Buffer
from coffer.keys.disk import durable, opening
from coffer.keys.disk.reading import read_exactly, reading
from coffer.keys.disk.syscalls import SYSTEM, Syscalls
from coffer.keys.errors import FormatError, IntegrityError, NotFoundError, UnavailableError

__all__ = ["FolderTarget"]


class FolderTarget(Target):
    """Objects as files, their names as paths. Files are 0600 in folders of mode 0700."""

    __slots__ = ("_calls", "_folder")

    def __init__(self, folder: Path, *, calls: Syscalls = SYSTEM) -> None:
        """Raises UnavailableError if the folder does not exist: a target that is not mounted must not be made anew on
        the disk below its mount point."""
        if not folder.is_dir():
            raise UnavailableError(
                f"the target {opening.shown(folder)} is not there",
                hint="mount it; the first time, create the folder yourself, with mkdir",
            )
        self._folder = folder
        self._calls = calls
        opening.distrust(folder)

    @property
    def name(self) -> str:
        """The folder's path."""
        return str(self._folder)

    def put(self, name: str, data: Buffer) -> None:
        """`durable.replace`, and before it the folders above: fsync of each; then `durable.resync`, so that whoever
        reads it back gets what the medium or the other machine has, and not what this one remembers."""
        path = self._path(name)
        if not opening.is_folder(path.parent):
            durable.make_folders(path.parent, self._folder, calls=self._calls)
        durable.replace(path, data, calls=self._calls)
        durable.resync(path, calls=self._calls)

    def get(self, name: str, most: int = MOST_BYTES) -> bytes:
        """As `Target.get`."""
        with self._found(name) as path:
            return opening.read(path, most)

    def read(self, name: str, offset: int, length: int) -> bytes:
        """As `Target.read`."""
        with self._found(name) as path, opening.opened(path) as file:
            try:
                return read_exactly(file.fileno(), offset, length)
            except FormatError as error:
                raise IntegrityError(f"{name} at {self.name} is too short") from error

    def list(self, prefix: str) -> list[Stored]:
        """One pass over the folders that can hold such names."""
        above = self._folder / prefix.rpartition("/")[0]
        with reading(f"the target {self.name}"):
            found = [each for each in self._walk(above) if each.name.startswith(prefix)]
        return sorted(found)

    def remove(self, name: str) -> None:
        """`durable.remove`."""
        path = self._path(name)
        if opening.is_folder(path.parent):
            durable.remove(path, calls=self._calls)

    def _path(self, name: str) -> Path:
        return self._folder / require_name(name)

    def _found(self, name: str) -> "_Reading":
        return _Reading(self, name, self._path(name))

    def _walk(self, top: Path) -> Iterator[Stored]:
        waiting = [top]
        while waiting:
            folder = waiting.pop()
            try:
                names = opening.names(folder)
            except (FileNotFoundError, NotADirectoryError):
                continue
            for each in names:
                path = folder / each
                name = path.relative_to(self._folder).as_posix()
                about = opening.status(path) if is_name(name) else None
                if about is None:
                    continue
                if stat.S_ISDIR(about.st_mode):
                    waiting.append(path)
                elif stat.S_ISREG(about.st_mode):
                    yield Stored(name, about.st_size, about.st_mtime_ns // 1_000_000)


class _Reading:
    """Turns what the system says of a missing or unreadable file into the errors of a target."""

    __slots__ = ("_name", "_path", "_target")

    def __init__(self, target: FolderTarget, name: str, path: Path) -> None:
        self._target, self._name, self._path = target, name, path

    def __enter__(self) -> Path:
        return self._path

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (FileNotFoundError, NotADirectoryError)):
            raise NotFoundError(f"{self._name} is not at {self._target.name}") from error
        if isinstance(error, OSError):
            raise UnavailableError(
                f"{self._name} at {self._target.name} cannot be read: {os.strerror(error.errno or 0)}"
            ) from error
