"""Bring an archive back: its segments, its keyring, and what was kept of the host's settings.

Rule: what is restored is verified as a whole before anybody calls it restored. It touches no mark and signs nothing:
going on from an older state is a decision that a person takes, by name (`coffer recover`, `coffer mark`).
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from coffer.archive.copies.keyring_copies import KeyringCopies, KeyringCopy
from coffer.archive.copies.restore import Restore
from coffer.archive.copies.shelf import Shelf
from coffer.archive.copies.snapshot import Snapshot
from coffer.archive.copies.target import Target
from coffer.archive.tree.checkpoint import Checkpoint, read_checkpoint
from coffer.archive.verify.verify import Options, Verifier
from coffer.keys.crypto.recipient import Identity, opened
from coffer.keys.disk import durable
from coffer.keys.disk.permissions import read_secret
from coffer.keys.errors import ConfigError, FormatError, NotFoundError
from coffer.server.anchor.mark_file import MarkFile
from coffer.server.anchor.trust import Outside
from coffer.server.backup.kept_settings import KeptFile, write_beside
from coffer.server.config.settings import Config

__all__ = ["Restored", "Restoring", "bring_keyring", "choose_keyring", "read_identity"]

_LONGEST: Final = 1 << 10
_AS_RESTORED: Final = Options(jobs=min(os.cpu_count() or 1, 4), threads=True, tiles=False)


@dataclass(frozen=True, slots=True)
class Restored:
    """The restored archive's checkpoint, its bytes from the target and those that an interrupted restore had brought,
    the copy of the keyring, findings, whether anything from outside said whose archive it is, and how many records the
    mark of this host has seen."""

    checkpoint: Checkpoint
    taken: int
    kept: int
    keyring: KeyringCopy | None
    findings: tuple[str, ...]
    anchored: bool
    marked: int | None


@dataclass(slots=True)
class Restoring:
    """The restore of a snapshot into a folder; `keys` is where copies of the keyring are."""

    config: Config
    shelf: Shelf
    snapshot: Snapshot
    into: Path
    keys: Target | None
    identity: Identity | None = None
    vkey: str = ""
    progress: Callable[[int], None] = field(default=lambda _: None)

    def run(self, until_ms: int | None = None) -> Restored:
        """Restore, and verify every byte. Repeatable after an interruption. Raises ConfigError if the folder is in use
        for anything else, IntegrityError for a target that was tampered with, KeyUnavailableError without the identity
        that a sealed keyring needs: before anything large was brought."""
        work = Restore(self.shelf, self.snapshot, self.into, self.progress)
        copy = None if self.keys is None else choose_keyring(self.keys, self.snapshot)
        work.begin()
        if copy is not None and self.keys is not None:
            bring_keyring(self.keys, copy, self.shelf.archive_id, self.into, self.identity)
        work.fetch()
        folder = work.finish(until_ms)
        outside = Outside.of(self.config, folder, self.vkey)
        verifier = Verifier(folder, _AS_RESTORED, progress=self.progress)
        findings = [*outside.contradictions(folder), *(each.what for each in verifier.findings())]
        mark = MarkFile.of(self.config, folder.archive_id).find()
        return Restored(
            read_checkpoint(folder), work.taken, work.kept, copy, tuple(findings), bool(outside.keys),
            None if mark is None else mark.size,
        )  # fmt: skip

    def settings(self, into: Path) -> list[KeptFile]:
        """Write what was kept of the host's settings beside those of a folder, which must exist. Raises as
        `write_beside`."""
        return write_beside(self.shelf, self.snapshot, into)


def choose_keyring(keys: Target, snapshot: Snapshot) -> KeyringCopy:
    """The copy that was made with the snapshot; if that is gone, the oldest later one, which opens what was not erased
    since. Raises NotFoundError."""
    found = {each.id: each for each in KeyringCopies(Shelf(keys, snapshot.archive_id)).usable()}
    if snapshot.id in found:
        return found[snapshot.id]
    later = [each for each in found.values() if each.records >= snapshot.size]
    if not later:
        raise NotFoundError(
            "no copy of the keyring there has all keys of this snapshot",
            hint="name another target with --keys; or give --no-keys, and put a keyring folder there yourself",
        )
    return later[0]


def bring_keyring(keys: Target, copy: KeyringCopy, archive_id: bytes, into: Path, identity: Identity | None) -> None:
    """Write a copy of the keyring as that of the archive folder `into`; durable on return. Raises as
    `KeyringCopies.read` and `opened`."""
    data = KeyringCopies(Shelf(keys, archive_id)).read(copy)
    if copy.recipients:
        data = opened(data, copy.size, archive_id, identity)
    path = into / "keyring" / "data.mdb"
    durable.install(durable.stage(path, data), path, None)


def read_identity(path: Path) -> Identity:
    """The identity in a file. Raises ConfigError if it is open to others, or is none."""
    try:
        return Identity.parse(read_secret(path, "identity", _LONGEST).decode("ascii"))
    except (FormatError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} is no identity of a recipient",
            hint="give the file that `coffer backup recipient new FILE` wrote, not .pub",
        ) from error
