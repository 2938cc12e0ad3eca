"""Bring a snapshot back into a folder: every piece compared with its hash, archive.json last.

Rule: an interrupted restore goes on with what is there after comparing it; a folder without archive.json is no archive.
It opens no key, signs nothing, and touches no mark: what the archive may do next is for its writer and for people.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coffer.archive.copies.point_in_time import cut_at
from coffer.archive.copies.segments import NOTHING, write_files
from coffer.archive.copies.shelf import Shelf
from coffer.archive.copies.snapshot import Blob, Snapshot
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.segment_files import SegmentFiles
from coffer.archive.store.segment_store import pieces
from coffer.archive.store.source import FileSource
from coffer.keys.disk import durable, opening
from coffer.keys.errors import ConfigError, FormatError, IntegrityError

__all__ = ["Restore"]

_BEGUN: Final = ".restore"  # names the snapshot while a restore is unfinished


@dataclass(slots=True)
class Restore:
    """The way of one snapshot into one folder. `taken` counts the bytes from the target, `kept` those that an
    interrupted restore had brought."""

    shelf: Shelf
    snapshot: Snapshot
    into: Path
    progress: Callable[[int], None] = lambda _: None
    taken: int = 0
    kept: int = 0

    def begin(self) -> None:
        """Make the folder, or go on in one where a restore of the same snapshot was interrupted; durable on return.

        Raises ConfigError if the folder holds anything else.
        """
        opening.distrust(self.into)
        if not self.into.exists():
            durable.make_folder(self.into)
        if opening.names(self.into):
            self._require_begun()
        else:
            durable.write_new(self.into / _BEGUN, self.snapshot.id.encode())
        ArchiveFolder.make_parts(self.into)

    def fetch(self) -> None:
        """Bring the segments, durable on return. Raises IntegrityError for a piece that is not what was stored."""
        files = SegmentFiles(self.into / "segments", self.into / "lost+found")
        for each in self.snapshot.segments:
            if files.exists(each.number) and self._is_here(files.open(each.number), each.blob):
                self.kept += each.blob.size
                self.progress(each.blob.size)
                continue
            fresh = files.stage(each.number, self._brought(each.blob))
            files.install(each.number, fresh, "")
        wanted = {each.number for each in self.snapshot.segments}
        if set(files.numbers()) - wanted:
            raise ConfigError(
                f"{self.into} holds segments that are not of this snapshot",
                hint="restore into an empty folder",
            )

    def finish(self, until_ms: int | None = None) -> ArchiveFolder:
        """Write the files beside the segments, archive.json last: from then on it is an archive. Durable on return.

        With `until_ms` (ms since 1970) the log ends at the last checkpoint without a later record. Raises NotFoundError
        if there is none.
        """
        instead = NOTHING if until_ms is None else cut_at(self.shelf, self.snapshot, self.into, until_ms)
        write_files(self.shelf, self.snapshot, self.into, instead)
        durable.remove(self.into / _BEGUN)
        folder = ArchiveFolder.open(self.into)
        if folder.archive_id != self.snapshot.archive_id:
            raise IntegrityError("the snapshot is of another archive than its files", hint="take another snapshot")
        return folder

    def _require_begun(self) -> None:
        try:
            begun = opening.read(self.into / _BEGUN, 64)
        except FileNotFoundError:
            raise ConfigError(
                f"{self.into} is not empty", hint="restore into a folder that is empty or does not exist"
            ) from None
        if begun != self.snapshot.id.encode():
            raise ConfigError(
                f"another restore was begun in {self.into}: {opening.shown(begun.decode('ascii', 'replace'))}",
                hint="give that snapshot, or another folder",
            )

    def _brought(self, blob: Blob) -> Iterator[bytes]:
        for data in self.shelf.read_blob(blob, self.snapshot.piece_bytes):
            self.taken += len(data)
            self.progress(len(data))
            yield data

    def _is_here(self, source: FileSource, blob: Blob) -> bool:
        with source:
            if source.size != blob.size:
                return False
            try:
                return _hashes(source, self.snapshot.piece_bytes) == blob.pieces
            except FormatError:
                return False


def _hashes(source: FileSource, piece_bytes: int) -> tuple[bytes, ...]:
    found, digest, inside = [], hashlib.sha256(), 0
    for data in pieces(source):
        left = memoryview(data)
        while left:
            taken = left[: piece_bytes - inside]
            digest.update(taken)
            inside, left = inside + len(taken), left[len(taken) :]
            if inside == piece_bytes:
                found.append(digest.digest())
                digest, inside = hashlib.sha256(), 0
    return (*found, digest.digest()) if inside else tuple(found)
