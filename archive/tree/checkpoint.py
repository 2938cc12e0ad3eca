"""The text that a checkpoint signs: origin, number of records, root of the tree (C2SP tlog-checkpoint).

Rule: a text parses only in its canonical form, and a note counts only if the key that was in force at that number of
records signed it (`archive.tree.key_history`). `keys.crypto.signing` makes and verifies signatures.
"""

import base64
import binascii
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.key_history import KeyHistory, read_key_history
from coffer.keys.crypto.signing import body_of
from coffer.keys.disk import opening
from coffer.keys.disk.reading import unreadable
from coffer.keys.errors import FormatError, HistoryError, IntegrityError

_REMEDY: Final = "put the newest copy back; coffer recover show lists the remedies"
LONGEST_NOTE: Final = 64 << 10  # far more than a note with the cosignatures of witnesses
_DIGITS: Final = 20  # of the largest number of records, 2 ** 64 - 1


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
        raise ValueError("this is not a number of records")
    return int(text)


def parse_checkpoint(body: bytes) -> Checkpoint:
    """Parse a checkpoint's text. Raises FormatError on anything `serialize` would not have written."""
    try:
        origin, size, root, end = body.decode().split("\n")
        parsed = Checkpoint(origin, _number(size), base64.b64decode(root, validate=True))
    except (UnicodeDecodeError, ValueError, binascii.Error) as error:
        raise FormatError("the checkpoint cannot be read") from error
    if end or len(parsed.root) != 32 or not origin or parsed.serialize() != body:
        raise FormatError("the checkpoint is not in canonical form")
    return parsed


def read_note(folder: ArchiveFolder) -> bytes:
    """The bytes of the latest checkpoint's note, unverified.

    Raises HistoryError if it is missing, because the first one is signed before an archive holds any record;
    IntegrityError if it is a link, not a file, or larger than any note; UnreadableError.
    """
    try:
        return opening.read(folder.checkpoint, LONGEST_NOTE)
    except FileNotFoundError as error:
        raise HistoryError("checkpoints/latest is missing", hint=_REMEDY) from error
    except OSError as error:
        raise unreadable("checkpoints/latest", error) from error


def latest_note(folder: ArchiveFolder) -> bytes:
    """Like `read_note`, but empty if there is none."""
    try:
        return read_note(folder)
    except HistoryError:
        return b""


def read_checkpoint(folder: ArchiveFolder) -> Checkpoint:
    """The latest checkpoint that this archive signed, its signature verified.

    Raises HistoryError if it is missing, IntegrityError if it is damaged or not signed by this archive's key.
    """
    with named("checkpoints/latest"):
        return open_checkpoint(read_note(folder), folder)


@contextmanager
def named(file: str) -> Iterator[None]:
    """Name the file, and the remedies, in an IntegrityError from the block that names neither."""
    try:
        yield
    except IntegrityError as error:
        if error.hint():
            raise
        raise type(error)(f"{file}: {error}", hint=_REMEDY) from error


def open_checkpoint(note: bytes, folder: ArchiveFolder) -> Checkpoint:
    """The checkpoint in a signed note. Raises IntegrityError if this archive's key in force did not sign it."""
    return verified_checkpoint(note, read_key_history(folder))


def verified_checkpoint(note: bytes, keys: KeyHistory) -> Checkpoint:
    """The checkpoint in a note, verified by these keys. Raises FormatError; IntegrityError if the key in force did not
    sign it, or if an endorsement at the same number of records has another root."""
    by = keys.signers(note)
    signed = parse_checkpoint(body_of(note))
    if signed.origin != keys.origin:
        raise FormatError("the checkpoint is of another archive")
    keys.require_in_force(by, signed.size)
    if any(made.size == signed.size and made != signed for made in endorsed_checkpoints(keys)):
        raise IntegrityError("the checkpoint contradicts the endorsement of a signing key")
    return signed


def endorsed_checkpoints(keys: KeyHistory) -> list[Checkpoint]:
    """What the valid endorsements state about the log."""
    return [Checkpoint(each.origin, each.size, each.root) for each in keys.standing()]


def remembered_checkpoint(note: bytes | None, folder: ArchiveFolder) -> Checkpoint:
    """The checkpoint in the note that a keyring remembers.

    Raises HistoryError without a note, for the same reason as `read_note`; otherwise as `open_checkpoint`.
    """
    if note is None:
        raise HistoryError("the keyring remembers no checkpoint", hint=_REMEDY)
    return open_checkpoint(note, folder)
