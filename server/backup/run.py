"""One backup: first the keyring to its own target, then a snapshot that ends where that keyring does.

Rule: the keyring goes first, so that no record is ever at a target whose key is not in a copy of the keyring. The
snapshot ends at the checkpoint that this copy remembers: both are of one state.
"""

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO, Final

from coffer.archive.copies.backup import BackupRun, Request
from coffer.archive.copies.checkpointed import archive_parts
from coffer.archive.copies.keyring_copies import KeyringCopies, KeyringCopy, KeysHeld
from coffer.archive.copies.shelf import Shelf
from coffer.archive.copies.snapshot import Snapshot, made_ms_of, new_id
from coffer.archive.copies.target import Target
from coffer.archive.copies.turns import Turn
from coffer.archive.tree.checkpoint import open_checkpoint, read_note
from coffer.archive.verify.verify import Finding
from coffer.keys.clock import clock_ms
from coffer.keys.crypto.recipient import MOST_RECIPIENTS, Recipient, sealed
from coffer.keys.errors import ConfigError, FormatError
from coffer.keys.inspect.copying import copy_keyring
from coffer.server.backup.parts import Host, host_parts
from coffer.server.backup.targets import hold_object

__all__ = ["Backup", "Done", "read_recipients"]

_PIECE: Final = 1 << 20
_DAY_MS: Final = 86_400_000
_LONGEST: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Done:
    """What a backup made: the snapshot, the copy of the keyring if one was made, the bytes that were sent and those
    that the target had, and what the verification found."""

    snapshot: Snapshot
    keyring: KeyringCopy | None
    uploaded: int
    reused: int
    findings: tuple[Finding, ...]


@dataclass(slots=True)
class Backup:
    """A backup of one host to a target, and of its keyring to another (None: not copied)."""

    host: Host
    target: Target
    keys: Target | None
    recipients: tuple[Recipient, ...] = ()
    progress: Callable[[int], None] = lambda _: None
    now_ms: Callable[[], int] = clock_ms
    random: Callable[[int], bytes] = field(default=os.urandom)

    def run(self) -> Done:
        """Make it; everything is durable at the targets and was read back on return.

        Raises LockedError while old pieces are being removed there, UnavailableError if a target fails, IntegrityError
        if the archive cannot be read.
        """
        made_ms, folder = self.now_ms(), self.host.folder
        shelf = Shelf(self.target, folder.archive_id)
        own = new_id(time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(_behind(shelf, made_ms) / 1000)), self.random(6))
        with Turn(shelf, "run", own) as turn:
            keyring, note = None, read_note(folder)
            if self.keys is not None:
                keyring, note = self._keyring(Shelf(self.keys, folder.archive_id), own, made_ms)
            checkpoint, parts = archive_parts(folder, note)
            run = BackupRun(folder, shelf, self.progress)
            request = Request(own, made_ms, checkpoint, [*parts, *host_parts(self.host)], keyring is not None)
            made = run.make(request, turn)
            self._hold(shelf, made, turn)
        return Done(made, keyring, run.uploaded, run.reused, tuple(run.findings))

    def _hold(self, shelf: Shelf, made: Snapshot, turn: Turn) -> None:
        """Let the target keep every object of the snapshot for the configured days, also those of earlier runs."""
        days = self.host.config.backup.lock_days
        if not days:
            return
        until_ms = self.now_ms() + days * _DAY_MS
        pieces = {piece for blob in made.blobs() for piece in blob.pieces}
        for name in [*map(shelf.piece_name, sorted(pieces)), shelf.snapshot_name(made.id)]:
            hold_object(self.target, name, until_ms)
            turn.keep()

    def _keyring(self, shelf: Shelf, own: str, made_ms: int) -> tuple[KeyringCopy, bytes]:
        """Copy the keyring. Returns the copy and the signed note that it remembers."""
        with TemporaryFile() as scratch:
            copied = copy_keyring(self.host.folder.keyring, scratch)
            held = KeysHeld(open_checkpoint(copied.note, self.host.folder).size, copied.epoch, copied.feed)
            data = _pieces(scratch)
            if self.recipients:
                digest = hashlib.sha256()
                for piece in _pieces(scratch):
                    digest.update(piece)
                data = sealed(data, digest.digest(), shelf.archive_id, self.recipients, self.random)
            ids = tuple(each.id for each in self.recipients)
            return KeyringCopies(shelf).put(own, made_ms, held, ids, data), copied.note


def _behind(shelf: Shelf, made_ms: int) -> int:
    """The time for the next id: now, or a second after the newest one, so that ids are in the order of the runs. One
    that lies more than a day ahead was not made by a clock that somebody corrected, and is not followed."""
    newest = made_ms_of(next(reversed(shelf.ids()), ""))
    return max(made_ms, newest + 1000) if newest < made_ms + _DAY_MS else made_ms


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    """All bytes of a file, from its beginning each time."""
    at = 0
    while piece := os.pread(file.fileno(), _PIECE, at):
        at += len(piece)
        yield piece


def read_recipients(path: Path) -> tuple[Recipient, ...]:
    """The public keys in a file, one a line. Raises ConfigError."""
    try:
        lines = path.read_bytes()[:_LONGEST].decode("ascii").splitlines()
        found = tuple(Recipient.parse(line) for line in lines if line.strip())
    except (OSError, UnicodeDecodeError, FormatError) as error:
        raise ConfigError(
            f"the file of recipients {path} is not usable: {error}", hint="coffer backup recipient new FILE makes one"
        ) from error
    if not 0 < len(found) <= MOST_RECIPIENTS or len(set(found)) != len(found):
        raise ConfigError(
            f"the file of recipients {path} has {len(set(found))} different keys in {len(found)} lines",
            hint=f"give 1 to {MOST_RECIPIENTS} different ones",
        )
    return found
