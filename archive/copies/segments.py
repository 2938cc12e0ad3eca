"""The segments of a snapshot as a store, so that whatever reads or verifies a log reads a snapshot just so.

Rule: reads only. Every piece is compared with its hash before any byte of it is used.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Final, NoReturn, Self

from coffer.archive.copies.shelf import Shelf
from coffer.archive.copies.snapshot import Blob, Snapshot
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.piece_source import PieceSource
from coffer.archive.store.segment_store import LogId, Receipt, SealedSegment, SegmentInfo, SegmentStore, require_log
from coffer.archive.store.source import Source
from coffer.keys.disk import durable
from coffer.keys.errors import IntegrityError, NotFoundError, UnavailableError, UnreadableError

__all__ = ["ARCHIVE_PARTS", "SnapshotSegments", "as_archive", "opened_at", "read_part", "write_files"]

ARCHIVE_PARTS: Final = ("archive.json", "checkpoints/latest", "checkpoints/history", "checkpoints/endorsements")
NOTHING: Final[Mapping[str, bytes]] = MappingProxyType({})


class SnapshotSegments(SegmentStore):
    """The segments of a snapshot, each with its size and what opens it."""

    def __init__(self, held: Mapping[int, tuple[int, Callable[[], Source]]]) -> None:
        self._held = held

    @classmethod
    def of(cls, shelf: Shelf, snapshot: Snapshot) -> Self:
        """Those of a snapshot at its target, read from there as they are needed."""
        size = snapshot.piece_bytes
        return cls({s.number: (s.blob.size, partial(opened_at, shelf, s.blob, size)) for s in snapshot.segments})

    def segments(self, log: LogId) -> list[SegmentInfo]:
        """Those that the snapshot lists."""
        require_log(log)
        return [SegmentInfo(number, size) for number, (size, _) in self._held.items()]

    def open(self, log: LogId, number: int) -> Source:
        """A segment."""
        require_log(log)
        if number not in self._held:
            raise NotFoundError(f"the snapshot has no segment {number}")
        return self._held[number][1]()

    def put(self, sealed: SealedSegment) -> Receipt:
        """Refused: a snapshot never changes."""
        self._refuse(sealed)

    def replace(self, sealed: SealedSegment, kept: str) -> Receipt:
        """Refused: a snapshot never changes."""
        self._refuse(sealed, kept)

    def was_replaced(self, log: LogId, number: int, kept: str) -> bool:  # noqa: ARG002
        """Never."""
        return False

    def kept_as(self, log: LogId, number: int, wanted: str) -> str:
        """Refused: a snapshot never changes."""
        self._refuse(log, number, wanted)

    def set_aside(self, log: LogId, number: int, kept: str) -> None:
        """Refused: a snapshot never changes."""
        self._refuse(log, number, kept)

    def release(self, log: LogId, number: int, proof: Receipt) -> None:
        """Refused: a snapshot never changes."""
        self._refuse(log, number, proof)

    def room(self) -> int:
        """Nothing can be written."""
        return 0

    @staticmethod
    def _refuse(*_: object) -> NoReturn:
        raise UnavailableError("a snapshot is never changed")


def opened_at(shelf: Shelf, blob: Blob, piece_bytes: int) -> Source:
    """A blob at a target. Reading raises UnreadableError where a piece is missing, is another one, or cannot be had
    now."""

    def fetch(number: int) -> bytes:
        size = min(piece_bytes, blob.size - number * piece_bytes)
        try:
            return shelf.piece(blob.pieces[number], size)
        except (IntegrityError, NotFoundError, UnavailableError) as error:
            raise UnreadableError(
                f"cannot be read: {error}", hint="take another snapshot, or another target"
            ) from error

    return PieceSource(blob.size, piece_bytes, fetch)


@contextmanager
def as_archive(shelf: Shelf, snapshot: Snapshot, segments: SegmentStore | None = None) -> Iterator[ArchiveFolder]:
    """The snapshot as an archive to read: its small files in a temporary folder, its segments at the target, or those
    that are given.

    Raises IntegrityError if a file is missing or is not what was stored.
    """
    with TemporaryDirectory(prefix="coffer-snapshot-") as made:
        path = Path(made)
        write_files(shelf, snapshot, path)
        folder = ArchiveFolder.open(path)
        if folder.archive_id != snapshot.archive_id:
            raise IntegrityError("the snapshot is of another archive than its files")
        yield replace(folder, held_in=segments or SnapshotSegments.of(shelf, snapshot))


def write_files(shelf: Shelf, snapshot: Snapshot, into: Path, instead: Mapping[str, bytes] = NOTHING) -> None:
    """Write the files of the archive beside its segments into a folder, archive.json last; durable on return. Files
    that are there are replaced; `instead` of what the snapshot has under a name, other bytes are written. Raises
    IntegrityError if one is missing or not what was stored."""
    for name in reversed(ARCHIVE_PARTS):
        data = [instead[name]] if name in instead else read_part(shelf, snapshot, name)
        if data is None and name == "checkpoints/endorsements":
            continue
        if data is None:
            raise IntegrityError(f"the snapshot has no {name}", hint="take another snapshot")
        durable.make_folders((into / name).parent, into)
        durable.install(durable.stage(into / name, data), into / name, None)


def read_part(shelf: Shelf, snapshot: Snapshot, name: str) -> Iterable[bytes] | None:
    """The bytes of a part in pieces, None if the snapshot has none of this name. Raises as `Shelf.piece`."""
    blob = next((each.blob for each in snapshot.parts if each.name == name), None)
    return None if blob is None else shelf.read_blob(blob, snapshot.piece_bytes)
