"""The archive folder: its layout, and the small file that identifies the archive.

Rule: `archive.json` is written once, durably, as the last step of creation: a folder that has it is a complete archive.
It holds nothing secret: the id, the origin, and the public key that signed checkpoints are verified with.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from coffer.archive.store.folder_segments import FolderSegments
from coffer.archive.store.segment_files import SegmentFiles
from coffer.archive.store.segment_store import SegmentStore
from coffer.keys.crypto import signing
from coffer.keys.disk import opening
from coffer.keys.disk.durable import make_folder, resync, write_new
from coffer.keys.disk.syscalls import SYSTEM, Syscalls
from coffer.keys.errors import ConfigError, FormatError, IntegrityError, NotFoundError

FORMAT_VERSION = 3
_NAME = "archive.json"
_LONGEST = 4 << 10
REPLACE: Final = (
    f"put {_NAME} back from any copy of this archive, a backup or replica of whatever age: it never changes. "
    "Without a copy: docs/integrity.md, archive.json is missing"
)
_PARTS = ("segments", "checkpoints", "tiles", "keyring", "index", "spool", "scrub", "lost+found")


@dataclass(frozen=True, slots=True)
class ArchiveFolder:
    """One archive on disk. `origin` names its log in checkpoints; `vkey` is the C2SP verifier key of its first signer,
    from which endorsements lead to the others (`archive.tree.key_history`). Nothing in the folder is trusted:
    everything is opened through `keys.disk.opening`. `held_in` is where its segments lie; None: in the folder, too."""

    path: Path
    archive_id: bytes
    origin: str
    vkey: str
    held_in: SegmentStore | None = None

    def __post_init__(self) -> None:
        opening.distrust(self.path)

    @property
    def segments(self) -> Path:
        """The folder of the log's segments."""
        return self.path / "segments"

    @property
    def segment_files(self) -> SegmentFiles:
        """The files in that folder: for the writer, which begins and continues them."""
        return SegmentFiles(self.segments, self.lost_and_found)

    def segment_store(self, calls: Syscalls = SYSTEM) -> SegmentStore:
        """The segments, to be read, replaced and set aside; `calls` are those of a folder."""
        return FolderSegments(self.segment_files, calls) if self.held_in is None else self.held_in

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints and endorsements."""
        return self.path / "checkpoints"

    @property
    def checkpoint(self) -> Path:
        """The file of the latest signed checkpoint."""
        return self.path / "checkpoints" / "latest"

    @property
    def checkpoint_history(self) -> Path:
        """The file of all checkpoints that were ever signed."""
        return self.path / "checkpoints" / "history"

    @property
    def endorsements(self) -> Path:
        """The file of endorsements that lead from the first signing key to the current one."""
        return self.path / "checkpoints" / "endorsements"

    @property
    def tiles(self) -> Path:
        """The folder that C2SP tlog-tiles calls the prefix: below it, `tile/<level>/...`."""
        return self.path / "tiles"

    @property
    def keyring(self) -> Path:
        """The folder of the keyring's database."""
        return self.path / "keyring"

    @property
    def index(self) -> Path:
        """The folder of the index."""
        return self.path / "index"

    @property
    def spool(self) -> Path:
        """The folder of large objects that are being received."""
        return self.path / "spool"

    @property
    def scrub(self) -> Path:
        """The folder of the scrub's position and findings."""
        return self.path / "scrub"

    @property
    def lost_and_found(self) -> Path:
        """The folder of what recovery and repair set aside."""
        return self.path / "lost+found"

    @property
    def lock(self) -> Path:
        """The file of the writer's lock."""
        return self.path / "LOCK"

    @staticmethod
    def prepare(path: Path) -> None:
        """Make the empty folders, durable on return. Raises ConfigError if an archive exists there already,
        NotFoundError if it is one without its archive.json."""
        opening.distrust(path)
        if opening.exists(path / _NAME):
            raise ConfigError(f"{path} already holds an archive", hint="open it, or choose another folder")
        make_folder(path)
        ArchiveFolder.make_parts(path)
        if has_segments(path):
            raise ArchiveFolder.missing(path)

    @staticmethod
    def make_parts(path: Path) -> None:
        """Make the empty folders in a folder that exists, durable on return; those that are there stay."""
        for part in _PARTS:
            make_folder(path / part)

    def complete(self, calls: Syscalls = SYSTEM, *, but: str = "") -> None:
        """Make the folders that a copy may have left out because they were empty, and make durable what an interrupted
        creation left: folder names and archive.json. Only the writer may call this. Raises IntegrityError if a link, or
        anything else but a folder, is in the place of one of them. The caller deals with what is in the place of
        `but`."""
        for part in (part for part in _PARTS if part != but):
            try:
                opening.require_folder(self.path / part)
            except FileNotFoundError:
                make_folder(self.path / part, calls=calls)
            except IntegrityError as error:
                raise IntegrityError(
                    str(error),
                    hint=f"move it away and put the folder back; to keep the folder elsewhere, mount it at "
                    f"{self.path / part} instead of linking it",
                ) from error
        resync(self.path / _NAME, calls=calls)

    def commit(self, calls: Syscalls = SYSTEM) -> None:
        """Write archive.json, which makes the folder an archive. Durable on return."""
        write_new(self.path / _NAME, self._serialize(), calls=calls)

    def _serialize(self) -> bytes:
        text = json.dumps(
            {"format": FORMAT_VERSION, "archive_id": self.archive_id.hex(), "origin": self.origin, "vkey": self.vkey},
            indent=1,
        )
        return text.encode() + b"\n"

    def complaint(self) -> str | None:
        """What is wrong with an archive.json that can be parsed, or None: it must be canonical, byte for byte."""
        return None if opening.read(self.path / _NAME, _LONGEST) == self._serialize() else f"{_NAME} was altered"

    @staticmethod
    def missing(path: Path) -> NotFoundError:
        """The error for a folder without archive.json. Where there are segments it offers no new archive: that would
        take the place of the old one."""
        if has_segments(path):
            return NotFoundError(f"{path} holds an archive, and its {_NAME} is missing", hint=REPLACE)
        return NotFoundError(f"{path} holds no archive", hint="create one with: coffer init")

    @classmethod
    def open(cls, path: Path) -> "ArchiveFolder":
        """The archive in `path`. Raises NotFoundError if there is none, FormatError if archive.json cannot be parsed,
        IntegrityError if that is a link, not a file, or larger than any that Coffer writes."""
        opening.distrust(path)
        try:
            fields = json.loads(opening.read(path / _NAME, _LONGEST))
            version, archive_id = fields["format"], bytes.fromhex(fields["archive_id"])
            opened = cls(path, archive_id, str(fields["origin"]), str(fields["vkey"]))
            signing.require_vkey(opened.vkey)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise cls.missing(path) from error
        except PermissionError as error:
            raise ConfigError(
                f"{path / _NAME} cannot be opened: {error.strerror}",
                hint="run the command as the account that runs Coffer, or let this one read the folder",
            ) from error
        except (ValueError, KeyError, TypeError, RecursionError, FormatError) as error:
            raise FormatError(f"{path / _NAME} is damaged", hint=REPLACE) from error
        if type(version) is not int or version != FORMAT_VERSION or len(archive_id) != 16:
            raise FormatError(
                f"{path} has archive format {version!r:.40}, and this Coffer has format {FORMAT_VERSION}",
                hint="open it with the Coffer that made it: its coffer get writes files that coffer put takes here",
            )
        if not (opened.origin.isprintable() and opened.vkey.isprintable()):
            raise FormatError(f"{path / _NAME} is damaged", hint=REPLACE)
        return opened


def has_segments(path: Path) -> bool:
    """Whether a folder holds a log, and so an archive that may have lost its archive.json."""
    try:
        return bool(opening.names(path / "segments"))
    except (OSError, IntegrityError):
        return False
