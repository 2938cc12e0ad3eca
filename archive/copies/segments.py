"""The segments of a snapshot as a store, so that whatever reads or verifies a log reads a snapshot just so.

Rule: reads only. Every piece is compared with its hash before any byte of it is used.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Final, NoReturn

from coffer.archive.copies.shelf import Shelf
from coffer.archive.copies.snapshot import Blob, Snapshot
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.segment_store import LogId, Receipt, SealedSegment, SegmentInfo, SegmentStore, require_log
from coffer.archive.store.source import Source
from coffer.keys.disk import durable
from coffer.keys.errors import FormatError, IntegrityError, NotFoundError, UnavailableError, UnreadableError

__all__ = ["ARCHIVE_PARTS", "SnapshotSegments", "as_archive", "read_part", "write_files"]

ARCHIVE_PARTS: Final = ("archive.json", "checkpoints/latest", "checkpoints/history", "checkpoints/endorsements")
NOTHING: Final[Mapping[str, bytes]] = MappingProxyType({})
_HELD: Final = 2  # pieces in memory


class PieceSource(Source):
    """The bytes of a blob at a target."""

    def __init__(self, shelf: Shelf, blob: Blob, piece_bytes: int) -> None:
        self._shelf, self._blob, self._piece_bytes = shelf, blob, piece_bytes
        self._held: OrderedDict[int, memoryview] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """As the snapshot says, and its pieces have."""
        return self._blob.size

    def read(self, offset: int, length: int) -> bytes:
        """As `Source.read`; UnreadableError where a piece is missing, is another one, or cannot be had now."""
        if offset + length > self._blob.size:
            raise FormatError(f"the file ends {offset + length - self._blob.size} bytes too early")
        found = []
        while length:
            number, inside = divmod(offset, self._piece_bytes)
            taken = self._piece(number)[inside : inside + length]
            found.append(taken)
            offset, length = offset + len(taken), length - len(taken)
        return b"".join(found)

    def _piece(self, number: int) -> memoryview:
        with self._lock:
            held = self._held.get(number)
            if held is None:
                size = min(self._piece_bytes, self._blob.size - number * self._piece_bytes)
                try:
                    held = memoryview(self._shelf.piece(self._blob.pieces[number], size))
                except (IntegrityError, NotFoundError, UnavailableError) as error:
                    raise UnreadableError(
                        f"cannot be read: {error}", hint="take another snapshot, or another target"
                    ) from error
                self._held[number] = held
                if len(self._held) > _HELD:
                    self._held.popitem(last=False)
            else:
                self._held.move_to_end(number)
            return held


class SnapshotSegments(SegmentStore):
    """The segments of a snapshot at a target."""

    def __init__(self, shelf: Shelf, snapshot: Snapshot) -> None:
        self._shelf = shelf
        self._piece_bytes = snapshot.piece_bytes
        self._copies = {each.number: each for each in snapshot.segments}

    def segments(self, log: LogId) -> list[SegmentInfo]:
        """Those that the snapshot lists."""
        require_log(log)
        return [SegmentInfo(number, each.blob.size) for number, each in self._copies.items()]

    def open(self, log: LogId, number: int) -> PieceSource:
        """A segment, read from the target as it is needed."""
        require_log(log)
        if number not in self._copies:
            raise NotFoundError(f"the snapshot has no segment {number}")
        return PieceSource(self._shelf, self._copies[number].blob, self._piece_bytes)

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


@contextmanager
def as_archive(shelf: Shelf, snapshot: Snapshot) -> Iterator[ArchiveFolder]:
    """The snapshot as an archive to read: its small files in a temporary folder, its segments at the target.

    Raises IntegrityError if a file is missing or is not what was stored.
    """
    with TemporaryDirectory(prefix="coffer-snapshot-") as made:
        path = Path(made)
        write_files(shelf, snapshot, path)
        folder = ArchiveFolder.open(path)
        if folder.archive_id != snapshot.archive_id:
            raise IntegrityError("the snapshot is of another archive than its files")
        yield replace(folder, held_in=SnapshotSegments(shelf, snapshot))


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
