"""Moves on what lies beside the log: checkpoints, their history, endorsements, tiles, and the small files."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.forgery.kit import notes
from tests.forgery.moves.attacked import Attacked, CannotError

Notes = list[bytes]
LATEST, HISTORY, ENDORSEMENTS = "checkpoints/latest", "checkpoints/history", "checkpoints/endorsements"
_COPIES = ("then", "fork", "drill", "other")


def _theirs(at: Attacked, name: str) -> list[Path]:
    """The file in each copy that has it. Raises CannotError."""
    found = [path for path in (at.world.copy(copy) / name for copy in _COPIES) if path.is_file()]
    if not found:
        raise CannotError
    return found


@dataclass(frozen=True, slots=True)
class NotesChanged:
    """Whole notes of the history or the endorsements: dropped, swapped, repeated or another's."""

    file: str
    what: str
    how: str

    @property
    def name(self) -> str:
        return f"{self.what} {self.how}"

    def apply(self, at: Attacked, rng: Random) -> None:
        path, read = at.file(self.file), notes.split if self.file == HISTORY else notes.endorsements
        found = read(path.read_bytes())
        if not found:
            raise CannotError
        first, second = rng.randrange(len(found)), rng.randrange(len(found))
        if self.how == "dropped from the middle":
            if len(found) < 3:
                raise CannotError
            del found[rng.randrange(1, len(found) - 1)]
        elif self.how == "dropped":
            del found[first]
        elif self.how == "swapped":
            found[first], found[second] = found[second], found[first]
        elif self.how == "repeated":
            found.insert(second, found[first])
        else:
            found.insert(second, rng.choice(read(rng.choice(_theirs(at, self.file)).read_bytes())))
        path.write_bytes(b"".join(found))


@dataclass(frozen=True, slots=True)
class FileChanged:
    """A whole file: removed, that of a copy, cut, or with another byte."""

    file: str
    what: str
    how: str

    @property
    def name(self) -> str:
        return f"{self.what} {self.how}"

    def apply(self, at: Attacked, rng: Random) -> None:
        path = at.file(self.file)
        data = bytearray(path.read_bytes())
        if self.how == "removed":
            path.unlink()
            return
        if self.how == "of a copy":
            data = bytearray(rng.choice(_theirs(at, self.file)).read_bytes())
        elif self.how == "cut":
            del data[rng.randrange(len(data) or 1) :]
        elif data:
            data[rng.randrange(len(data))] ^= rng.randrange(1, 256)
        path.write_bytes(data)


@dataclass(frozen=True, slots=True)
class LatestOlder:
    """`latest` is an older note; the history ends with it, or not."""

    name: str = "an older checkpoint as the latest"

    def apply(self, at: Attacked, rng: Random) -> None:
        history = notes.split(at.file(HISTORY).read_bytes())
        if len(history) < 2:
            raise CannotError
        place = rng.randrange(len(history) - 1)
        at.file(LATEST).write_bytes(history[place])
        if rng.random() < 0.5:
            at.file(HISTORY).write_bytes(b"".join(history[: place + 1]))


@dataclass(frozen=True, slots=True)
class LatestLastButOne:
    """`latest` is the checkpoint before the last one, which stays in the history."""

    name: str = "the last but one checkpoint as the latest"

    def apply(self, at: Attacked, rng: Random) -> None:
        history = notes.split(at.file(HISTORY).read_bytes())
        if len(history) < 2:
            raise CannotError
        at.file(LATEST).write_bytes(history[-2])


