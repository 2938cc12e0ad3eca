"""What a snapshot is worth: everything in it read from the target, and held against what is known from outside.

Rule: opens no key and writes nothing but temporary files.
"""

from collections.abc import Callable
from dataclasses import dataclass

from coffer.archive.copies.keyring_copies import KeyringCopies
from coffer.archive.copies.segments import ARCHIVE_PARTS, as_archive
from coffer.archive.copies.shelf import Shelf
from coffer.archive.copies.snapshot import Snapshot
from coffer.archive.copies.target import Target
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.checkpoint import read_checkpoint
from coffer.archive.verify.verify import Options, Verifier
from coffer.keys.errors import CofferError
from coffer.server.anchor.trust import Outside
from coffer.server.config.settings import Config

__all__ = ["Checked", "check_snapshot"]


@dataclass(frozen=True, slots=True)
class Checked:
    """A snapshot's id, its records, what is wrong with it, and whether anything from outside said whose it is."""

    id: str
    records: int
    findings: tuple[str, ...]
    anchored: bool


def check_snapshot(
    config: Config,
    shelf: Shelf,
    snapshot_id: str,
    *,
    keys: Target | None,
    vkey: str,
    progress: Callable[[int, int], None],
) -> Checked:
    """Read all of a snapshot and, at `keys`, its copy of the keyring. `progress` gets bytes done and bytes in all.

    Raises UnavailableError if a target cannot be asked.
    """
    try:
        made = shelf.snapshot(snapshot_id)
        with as_archive(shelf, made) as folder:
            outside = Outside.of(config, folder, vkey)
            total = made.total_bytes
            findings = [*_contradictions(made, folder), *outside.contradictions(folder)]
            verifier = Verifier(folder, Options(tiles=False), progress=lambda done: progress(done, total))
            findings += [_said(each.segment, each.seq, each.what) for each in verifier.findings()]
            findings += _unread(shelf, made)
    except CofferError as error:
        return Checked(snapshot_id, 0, (str(error),), anchored=True)
    if keys is not None and made.keyring:
        findings += _keyring(KeyringCopies(Shelf(keys, shelf.archive_id)), made)
    return Checked(snapshot_id, made.size, tuple(findings), bool(outside.keys))


def _contradictions(made: Snapshot, folder: ArchiveFolder) -> list[str]:
    signed = read_checkpoint(folder)
    if (signed.size, signed.root) != (made.size, made.root):
        return [f"the snapshot says that it ends at {made.size} records, and its checkpoint covers {signed.size}"]
    return []


def _unread(shelf: Shelf, made: Snapshot) -> list[str]:
    """The parts that no verification reads."""
    found = []
    for part in made.parts:
        if part.name not in ARCHIVE_PARTS:
            try:
                for _ in shelf.read_blob(part.blob, made.piece_bytes):
                    pass
            except CofferError as error:
                found.append(f"{part.name}: {error}")
    return found


def _keyring(copies: KeyringCopies, made: Snapshot) -> list[str]:
    try:
        copy = copies.find(made.id)
        for _ in copies.read(copy):
            pass
    except CofferError as error:
        return [str(error)]
    return [] if copy.records == made.size else ["the copy of the keyring is of another state than the snapshot"]


def _said(segment: int, seq: int | None, what: str) -> str:
    where = f"segment {segment}: " if segment else ""
    return f"{where}{what}" if seq is None else f"{where}record {seq}: {what}"
