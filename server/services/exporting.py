"""Write stored objects as Part 10 files into a folder: the door of `coffer get`.

Rule: names are made of UIDs only if these are digits and dots, otherwise of their hash. No file is overwritten, and an
object counts as present only if a file has exactly its data set: two objects may claim the same UIDs. A file appears
under its name once it is whole, durable, and its hash was checked. The access decision was made by `retrieve`.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final

from coffer.keys.disk import durable, opening
from coffer.keys.errors import ConfigError, InputError, UnavailableError
from coffer.server.services.part10 import Part10, header_bytes, looks_like_uid, read_part10
from coffer.server.services.retrieve import StoredInstance

__all__ = ["Exporter", "Written"]

_MOST_NAMES: Final = 1000  # of objects that claim the same UIDs


def _require_own(folder: Path) -> None:
    """Raise ConfigError if the folder is a link that neither root nor this account made."""
    try:
        found = folder.lstat()
    except OSError:
        return  # it does not exist yet
    if stat.S_ISLNK(found.st_mode) and found.st_uid not in {0, os.geteuid()}:
        raise ConfigError(f"{folder} is a link that another account made", hint="name the folder that it points to")


def _holds(target: Path, pieces: Iterator[bytes], size: int) -> bool:
    """Whether the existing file is this object: the same UIDs, and exactly the `size` bytes of its data set, which
    follow the first piece.

    Raises UnavailableError if it is not a regular file or cannot be read.
    """
    found = opening.status(target)
    if found is None or not stat.S_ISREG(found.st_mode):
        raise UnavailableError(
            f"{target} is a link, or not a regular file", hint="find out who put it there, or name a new folder"
        )
    header = next(pieces)
    first = next(pieces, b"")
    try:
        with opening.opened(target) as file:
            there, wanted = read_part10(file), read_part10(io.BytesIO(header + first))
            if there is None or wanted is None:
                return False
            if found.st_size - there.start != size or _named(there) != _named(wanted):
                return False
            file.seek(there.start)
            return all(file.read(len(piece)) == piece for piece in chain((first,), pieces))
    except InputError:
        return False
    except OSError as error:
        raise UnavailableError(
            f"{target} cannot be read: {error.strerror}", hint="find out who put it there, or name a new folder"
        ) from error


def _named(file: Part10) -> tuple[str, str, str]:
    return file.sop_class, file.sop_instance, file.transfer_syntax


@dataclass(frozen=True, slots=True)
class Written:
    """One file: its path, the data set's bytes, and whether it existed before (and was left as it is)."""

    path: Path
    size: int
    existed: bool = False


class Exporter:
    """Writes into one folder: `study UID/series UID/instance UID.dcm`. Used by one thread.

    Others may write to it too: nothing is written through a link in it. Raises ConfigError if the folder itself is a
    link of another account.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = Path(os.path.abspath(folder))  # noqa: PTH100  links must not be resolved
        _require_own(self._folder)
        self._above = next(path for path in (self._folder, *self._folder.parents) if path.exists())
        opening.distrust(self._folder)
        self._made: set[Path] = set()

    def write(
        self,
        instance: StoredInstance,
        progress: Callable[[int], None] = lambda _: None,
        *,
        version: int | None = None,
    ) -> Written:
        """Write one object, durable on return; `version` becomes part of its name, so that versions are distinct. If
        another object's file has the name, the next one is used: `.other-2`.

        Raises UnavailableError, IntegrityError or a subclass: then no file has the name.
        """
        located = instance.located
        folder = self._folder / _name("study", located.study_uid) / _name("series", located.series_uid)
        which = "" if version is None else f".version-{version}"
        stem = f"{_name('instance', instance.sop_instance)}{which}"
        if folder not in self._made:
            durable.make_folders(folder, self._above, 0o777)
            self._made.add(folder)
        for number in range(1, _MOST_NAMES + 1):
            target = folder / (f"{stem}.dcm" if number == 1 else f"{stem}.other-{number}.dcm")
            if not opening.exists(target) and (written := self._write(instance, target, progress)) is not None:
                return written
            if _holds(target, self._pieces(instance), instance.length):
                return Written(target, instance.length, existed=True)
        raise UnavailableError(f"all names for {target} are taken by other files", hint="name a new folder")

    def _write(self, instance: StoredInstance, target: Path, progress: Callable[[int], None]) -> Written | None:
        """Write it under a free name; None if the name was taken meanwhile."""
        size = 0

        def count(more: int) -> None:
            nonlocal size
            size += more
            progress(more)

        mine = target.with_name(f"{target.name}.{os.getpid()}")  # two commands may write into one folder
        if not durable.place(durable.stage(mine, self._pieces(instance, count)), target):
            return None
        return Written(target, size)

    @staticmethod
    def _pieces(instance: StoredInstance, progress: Callable[[int], None] = lambda _: None) -> Iterator[bytes]:
        """The file from start to end. Raises as the object's own pieces do, before the last one."""
        meta = instance.meta()
        uids = meta.sop_class, meta.sop_instance, meta.transfer_syntax
        header = Part10(*uids, preamble=meta.preamble or b"", file_meta=meta.file_meta or b"", start=0)
        yield header_bytes(header, meta.source_ae)
        for piece in instance.open():
            yield piece
            progress(len(piece))


def _name(kind: str, uid: str) -> str:
    """A name that depends on the UID alone, so that two studies never share a folder."""
    return (
        uid if looks_like_uid(uid) else f"{kind}-{hashlib.sha256(uid.encode(errors='surrogatepass')).hexdigest()[:16]}"
    )