@dataclass(frozen=True, slots=True)
class About:
    """A field of archive.json, in its one valid form: the id, the name or the verifier key of another archive."""

    key: str

    @property
    def name(self) -> str:
        return f"{self.key} of archive.json that of another archive"

    def apply(self, at: Attacked, rng: Random) -> None:
        path = at.file("archive.json")
        try:
            mine = json.loads(path.read_bytes())
        except ValueError:
            raise CannotError from None
        mine[self.key] = json.loads((at.world.copy("other") / "archive.json").read_bytes())[self.key]
        path.write_text(json.dumps(mine, indent=1) + "\n", encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Tiles:
    """The tiles: one altered or removed, all removed, or those of a copy."""

    how: str

    @property
    def name(self) -> str:
        return f"tiles {self.how}"

    def apply(self, at: Attacked, rng: Random) -> None:
        found = sorted(path for path in (at.path / "tiles").rglob("*") if path.is_file())
        if not found:
            raise CannotError
        path = rng.choice(found)
        if self.how == "removed":
            path.unlink()
        elif self.how == "altered":
            data = bytearray(path.read_bytes())
            place = rng.randrange(len(data))
            data[place] ^= rng.randrange(1, 256)
            path.write_bytes(data)
        else:
            shutil.rmtree(at.path / "tiles")
            shutil.copytree(at.world.copy(rng.choice(("fork", "drill", "other"))) / "tiles", at.path / "tiles")


@dataclass(frozen=True, slots=True)
class Planted:
    """A file that was not there, in a form that Coffer might have written."""

    what: str
    path: str
    data: Callable[[Attacked, Random], bytes]

    @property
    def name(self) -> str:
        return f"{self.what} planted"

    def apply(self, at: Attacked, rng: Random) -> None:
        path = at.path / self.path
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(self.data(at, rng))


def checksummed(value: object) -> bytes:
    """Checksummed JSON, as FORMAT.md has it."""
    text = (json.dumps(value, indent=1) + "\n").encode()
    return text + hashlib.sha256(text).hexdigest().encode() + b"\n"


def _noise(_: Attacked, rng: Random) -> bytes:
    return rng.randbytes(200)


def _repair(_: Attacked, _rng: Random) -> bytes:
    """A repair that never was: that its proof holds, anybody can arrange."""
    repaired = {"code": "segment.repaired", "kept": None, "segment": 1, "taken_records": [0], "v": 1}
    return checksummed([{"event": repaired, "proof": "segment:1:", "signature": ""}])


def _recovery(at: Attacked, rng: Random) -> bytes:
    """An accepted loss that never was, of which only the signature is missing or wrong."""
    latest = at.file(LATEST).read_bytes()
    size, root = notes.stated(latest)
    head = {"records": size, "root": root.hex()}
    heads = dict.fromkeys(("found", "left", "remembered", "signed"), head)
    lost = {"code": "loss.accepted", "contradiction": "", "v": 1} | heads
    proof = f"note:{hashlib.sha256(latest).hexdigest()}"
    signature = rng.choice([b"", rng.randbytes(64)])
    return checksummed([{"event": lost, "proof": proof, "signature": signature.hex()}])


def _place(_: Attacked, rng: Random) -> bytes:
    values = {
        "segment": 2, "offset": 0, "size": 3, "head": "11" * 32, "edge": ["22" * 32, "33" * 32], "is_whole": True,
        "passes": rng.randrange(9), "verified": {"1": 1 << 41},
    }  # fmt: skip
    return checksummed(values)


_FILES = ((LATEST, "the latest checkpoint"), (HISTORY, "the history"), (ENDORSEMENTS, "the endorsements"),
          ("archive.json", "archive.json"), ("scrub/place.json", "the scrub's place"))  # fmt: skip
_NOTES = ("dropped", "dropped from the middle", "swapped", "repeated", "foreign")
MOVES = (
    *(FileChanged(file, what, how) for file, what in _FILES for how in ("removed", "of a copy", "cut", "altered")),
    *(NotesChanged(HISTORY, "a note of the history", how) for how in _NOTES),
    *(NotesChanged(ENDORSEMENTS, "an endorsement", how) for how in ("dropped", "repeated", "foreign")),
    LatestOlder(), LatestLastButOne(),
    *(About(key) for key in ("archive_id", "origin", "vkey")),
    *(Tiles(how) for how in ("removed", "altered", "of a copy")),
    Planted("what was set aside", "lost+found/00000001.seg-damaged-0123456789abcdef", _noise),
    Planted("a spool file", "spool/0123456789abcdef.spool", _noise),
    Planted("a segment that was not installed", "segments/.00000001.seg.new", _noise),
    Planted("the scrub's place", "scrub/place.json", _place),
    Planted("a repair that was not made", "pending.json", _repair),
    Planted("a recovery that was not made", "pending.json", _recovery),
    Planted("a strange file", "segments/readme.txt", _noise),
)  # fmt: skip
