"""The log as it was at a time: cut after the last checkpoint that covers no later record.

Rule: works on segments that a restore has brought and nobody has opened. A time inside a group, or after the last
checkpoint before it, is rounded down to that checkpoint: what is not signed is not restored.
"""

from pathlib import Path

from coffer.archive.copies.segments import read_part
from coffer.archive.copies.shelf import Shelf
from coffer.archive.copies.snapshot import Snapshot
from coffer.archive.format.extent import extents
from coffer.archive.reader import LogReader
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.folder_segments import FolderSegments
from coffer.archive.store.segment_files import SegmentFiles
from coffer.archive.store.source import Source
from coffer.archive.tree import key_history
from coffer.archive.tree.checkpoint_history import split
from coffer.archive.tree.key_history import Endorsement
from coffer.keys.crypto.signing import body_of
from coffer.keys.errors import NotFoundError

__all__ = ["cut_at"]

_PIECE = 1 << 20


def cut_at(shelf: Shelf, snapshot: Snapshot, into: Path, until_ms: int) -> dict[str, bytes]:
    """Cut the restored segments in `into`, durably, and return the checkpoint, its history and the endorsements that
    take the place of the snapshot's. Raises NotFoundError if no checkpoint is so old."""
    files = SegmentFiles(into / "segments", into / "lost+found")
    records = _records_until(into, until_ms)
    history = split(read_part(shelf, snapshot, "checkpoints/history") or ())
    kept = [entry for entry in history if entry.checkpoint.size <= records]
    if not kept or (not kept[-1].checkpoint.size and snapshot.size):
        raise NotFoundError("nothing was signed before that time", hint="give a later one")
    size = kept[-1].checkpoint.size
    _cut(files, size)
    found = {
        "checkpoints/latest": kept[-1].note,
        "checkpoints/history": b"".join(each.note for each in kept),
    }
    endorsed = b"".join(read_part(shelf, snapshot, "checkpoints/endorsements") or ())
    if endorsed:
        found["checkpoints/endorsements"] = _until(endorsed, size)
    return found


def _records_until(into: Path, until_ms: int) -> int:
    """How many records there are before the first one that is later; segments that are all later are not read."""
    reader = LogReader(ArchiveFolder(into, b"", "", ""))
    try:
        return next((header.seq for _, header in reader.records() if header.time_ms > until_ms), 1 << 63)
    finally:
        reader.close()


def _cut(files: SegmentFiles, size: int) -> None:
    found = {each.number: each for each in extents(FolderSegments(files), size)}
    for number, held in reversed(files.sizes().items()):
        if number not in found:
            files.remove(number)
        elif held != found[number].size:
            with files.open(number) as source:
                fresh = files.stage(number, _first(source, found[number].size))
            files.install(number, fresh, "")


def _first(source: Source, size: int) -> list[bytes]:
    return [source.read(at, min(_PIECE, size - at)) for at in range(0, size, _PIECE)]


def _until(endorsed: bytes, size: int) -> bytes:
    """The endorsements of keys that signed up to there."""
    kept = []
    for note in key_history.split(endorsed):
        if Endorsement.parse(body_of(note)).size > size:
            break
        kept.append(note)
    return b"".join(kept)
