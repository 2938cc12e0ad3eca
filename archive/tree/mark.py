"""The high-water mark: what an archive had reached, kept where whoever can write the archive folder cannot write.

Rule: pure. A mark names only what is durable in the archive, so an archive that has less was rolled back or cut. Its
checksum finds accidents; who may write its place decides what it proves. Format: FORMAT.md, "The mark outside".
"""

from dataclasses import dataclass
from typing import Any, Final, Self

from coffer.archive.store import checksummed_json
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.checkpoint import Checkpoint
from coffer.archive.tree.key_history import read_key_history
from coffer.keys.errors import FormatError, HistoryError

__all__ = ["LONGEST_MARK", "Mark"]

LONGEST_MARK: Final = 4 << 10
_TYPE: Final = "coffer/mark/v1"
_TEXTS: Final = ("type", "archive", "vkey", "root", "origin")
_NUMBERS: Final = ("size", "keyring_generation", "epoch")
_REMEDY: Final = "nothing was changed; coffer recover show lists what is missing and the remedies"


@dataclass(frozen=True, slots=True)
class Mark:
    """The archive's id (16 bytes) and origin, the verifier key that signed last, its last checkpoint's number of
    records and root (32 bytes), the number of the newest entry of the keyring's feed, and the epoch of the log."""

    archive_id: bytes
    origin: str
    vkey: str
    size: int
    root: bytes
    keyring_generation: int
    epoch: int

    @property
    def checkpoint(self) -> Checkpoint:
        """The log that the mark names."""
        return Checkpoint(self.origin, self.size, self.root)

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
            ids = bytes.fromhex(told["archive"]), bytes.fromhex(told["root"])
        except ValueError as error:
            raise FormatError("it is no mark of an archive: an id is missing") from error
        numbers = told["keyring_generation"], told["epoch"]
        mark = cls(ids[0], told["origin"], told["vkey"], told["size"], ids[1], *numbers)
        if len(ids[0]) != 16 or len(ids[1]) != 32 or mark.serialize() != data:
            raise FormatError("it is no mark of an archive: it has another form")
        return mark

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
