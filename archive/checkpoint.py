"""The text that a checkpoint signs: origin, number of records, root of the tree (C2SP tlog-checkpoint).

Rule: pure. Signing and checking the signature is `keys.signing`; a text parses only if it is the one form.
"""

import base64
import binascii
from dataclasses import dataclass

from archive.folder import ArchiveFolder
from archive.merkle import EMPTY_ROOT
from keys.errors import FormatError
from keys.signing import verify_note


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A claim about the log: its first `size` records have the RFC 6962 tree head `root` (32 bytes)."""

    origin: str
    size: int
    root: bytes

    def serialize(self) -> bytes:
        """The three lines that are signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n".encode()


def parse_checkpoint(body: bytes) -> Checkpoint:
    """Parse a checkpoint's text. Raises FormatError on anything `serialize` would not have written."""
    try:
        origin, size, root, end = body.decode().split("\n")
        parsed = Checkpoint(origin, int(size), base64.b64decode(root, validate=True))
    except (UnicodeDecodeError, ValueError, binascii.Error) as error:
        raise FormatError("the checkpoint cannot be read") from error
    if end or len(parsed.root) != 32 or not origin or parsed.serialize() != body:
        raise FormatError("the checkpoint is not in its one form")
    return parsed


def read_checkpoint(folder: ArchiveFolder) -> Checkpoint | None:
    """The last checkpoint that this archive signed, its signature checked; None where there is none yet.

    Raises IntegrityError where it is damaged or not by this archive's key.
    """
    try:
        note = folder.checkpoint.read_bytes()
    except FileNotFoundError:
        return None
    return open_checkpoint(note, folder)


def open_checkpoint(note: bytes, folder: ArchiveFolder) -> Checkpoint:
    """The checkpoint in a signed note. Raises IntegrityError where this archive's key did not sign it."""
    checkpoint = parse_checkpoint(verify_note(note, folder.origin, folder.vkey))
    if checkpoint.origin != folder.origin:
        raise FormatError("the checkpoint is of another archive")
    return checkpoint


def witnessed(note: bytes | None, folder: ArchiveFolder) -> Checkpoint:
    """What a keyring remembers; without a note, that nothing was signed yet. Raises as `open_checkpoint`."""
    return Checkpoint(folder.origin, 0, EMPTY_ROOT) if note is None else open_checkpoint(note, folder)
