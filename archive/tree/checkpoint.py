"""The text that a checkpoint signs: origin, number of records, root of the tree (C2SP tlog-checkpoint).

Rule: a text parses only if it is the one form, and a note counts only if the key that was in force over so many records
signed it (`archive.tree.key_history`). Signing and checking signatures is `keys.crypto.signing`.
"""

import base64
import binascii
from dataclasses import dataclass
from typing import Final

from coffer.archive.format.merkle import EMPTY_ROOT
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.key_history import Succession, read_succession
from coffer.keys.crypto.signing import body_of
from coffer.keys.disk import opening
from coffer.keys.errors import FormatError, IntegrityError

LONGEST_NOTE: Final = 64 << 10  # far more than a note with the signatures of its witnesses
_DIGITS: Final = 20  # of the greatest number of records, 2 ** 64 - 1


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A claim about the log: its first `size` records have the RFC 6962 tree head `root` (32 bytes)."""

    origin: str
    size: int
    root: bytes

    def serialize(self) -> bytes:
        """The three lines that are signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n".encode()


def _number(text: str) -> int:
    """A number of records (C2SP tlog-checkpoint: ASCII digits, no sign). Raises ValueError."""
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS):
        raise ValueError("this is no number of records")
    return int(text)


def parse_checkpoint(body: bytes) -> Checkpoint:
    """Parse a checkpoint's text. Raises FormatError on anything `serialize` would not have written."""
    try:
        origin, size, root, end = body.decode().split("\n")
        parsed = Checkpoint(origin, _number(size), base64.b64decode(root, validate=True))
    except (UnicodeDecodeError, ValueError, binascii.Error) as error:
        raise FormatError("the checkpoint cannot be read") from error
    if end or len(parsed.root) != 32 or not origin or parsed.serialize() != body:
        raise FormatError("the checkpoint is not in its one form")
    return parsed


def read_note(folder: ArchiveFolder) -> bytes:
    """The bytes of the last checkpoint's note, unchecked. Raises FileNotFoundError where there is none, IntegrityError
    where it is a link, no file, or larger than any note."""
    return opening.read(folder.checkpoint, LONGEST_NOTE)


def latest_note(folder: ArchiveFolder) -> bytes:
    """As `read_note`, and no bytes where nothing was signed yet."""
    try:
        return read_note(folder)
    except FileNotFoundError:
        return b""


def read_checkpoint(folder: ArchiveFolder) -> Checkpoint | None:
    """The last checkpoint that this archive signed, its signature checked; None where there is none yet.

    Raises IntegrityError where it is damaged or not by this archive's key.
    """
    try:
        note = read_note(folder)
    except FileNotFoundError:
        return None
    return open_checkpoint(note, folder)


def open_checkpoint(note: bytes, folder: ArchiveFolder) -> Checkpoint:
    """The checkpoint in a signed note. Raises IntegrityError where this archive's key in force did not sign it."""
    return signed_in(note, read_succession(folder))


def signed_in(note: bytes, keys: Succession) -> Checkpoint:
    """The checkpoint in a note. Raises FormatError; IntegrityError where it is not signed by the key in force, or where
    it has another root than an endorsement over as many records."""
    by = keys.signers(note)
    signed = parse_checkpoint(body_of(note))
    if signed.origin != keys.origin:
        raise FormatError("the checkpoint is of another archive")
    keys.require_in_force(by, signed.size)
    if any(made.size == signed.size and made != signed for made in endorsed(keys)):
        raise IntegrityError("the checkpoint contradicts the endorsement of a signing key")
    return signed


def endorsed(keys: Succession) -> list[Checkpoint]:
    """What the endorsements that hold say of the log."""
    return [Checkpoint(each.origin, each.size, each.root) for each in keys.standing()]


def witnessed(note: bytes | None, folder: ArchiveFolder) -> Checkpoint:
    """What a keyring remembers; without a note, that nothing was signed yet. Raises as `open_checkpoint`."""
    return Checkpoint(folder.origin, 0, EMPTY_ROOT) if note is None else open_checkpoint(note, folder)
