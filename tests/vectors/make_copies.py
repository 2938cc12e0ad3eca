"""Writes the golden target of copies: `python -m tests.vectors.make_copies`. The committed copy is vectors/copies.

A snapshot of the golden log in pieces of 1024 bytes, and a sealed copy of bytes that stand for its keyring. The sealing
draws from the cryptographic library, so the sealed copy differs at each run: it is kept, and read again for good.
"""

import base64
import hashlib
import shutil
from pathlib import Path

from coffer.archive.copies.backup import BackupRun, Request
from coffer.archive.copies.checkpointed import archive_parts
from coffer.archive.copies.folder_target import FolderTarget
from coffer.archive.copies.keyring_copies import KeyringCopies, KeysHeld
from coffer.archive.copies.shelf import Shelf
from coffer.archive.copies.turns import Turn
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.checkpoint import read_note
from coffer.keys.crypto.recipient import Identity, sealed

HERE = Path(__file__).parent
ID = "20260101t000000z-000102030405"
MADE_MS = 1767225600000
KEYRING = b"".join(hashlib.sha256(b"%d" % n).digest() for n in range(1024))
IDENTITY = "COFFER-IDENTITY-1 " + base64.b64encode(bytes(range(96))).decode() + "\n"


def write(into: Path, log: Path) -> None:
    """Make the target in an empty folder, of the golden log in another."""
    folder = ArchiveFolder.open(log)
    shelf = Shelf(FolderTarget(into), folder.archive_id)
    to = (Identity.parse(IDENTITY).recipient(),)
    copy = sealed([KEYRING], hashlib.sha256(KEYRING).digest(), folder.archive_id, to, bytes)
    checkpoint, parts = archive_parts(folder, read_note(folder))
    with Turn(shelf, "run", ID) as turn:
        KeyringCopies(shelf).put(ID, MADE_MS, KeysHeld(checkpoint.size, 1, 7), tuple(each.id for each in to), copy)
        BackupRun(folder, shelf).make(Request(ID, MADE_MS, checkpoint, parts, keyring=True, piece_bytes=1024), turn)
    shutil.rmtree(into / folder.archive_id.hex() / "turns")


if __name__ == "__main__":
    shutil.rmtree(HERE / "copies", ignore_errors=True)
    (HERE / "copies").mkdir()
    write(HERE / "copies", HERE / "log")
