"""The files of the log's segments in an archive folder: where they lie, how they are named, opened, begun and replaced.

Rule: the only module that knows a segment's path, so that another store can take its place. Sealed segments are reached
through `segment_store`; here alone is the growing one begun and continued. Everything is opened
through `keys.disk.opening`; what changes a file says what is durable on return.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from coffer.archive.store.source import FileSource
from coffer.keys.buffer import Buffer
from coffer.keys.disk import durable, opening
from coffer.keys.disk.append_file import AppendFile
from coffer.keys.disk.reading import reading
from coffer.keys.disk.syscalls import SYSTEM, Syscalls
from coffer.keys.errors import NotFoundError

__all__ = ["OWN_NAMES", "SegmentFiles"]

_NAME = re.compile(r"[0-9]{8}\.seg")
OWN_NAMES = r"[0-9]{8}\.seg|\.[0-9]{8}\.seg\.new"  # every name that Coffer gives a file beside the segments


@dataclass(frozen=True, slots=True)
class SegmentFiles:
    """The segments of one archive, numbered from 1."""

    folder: Path
    lost_and_found: Path

    def numbers(self) -> list[int]:
        """The numbers of the segments, in order."""
        return list(self.sizes())

    def sizes(self) -> dict[int, int]:
        """The numbers of the segments, in order, and the size of each in bytes, 0 where it is no regular file.

        None where the folder is missing: what was signed shows that they are gone, and says how many.
        """
        try:
            found = opening.sizes(self.folder).items()
        except FileNotFoundError:
            return {}
        return dict(sorted((int(name[:8]), size) for name, size in found if _NAME.fullmatch(name)))

    def path(self, number: int) -> Path:
        """The file of one segment."""
        return self.folder / self.name(number)

    @staticmethod
    def name(number: int) -> str:
        """The name of a segment's file, for people and for what is kept of it."""
        return f"{number:08d}.seg"

    def exists(self, number: int) -> bool:
        """Whether there is a file of this number."""
        return opening.exists(self.path(number))

    def is_staged(self, number: int) -> bool:
        """Whether a next content of this segment was staged and not installed."""
        return opening.exists(self.folder / f".{self.name(number)}.new")

    def open(self, number: int) -> FileSource:
        """A segment, open for reading; the caller closes it. One that was replaced since reads as it was when opened.

        Raises NotFoundError if there is no such file, IntegrityError if it is not a regular file or reached through a
        link, UnreadableError.
        """
        with reading(f"segment {number}"):
            try:
                return FileSource(opening.descriptor(self.path(number)))
            except FileNotFoundError as error:
                hint = "run coffer verify; restore the segment from a backup or replica"
                raise NotFoundError(f"segment {number} does not exist", hint=hint) from error

    def begin(self, number: int, header: Buffer, calls: Syscalls = SYSTEM) -> AppendFile:
        """Begin a segment with its header, durable on return, and open its end.

        What a crash left of this file holds no record: it is replaced, so that a segment is complete or absent.
        """
        durable.replace(self.path(number), header, calls=calls)
        return self.end_of(number, calls)

    def end_of(self, number: int, calls: Syscalls = SYSTEM) -> AppendFile:
        """The end of a segment, to append to or to cut."""
        return AppendFile(self.path(number), calls=calls)

    def resync(self, number: int, calls: Syscalls = SYSTEM) -> None:
        """Make durable what another process wrote and may not have synced."""
        durable.resync(self.path(number), calls=calls)

    def open_staged(self, number: int, calls: Syscalls = SYSTEM) -> FileSource:
        """What was staged for a segment, as it is on the medium: it is synced once more and dropped from the cache."""
        fresh = self.folder / f".{self.name(number)}.new"
        durable.resync(fresh, calls=calls)
        with reading(f"what was staged for segment {number}"):
            return FileSource(opening.descriptor(fresh))

    def is_kept(self, kept: str) -> bool:
        """Whether lost+found holds something under this name."""
        return opening.exists(self.lost_and_found / kept)

    def is_same(self, number: int, kept: str) -> bool:
        """Whether a segment and a name in lost+found are one file."""
        mine, other = opening.status(self.path(number)), opening.status(self.lost_and_found / kept)
        return mine is not None and other is not None and (mine.st_dev, mine.st_ino) == (other.st_dev, other.st_ino)

    def open_kept(self, kept: str) -> FileSource:
        """A file of lost+found, open for reading. Raises as `open`."""
        with reading(f"lost+found/{kept}"):
            return FileSource(opening.descriptor(self.lost_and_found / kept))

    def stage(self, number: int, pieces: Iterable[Buffer], calls: Syscalls = SYSTEM) -> Path:
        """Write a segment's next content beside it; durable on return, without effect until `install`."""
        return durable.stage(self.path(number), pieces, calls=calls)

    def install(self, number: int, fresh: Path, kept: str, calls: Syscalls = SYSTEM) -> None:
        """Replace a segment by a staged file and keep the old one in lost+found as `kept` ("": keep none). Durable."""
        durable.install(fresh, self.path(number), self.lost_and_found / kept if kept else None, calls=calls)

    def place(self, number: int, fresh: Path, calls: Syscalls = SYSTEM) -> bool:
        """Give a staged file the segment's name unless that is taken; False if it is. Durable on return."""
        return durable.place(fresh, self.path(number), calls=calls)

    def keep(self, fresh: Path, kept: str, calls: Syscalls = SYSTEM) -> None:
        """Move a staged file to lost+found. Durable on return."""
        durable.move(fresh, self.lost_and_found / kept, calls=calls)

    @staticmethod
    def discard(fresh: Path, calls: Syscalls = SYSTEM) -> None:
        """Remove a staged file if it is still there, best effort."""
        durable.discard(fresh, calls=calls)

    def remove(self, number: int, calls: Syscalls = SYSTEM) -> None:
        """Remove a segment. Durable on return."""
        durable.remove(self.path(number), calls=calls)

    def set_aside(self, number: int, kept: str, calls: Syscalls = SYSTEM) -> None:
        """Move a segment to lost+found under the name `kept`. Durable on return."""
        durable.move(self.path(number), self.lost_and_found / kept, calls=calls)
