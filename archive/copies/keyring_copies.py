"""Copies of the keyring at a target of their own: opaque bytes in pieces, and a list that makes them count.

Rule: each copy has its own objects and shares none, so that what is removed is gone. It unwraps and opens nothing.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self

from coffer.archive.copies.shelf import Shelf
from coffer.archive.copies.snapshot import LATEST_MS, PIECE, is_id, made_ms_of
from coffer.archive.store import checksummed_json
from coffer.keys.errors import FormatError, IntegrityError, NotFoundError

__all__ = ["KeyringCopies", "KeyringCopy", "KeysHeld"]

_TYPE: Final = "coffer/keyring-copy/v1"
_LONGEST: Final = 16 << 20
_END: Final = ".json"
_MOST_RECIPIENTS: Final = 16


class KeysHeld(NamedTuple):
    """Which keys a copy has: those of the first `records` records; its newest epoch, and the newest entry of its feed
    (keys/FORMAT.md)."""

    records: int
    epoch: int
    feed: int


@dataclass(frozen=True, slots=True)
class KeyringCopy:
    """A copy of the keyring: the id of the snapshot it was made with, the archive (16 bytes of id), the time by the
    host's clock, how many records it has all keys of, the newest epoch and the newest entry of the
    feed (keys/FORMAT.md) that it has, the ids of the recipients it is sealed to (none: its keys are
    wrapped by the provider only), its size, and the SHA-256 of each piece."""

    id: str
    archive_id: bytes
    made_ms: int
    records: int
    epoch: int
    feed: int
    recipients: tuple[str, ...]
    size: int
    pieces: tuple[bytes, ...]

    @property
    def held(self) -> KeysHeld:
        """Which keys it has."""
        return KeysHeld(self.records, self.epoch, self.feed)

    def serialize(self) -> bytes:
        """The object's bytes: checksummed JSON."""
        return checksummed_json.serialize(
            {
                "type": _TYPE,
                "id": self.id,
                "archive": self.archive_id.hex(),
                "made_ms": self.made_ms,
                "records": self.records,
                "epoch": self.epoch,
                "feed": self.feed,
                "recipients": list(self.recipients),
                "size": self.size,
                "pieces": [each.hex() for each in self.pieces],
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Parse what `serialize` wrote. Raises FormatError for anything else."""
        told: Any = checksummed_json.parse(data)
        try:
            made = cls(
                told["id"], bytes.fromhex(told["archive"]), told["made_ms"],
                told["records"], told["epoch"], told["feed"], tuple(told["recipients"]),
                told["size"], tuple(map(bytes.fromhex, told["pieces"])),
            )  # fmt: skip
            is_sound = (
                told["type"] == _TYPE
                and is_id(made.id)
                and len(made.archive_id) == 16
                and made.made_ms <= LATEST_MS
                and all(type(n) is int and 0 <= n < 1 << 63 for n in (made.made_ms, *made.held, made.size))
                and len(made.pieces) == -(-made.size // PIECE)
                and all(len(each) == 32 for each in made.pieces)
                and len(made.recipients) <= _MOST_RECIPIENTS
                and all(len(bytes.fromhex(each)) == 8 for each in made.recipients)
            )
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError("it is no copy of a keyring: a member is missing or of another type") from error
        if not is_sound or made.serialize() != data:
            raise FormatError("it is no copy of a keyring: it has another form")
        return made


@dataclass(frozen=True, slots=True)
class KeyringCopies:
    """The copies of one archive's keyring at a target."""

    shelf: Shelf

    def put(
        self, snapshot_id: str, made_ms: int, held: KeysHeld, recipients: tuple[str, ...], data: Iterable[bytes]
    ) -> KeyringCopy:
        """Store a copy, read it back, and then the list that makes it count; durable on return. Raises as the target,
        IntegrityError if it does not return what was stored."""
        pieces, size = [], 0
        for number, piece in enumerate(_resized(data)):
            self.shelf.target.put(self._piece(snapshot_id, number), piece)
            pieces.append(hashlib.sha256(piece).digest())
            size += len(piece)
        made = KeyringCopy(snapshot_id, self.shelf.archive_id, made_ms, *held, recipients, size, tuple(pieces))
        for _ in self.read(made):
            pass
        self.shelf.target.put(self._list(snapshot_id), made.serialize())
        return made

    def ids(self) -> list[str]:
        """The ids of all copies, oldest first."""
        names = [each.name.rpartition("/")[2] for each in self.shelf.target.list(self.shelf.under("keyrings/"))]
        return sorted(name[: -len(_END)] for name in names if name.endswith(_END) and is_id(name[: -len(_END)]))

    def begun(self) -> list[tuple[str, int]]:
        """Every copy of which any object is there, complete or not: its id, and the time in it (ms since 1970)."""
        pieces = self.shelf.target.list(self.shelf.under("keyring-pieces/"))
        ids = {name for each in pieces if is_id(name := each.name.split("/")[2])} | set(self.ids())
        return [(each, made_ms_of(each)) for each in sorted(ids)]

    def find(self, snapshot_id: str) -> KeyringCopy:
        """One copy. Raises NotFoundError, IntegrityError if what lies there is none, or another one."""
        try:
            made = KeyringCopy.parse(self.shelf.target.get(self._list(snapshot_id), _LONGEST))
        except NotFoundError as error:
            raise NotFoundError(
                f"there is no copy of the keyring of {snapshot_id} at {self.shelf.target.name}",
                hint="coffer backup list --keys TARGET shows them",
            ) from error
        if (made.id, made.archive_id) != (snapshot_id, self.shelf.archive_id):
            raise IntegrityError(f"the copy of the keyring of {snapshot_id} is another one under its name")
        return made

    def usable(self) -> list[KeyringCopy]:
        """The copies whose lists can be read, oldest first."""
        found = []
        for each in self.ids():
            try:
                found.append(self.find(each))
            except (IntegrityError, NotFoundError):
                continue
        return found

    def read(self, copy: KeyringCopy) -> Iterator[bytes]:
        """The bytes of a copy, each piece compared with its hash. Raises NotFoundError, IntegrityError."""
        for number, sha256 in enumerate(copy.pieces):
            size = min(PIECE, copy.size - number * PIECE)
            data = self.shelf.target.get(self._piece(copy.id, number), size)
            if len(data) != size or hashlib.sha256(data).digest() != sha256:
                raise IntegrityError(
                    f"the copy of the keyring of {copy.id} at {self.shelf.target.name} is not what was stored there",
                    hint="take another copy: coffer backup list --keys TARGET",
                )
            yield data

    def remove(self, snapshot_id: str) -> None:
        """Remove a copy, its pieces first and its list last, so that an interrupted removal is still listed as a copy;
        durable on return. Raises UnavailableError if the target still keeps it."""
        for each in self.shelf.target.list(self.shelf.under(f"keyring-pieces/{snapshot_id}/")):
            self.shelf.target.remove(each.name)
        self.shelf.target.remove(self._list(snapshot_id))

    def _piece(self, snapshot_id: str, number: int) -> str:
        return self.shelf.under(f"keyring-pieces/{snapshot_id}/{number:08d}")

    def _list(self, snapshot_id: str) -> str:
        return self.shelf.under(f"keyrings/{snapshot_id}{_END}")


def _resized(data: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of the format's size, the last one shorter."""
    held = bytearray()
    for each in data:
        held += each
        while len(held) >= PIECE:
            yield bytes(held[:PIECE])
            del held[:PIECE]
    if held:
        yield bytes(held)
