"""The archive folder in the hands of somebody without a key, and the copies of it and of another that he kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Protocol

from tests.forgery.kit import notes, tree
from tests.forgery.kit.segments import Segment, chained, leaves_of, parse, serialized
from tests.forgery.state import INDEX, KEYRING
from tests.forgery.world import World
from tests.keyless import change, rows_of


class CannotError(Exception):
    """There is nothing here that this could be done to."""


class Move(Protocol):
    """One change of the folder, with whatever chance decides drawn from `rng`. Raises CannotError."""

    @property
    def name(self) -> str: ...

    def apply(self, at: Attacked, rng: Random) -> None: ...


@dataclass(slots=True)
class Attacked:
    """The live folder. `damaged` are files of LMDB whose rows can no longer be changed."""

    world: World
    damaged: set[str] = field(default_factory=set)
    done: list[str] = field(default_factory=list)

    @property
    def path(self) -> Path:
        return self.world.live

    def file(self, name: str) -> Path:
        """A file that is there. Raises CannotError if it is not."""
        path = self.path / name
        if not path.is_file():
            raise CannotError
        return path

    def segment_files(self) -> list[Path]:
        """The segments, in order."""
        return segment_files(self.path)

    def log(self) -> list[Segment]:
        """The segments, taken apart."""
        return log_in(self.path)

    def archive_id(self) -> bytes:
        return archive_id_in(self.path)

    def write_log(self, log: Sequence[Segment], *, chain: bool = True, launder: bool = False) -> None:
        """Put this log in the place of the one that is there, with true tiles.

        `chain`: make its numbers, chain and footers true first. `launder`: checkpoints and the keyring's copy go back
        to the newest ones that it does not contradict.
        """
        log = chained(log, self.archive_id()) if chain else list(log)
        for path in self.segment_files():
            path.unlink()
        (self.path / "segments").mkdir(exist_ok=True)
        for number, data in enumerate(serialized(log), 1):
            (self.path / "segments" / f"{number:08}.seg").write_bytes(data)
        leaves = leaves_of(log)
        if launder:
            self._launder(leaves)
        size = notes.stated(self.file("checkpoints/latest").read_bytes())[0]
        shutil.rmtree(self.path / "tiles", ignore_errors=True)
        for name, data in tree.tiles(leaves[: min(size, len(leaves))]).items():
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            (self.path / name).write_bytes(data)

    def _launder(self, leaves: Sequence[bytes]) -> None:
        """Keep only what was signed of these records: by this archive, or by a copy of it."""
        folders = [self.path, self.world.copy("fork"), self.world.copy("drill")]
        histories = [notes.split((folder / "checkpoints/history").read_bytes()) for folder in folders]
        best: list[bytes] = []
        for history in histories:
            fitting = [note for note in history if _holds(note, leaves)]
            best = max(best, fitting, key=lambda kept: notes.stated(kept[-1])[0] if kept else -1)
        if not best:
            raise CannotError
        (self.path / "checkpoints/history").write_bytes(b"".join(best))
        (self.path / "checkpoints/latest").write_bytes(best[-1])
        if KEYRING not in self.damaged and (self.path / KEYRING).is_file():
            change(self.path / "keyring", {b"W": best[-1]})

    def rows(self) -> dict[bytes, bytes]:
        """The rows of the keyring. Raises CannotError if there are none that can be read."""
        if KEYRING in self.damaged or not (self.path / KEYRING).is_file():
            raise CannotError
        return rows_of(self.path / "keyring")

    def index(self) -> Path:
        """The folder of the index. Raises CannotError if it is not there, or cannot be read."""
        if INDEX in self.damaged or not (self.path / INDEX).is_file():
            raise CannotError
        return self.path / "index"


def segment_files(folder: Path) -> list[Path]:
    """The segments of any archive folder."""
    return sorted((folder / "segments").glob("[0-9]*.seg"))


def log_in(folder: Path) -> list[Segment]:
    """The segments of any archive folder, taken apart."""
    return [parse(path.read_bytes()) for path in segment_files(folder)]


def archive_id_in(folder: Path) -> bytes:
    """The id in `archive.json`, or that of the first segment. Raises CannotError."""
    try:
        return bytes.fromhex(json.loads((folder / "archive.json").read_bytes())["archive_id"])
    except (OSError, ValueError, KeyError):
        raise CannotError from None


def _holds(note: bytes, leaves: Sequence[bytes]) -> bool:
    size, root = notes.stated(note)
    return size <= len(leaves) and tree.root(leaves[:size]) == root
