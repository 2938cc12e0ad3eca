"""Write stored objects as Part 10 files into a folder: the door of `coffer get`.

Rule: names are made of UIDs only where these are digits and dots, else of numbers; nothing that exists is overwritten;
a file appears under its name when it is whole, durable, and its hash was checked. It decides nothing: `retrieve` did.
"""

import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from keys import durable, opening
from keys.errors import ConfigError, UnavailableError
from server.part10 import Part10, header_bytes, looks_like_uid
from server.retrieve import StoredInstance

__all__ = ["Exporter", "Written"]


def _require_own(folder: Path) -> None:
    """A link to the folder is followed where root or this account made it, not where somebody else did."""
    try:
        found = folder.lstat()
    except OSError:
        return  # nothing is there yet
    if stat.S_ISLNK(found.st_mode) and found.st_uid not in {0, os.geteuid()}:
        raise ConfigError(f"{folder} is a link that another account made", hint="name the folder that it leads to")


def _existing(target: Path, found: os.stat_result | None, size: int) -> "Written":
    """What is told of a name that is taken. Raises UnavailableError where no file has it."""
    if found is None or not stat.S_ISREG(found.st_mode):
        raise UnavailableError(
            f"{target} is a link, or another thing than a file", hint="look who put it there, or name a new folder"
        )
    return Written(target, size, existed=True)


@dataclass(frozen=True, slots=True)
class Written:
    """One file: where it is, the data set's bytes, and whether it was there before (and was left as it is)."""

    path: Path
    size: int
    existed: bool = False


class Exporter:
    """Writes into one folder: `study UID/series UID/instance UID.dcm`. Used by one thread.

    Others may write to it too: nothing is written through a link in it. Raises ConfigError where the folder itself is
    another account's link.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = Path(os.path.abspath(folder))  # noqa: PTH100  the link's own name is meant
        _require_own(self._folder)
        self._above = next(path for path in (self._folder, *self._folder.parents) if path.exists())
        opening.distrust(self._folder)
        self._made: set[Path] = set()
        self._numbers: dict[tuple[str, str], int] = {}

    def write(
        self,
        instance: StoredInstance,
        progress: Callable[[int], None] = lambda _: None,
        *,
        version: int | None = None,
    ) -> Written:
        """Write one object, durable on return; `version` goes into its name, so that none is taken for another.

        Raises UnavailableError, IntegrityError and its kin: then nothing stands under the name.
        """
        located = instance.located
        folder = self._folder / self._name("study", located.study_uid) / self._name("series", located.series_uid)
        which = "" if version is None else f".version-{version}"
        target = folder / f"{self._name('instance', instance.sop_instance)}{which}.dcm"
        if folder not in self._made:
            durable.make_folders(folder, self._above, 0o777)
            self._made.add(folder)
        if (found := opening.look(target)) is not None:
            return _existing(target, found, instance.length)
        size = 0

        def count(more: int) -> None:
            nonlocal size
            size += more
            progress(more)

        mine = target.with_name(f"{target.name}.{os.getpid()}")  # two commands may write into one folder
        if durable.place(durable.stage(mine, self._pieces(instance, count)), target):
            return Written(target, size)
        return _existing(target, opening.look(target), size)

    @staticmethod
    def _pieces(instance: StoredInstance, progress: Callable[[int], None]) -> Iterator[bytes]:
        """The file from front to back. Raises as the object's own pieces do, before the last one."""
        meta = instance.meta()
        uids = meta.sop_class, meta.sop_instance, meta.transfer_syntax
        header = Part10(*uids, preamble=meta.preamble or b"", file_meta=meta.file_meta or b"", start=0)
        yield header_bytes(header, meta.source_ae)
        for piece in instance.open():
            yield piece
            progress(len(piece))

    def _name(self, kind: str, uid: str) -> str:
        if looks_like_uid(uid):
            return uid
        number = self._numbers.setdefault((kind, uid), len(self._numbers) + 1)
        return f"{kind}-{number:04d}"
