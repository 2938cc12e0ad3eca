"""Write the tree's tiles before a checkpoint is signed, and verify that it extends the last one.

Rule: what is signed was read back from the log and yields two roots: that of the last signed checkpoint, and that of
all records so far. Tiles are durable before the checkpoint that covers them; appending a record does nothing here.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from coffer.archive.format.merkle import Frontier
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.in_the_way import writing
from coffer.archive.tree.checkpoint import Checkpoint
from coffer.archive.tree.leaves import Leaves
from coffer.archive.tree.proof import root
from coffer.archive.tree.tiles import (
    ALL_LEVELS,
    HASH_BYTES,
    HEIGHT,
    MOST_DEEP,
    Tiles,
    top,
)
from coffer.keys.disk import opening
from coffer.keys.disk.durable import discard, discard_folder, make_folders, replace
from coffer.keys.disk.syscalls import SYSTEM, Syscalls
from coffer.keys.errors import HistoryError, IntegrityError, UnavailableError


class TileWriter:
    """The tiles of an archive, for its one writer. Not thread-safe."""

    def __init__(self, folder: ArchiveFolder, calls: Syscalls = SYSTEM) -> None:
        self._folder = folder
        self._calls = calls
        self._leaves = Leaves(folder)
        self._is_tidy = False
        self._made: set[Path] = set()  # folders that exist

    def extend(self, old: Checkpoint, new: Checkpoint) -> None:
        """Write the tiles of `new`, durable on return, and verify against the log that `new` extends `old`.

        Missing tiles are made; if the tiles do not yield the root of `old`, all of them are made again. Raises
        HistoryError if the log is not what was signed, IntegrityError if it cannot be read back; then nothing may be
        signed.
        """
        # This order reads the log only forwards, from where the last call ended.
        if root(old.size, self._view(old.size).at) == old.root:
            self._write(new.size, old.size)
            if root(new.size, self._view(new.size).at) == new.root:
                return
        self._require_log(old, new)
        self._rebuild(new.size)

    def tidy(self, old: Checkpoint, new: Checkpoint) -> None:
        """Remove the partial tiles that those of `new` replace; the first call also removes leftovers of crashes."""
        wanted = set(_edge(self._view(new.size)))
        stale = list(_edge(self._view(old.size)) if self._is_tidy else _leftovers(self._folder.tiles))
        self._is_tidy = True
        for path in stale:
            if path not in wanted:
                discard(path, calls=self._calls)
                if path.parent.suffix == ".p" and not _names(path.parent):
                    discard_folder(path.parent, calls=self._calls)
                    self._made.discard(path.parent)

    def _view(self, size: int, distrust: int = ALL_LEVELS) -> Tiles:
        return Tiles(self._folder, size, leaves=self._leaves, distrust=distrust)

    def _write(self, size: int, old: int) -> None:
        view = self._view(size)
        for level in view.levels():
            for number in view.numbers(level, old if self._is_tidy else 0):
                path = view.path(level, number)
                if _has(path, view.width(level, number)):
                    continue
                data = view.tile(level, number)
                was_whole = number < old >> HEIGHT * (level + 1)
                if was_whole and top(data) != view.at(HEIGHT * (level + 1), number):
                    continue  # the log is damaged here, which verify reports: no tile is better than a wrong one
                self._put(path, data)

    def _rebuild(self, size: int) -> None:
        for level in self._view(size).levels():
            view = self._view(size, distrust=level)
            for number in view.numbers(level):
                self._put(view.path(level, number), view.tile(level, number))

    def _put(self, path: Path, data: bytes) -> None:
        try:
            with writing(self._folder, path):
                if path.parent not in self._made:
                    make_folders(path.parent, self._folder.path, calls=self._calls)
                    self._made.add(path.parent)
                replace(path, data, calls=self._calls)
        except UnavailableError:
            self._made.clear()  # somebody may have moved a folder away, with what was in its place
            raise

    def _require_log(self, old: Checkpoint, new: Checkpoint) -> None:
        """Check every record header in the segments against both roots."""
        leaves, tree = Leaves(self._folder), Frontier()
        for claim in (old, new):
            leaves.grow(tree, claim.size)
            if tree.root() != claim.root:
                was = "were signed" if claim is old else "this server has written"
                raise HistoryError(
                    f"the first {claim.size} records are not those that {was}",
                    hint="nothing was signed; run coffer verify, then coffer recover show for the remedies",
                )


def _has(path: Path, width: int) -> bool:
    try:
        return opening.size(path) == width * HASH_BYTES
    except (FileNotFoundError, NotADirectoryError, IntegrityError):
        return False


def _names(folder: Path) -> list[str]:
    try:
        return opening.names(folder)
    except (FileNotFoundError, IntegrityError):
        return []


def _edge(view: Tiles) -> Iterator[Path]:
    """The partial tiles of a tree: at most one at each level."""
    for level in view.levels():
        for number in view.numbers(level, view.size):
            yield view.path(level, number)


def _leftovers(tiles: Path) -> Iterator[Path]:
    """Every partial tile there is, and every file that an interrupted write left."""
    if not opening.is_folder(tiles):
        return
    below = [tiles]
    for folder in below:  # grows while it is iterated
        try:
            with os.scandir(folder) as entries:
                found = list(entries)
        except OSError:
            continue
        is_last = len(folder.relative_to(tiles.parent).parts) >= MOST_DEEP
        for entry in found:
            if not entry.is_dir(follow_symlinks=False):
                if folder.suffix == ".p" or entry.name.endswith(".new"):
                    yield Path(entry.path)
            elif not is_last:
                below.append(Path(entry.path))
