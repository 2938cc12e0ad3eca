"""What a snapshot consists of: its segments and other parts, each as a list of pieces (archive/FORMAT-COPIES.md).

Rule: pure codec. A snapshot is believed nothing: pieces prove themselves by their hashes, the log by what is signed.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Self

from coffer.archive.format.extent import END_BYTES
from coffer.archive.store import checksummed_json
from coffer.keys.errors import FormatError

__all__ = [
    "LATEST_MS",
    "PIECE",
    "Blob",
    "Part",
    "SegmentCopy",
    "Snapshot",
    "is_id",
    "made_ms_of",
    "new_id",
]

PIECE: Final = 16 << 20  # bytes: what a target is asked to store at once, and what a broken connection repeats
LATEST_MS: Final = 253_402_300_799_999  # the end of the year 9999: no calendar knows a later one
_TYPE: Final = "coffer/snapshot/v1"
_ID: Final = re.compile(r"[0-9]{8}t[0-9]{6}z-[0-9a-f]{12}")
_PART: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}(/[a-z0-9][a-z0-9._-]{0,63}){0,2}")
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_LARGEST: Final = 1 << 50  # bytes of a segment
_LARGEST_PART: Final = 1 << 30  # a history of five million checkpoints
_MOST_PARTS: Final = 64
_PIECE_SIZES: Final = range(1 << 10, (64 << 20) + 1)


@dataclass(frozen=True, slots=True)
class Blob:
    """So many bytes, as the SHA-256 of each piece, in order; every piece but the last has the snapshot's size."""

    size: int
    pieces: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class SegmentCopy:
    """A segment: its number, its bytes, and the last 44 of them if it has a footer; the last one of a snapshot may have
    none, and ends with the snapshot's last record."""

    number: int
    blob: Blob
    end: bytes


@dataclass(frozen=True, slots=True)
class Part:
    """Anything else: a file of the archive beside its segments, or settings."""

    name: str
    blob: Blob


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The archive (16 bytes of id) as it was at the checkpoint over `size` records with this `root` (32 bytes).

    `made_ms` is the time by the clock of the host that made it; `keyring` whether a copy of the keyring belongs to it;
    `findings` how many findings its verification had: 0 for one that is whole.
    """

    id: str
    archive_id: bytes
    made_ms: int
    size: int
    root: bytes
    keyring: bool
    findings: int
    piece_bytes: int
    segments: tuple[SegmentCopy, ...]
    parts: tuple[Part, ...]

    @property
    def total_bytes(self) -> int:
        """The bytes of all segments and parts."""
        return sum(each.size for each in self.blobs())

    def blobs(self) -> list[Blob]:
        """All that has pieces."""
        return [*(each.blob for each in self.segments), *(each.blob for each in self.parts)]

    def serialize(self) -> bytes:
        """The object's bytes: checksummed JSON."""
        return checksummed_json.serialize(
            {
                "type": _TYPE,
                "id": self.id,
                "archive": self.archive_id.hex(),
                "made_ms": self.made_ms,
                "size": self.size,
                "root": self.root.hex(),
                "keyring": self.keyring,
                "findings": self.findings,
                "piece_bytes": self.piece_bytes,
                "segments": [{**_told(s.blob), "number": s.number, "end": s.end.hex()} for s in self.segments],
                "parts": [{**_told(p.blob), "name": p.name} for p in self.parts],
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Parse what `serialize` wrote. Raises FormatError for anything else."""
        try:
            found = cls._read(checksummed_json.parse(data))
            if found.serialize() == data:
                return found
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise FormatError("it is no snapshot: a member is missing or of another type") from error
        raise FormatError("it is no snapshot: it has another form")

    @classmethod
    def _read(cls, told: Any) -> Self:
        if not isinstance(told, dict) or told["type"] != _TYPE:
            raise FormatError("it is no snapshot")
        piece_bytes = _number(told["piece_bytes"])
        if piece_bytes not in _PIECE_SIZES:
            raise FormatError("it is no snapshot: its pieces have an impossible size")
        segments = tuple(
            SegmentCopy(_number(each["number"]), _blob(each, piece_bytes), bytes.fromhex(each["end"]))
            for each in told["segments"]
        )
        parts = tuple(Part(str(each["name"]), _blob(each, piece_bytes)) for each in told["parts"])
        made = cls(
            str(told["id"]), bytes.fromhex(told["archive"]), _number(told["made_ms"]), _number(told["size"]),
            bytes.fromhex(told["root"]), bool(told["keyring"]), _number(told["findings"]), piece_bytes, segments, parts,
        )  # fmt: skip
        made._require_sound()
        return made

    def _require_sound(self) -> None:
        ends = [len(each.end) for each in self.segments]
        names = [each.name for each in self.parts]
        if (
            not is_id(self.id)
            or self.made_ms > LATEST_MS
            or len(self.archive_id) != 16
            or len(self.root) != 32
            or [each.number for each in self.segments] != list(range(1, len(self.segments) + 1))
            or any(end != END_BYTES for end in ends[:-1])
            or any(end not in {0, END_BYTES} for end in ends[-1:])
            or len(names) > _MOST_PARTS
            or names != sorted(set(names))
            or not all(_PART.fullmatch(name) for name in names)
            or any(each.blob.size > _LARGEST_PART for each in self.parts)
        ):
            raise FormatError("it is no snapshot: its parts contradict each other")


def is_id(text: str) -> bool:
    """Whether a snapshot can have this id."""
    return _ID.fullmatch(text) is not None


def new_id(now: str, random: bytes) -> str:
    """The id of a snapshot that is begun at `now` (`YYYYMMDDThhmmssZ`, UTC), with 6 random bytes."""
    return f"{now.lower()}-{random.hex()}"


def made_ms_of(snapshot_id: str) -> int:
    """The time in an id, in milliseconds since 1970; of an impossible one the time 0."""
    try:
        return int(datetime.strptime(snapshot_id[:16], "%Y%m%dt%H%M%Sz").replace(tzinfo=UTC).timestamp()) * 1000
    except ValueError:
        return 0


def _told(blob: Blob) -> Mapping[str, Any]:
    return {"size": blob.size, "pieces": [piece.hex() for piece in blob.pieces]}


def _blob(told: Any, piece_bytes: int) -> Blob:
    size, pieces = _number(told["size"]), told["pieces"]
    if size > _LARGEST or len(pieces) != -(-size // piece_bytes) or not all(map(_HASH.fullmatch, pieces)):
        raise FormatError("it is no snapshot: pieces are missing")
    return Blob(size, tuple(map(bytes.fromhex, pieces)))


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise FormatError("it is no snapshot: a number is missing")
    return value
