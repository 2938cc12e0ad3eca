"""The high-water mark: what an archive had reached, kept where whoever can write the archive folder cannot write.

Rule: pure. A mark names only what is durable in the archive, so an archive that has less was rolled back or cut. Its
checksum finds accidents; who may write its place decides what it proves. Format: FORMAT.md, "The mark outside".
"""

from dataclasses import dataclass
from typing import Any, Final, Self

from coffer.archive.format.group import LINEAGE_BYTES, lineage_of
from coffer.archive.store import checksummed_json
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.checkpoint import Checkpoint
from coffer.archive.tree.key_history import KeyHistory, read_key_history
from coffer.keys.errors import FormatError, HistoryError

__all__ = ["LONGEST_MARK", "Mark", "foreign"]

LONGEST_MARK: Final = 4 << 10
_TYPE: Final = "coffer/mark/v2"
_TEXTS: Final = ("type", "archive", "vkey", "root", "origin", "lineage")
_NUMBERS: Final = ("size", "keyring_generation", "epoch")
_REMEDY: Final = "nothing was changed; coffer recover show lists what is missing and the remedies"


def foreign(keys: KeyHistory) -> HistoryError:
    """That the last endorsement of an archive does not come from its own writer."""
    return HistoryError(
        f"checkpoints/endorsements ends with signing key {len(keys.vkeys)}, which the archive's keyring does not have: "
        "it comes from a copy of the archive, or the keyring from before a rotation",
        hint=_REMEDY,
    )


@dataclass(frozen=True, slots=True)
class Mark:
    """The archive's id (16 bytes) and origin, the verifier key that signed last, its last checkpoint's number of
    records and root (32 bytes), the number of the newest entry of the keyring's feed, the epoch of the log, and the
    lineage (16 bytes) that every group behind those records has in its tag."""

    archive_id: bytes
    origin: str
    vkey: str
    size: int
    root: bytes
    keyring_generation: int
    epoch: int
    lineage: bytes

    @property
    def checkpoint(self) -> Checkpoint:
        """The log that the mark names."""
        return Checkpoint(self.origin, self.size, self.root)

    def is_of_another(self, size: int, tag: bytes) -> bool:
        """Whether a log of so many records, whose last group has this tag (verified), was continued by another writer
        than those that raised this mark: by one that opened a copy of the archive."""
        return size > self.size and lineage_of(tag) != self.lineage

    def serialize(self) -> bytes:
        """The file's bytes."""
        return checksummed_json.serialize(
            {
                "type": _TYPE,
                "archive": self.archive_id.hex(),
                "origin": self.origin,
                "vkey": self.vkey,
                "size": self.size,
                "root": self.root.hex(),
                "keyring_generation": self.keyring_generation,
                "epoch": self.epoch,
                "lineage": self.lineage.hex(),
            }
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Parse what `serialize` wrote. Raises FormatError for anything else."""
        told: Any = checksummed_json.parse(data)
        if not isinstance(told, dict) or set(told) != {*_TEXTS, *_NUMBERS} or told["type"] != _TYPE:
            raise FormatError("it is no mark of an archive")
        if not all(isinstance(told[name], str) for name in _TEXTS):
            raise FormatError("it is no mark of an archive: a text is missing")
        if not all(type(told[name]) is int and 0 <= told[name] < 1 << 64 for name in _NUMBERS):
            raise FormatError("it is no mark of an archive: a number is missing")
        try:
            ids = [bytes.fromhex(told[name]) for name in ("archive", "root", "lineage")]
        except ValueError as error:
            raise FormatError("it is no mark of an archive: an id is missing") from error
        numbers = told["keyring_generation"], told["epoch"]
        mark = cls(ids[0], told["origin"], told["vkey"], told["size"], ids[1], *numbers, ids[2])
        if [len(each) for each in ids] != [16, 32, LINEAGE_BYTES] or mark.serialize() != data:
            raise FormatError("it is no mark of an archive: it has another form")
        return mark

    def foreign_successor(self, keys: KeyHistory, *, is_rotating: bool) -> HistoryError | None:
        """A contradiction if the archive names a newer signing key than this mark, unless `is_rotating`: its keyring
        has a rotation under way. The mark names a key before that ends, so read `keys` first, and the mark last."""
        if is_rotating or self.vkey not in keys.vkeys or keys.current == self.vkey:
            return None
        return foreign(keys)

    def objection(self, folder: ArchiveFolder, keyring_generation: int | None = None) -> HistoryError | None:
        """How an archive contradicts this mark beside what its log holds, or None: its keys do not include the mark's,
        or its keyring is older. Raises IntegrityError for endorsements that cannot be read."""
        if self.vkey not in read_key_history(folder).vkeys:
            return HistoryError(
                f"the mark outside the folder names the verifier key {self.vkey}, which is none of this archive's",
                hint=_REMEDY,
            )
        if keyring_generation is not None and keyring_generation < self.keyring_generation:
            return HistoryError(
                f"the keyring is older than the mark outside the folder: it is at change {keyring_generation}, "
                f"the mark names {self.keyring_generation}",
                hint=_REMEDY,
            )
        return None
