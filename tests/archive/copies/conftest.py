"""A small archive in several segments and a target in memory."""

from collections.abc import Callable
from pathlib import Path

import pytest

from coffer.archive.copies.backup import BackupRun, Request
from coffer.archive.copies.checkpointed import archive_parts
from coffer.archive.copies.memory_target import MemoryTarget
from coffer.archive.copies.restore import Restore
from coffer.archive.copies.shelf import Shelf
from coffer.archive.copies.snapshot import Snapshot
from coffer.archive.copies.target import Target
from coffer.archive.copies.turns import Turn
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.checkpoint import read_note
from tests.archive.conftest import FIRST_MS, SmallArchive

PIECE = 4096


def snapshot_id(number: int) -> str:
    return f"20260101t{number:06d}z-0123456789ab"


class BackedUp:
    """An archive and its shelf at a target."""

    def __init__(self, archive: SmallArchive, target: Target) -> None:
        self.archive = archive
        self.target = target
        self.shelf = Shelf(target, archive.folder.archive_id)
        self.count = 0
        self.last: BackupRun | None = None

    def run(self) -> Snapshot:
        """The next snapshot, an hour after the one before."""
        own = snapshot_id(self.count * 10000)
        self.count += 1
        folder = self.archive.folder
        checkpoint, parts = archive_parts(folder, read_note(folder))
        self.last = BackupRun(folder, self.shelf)
        with Turn(self.shelf, "run", own) as turn:
            made_ms = FIRST_MS + self.count * 3_600_000
            return self.last.make(Request(own, made_ms, checkpoint, parts, piece_bytes=PIECE), turn)

    @property
    def uploaded(self) -> int:
        assert self.last is not None
        return self.last.uploaded

    def restore(self, snapshot: Snapshot, into: Path, until_ms: int | None = None) -> ArchiveFolder:
        work = Restore(self.shelf, snapshot, into)
        work.begin()
        work.fetch()
        return work.finish(until_ms)


@pytest.fixture
def backed(small: SmallArchive) -> BackedUp:
    """An archive of 20 signed records in 7 segments, and a target in memory."""
    small.fill(20, size=3000, segment_bytes=10_000)
    small.checkpoint()
    return BackedUp(small, MemoryTarget())


@pytest.fixture
def memory(backed: BackedUp) -> MemoryTarget:
    assert isinstance(backed.target, MemoryTarget)
    return backed.target


Change = Callable[[bytes], bytes]
