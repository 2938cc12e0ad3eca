"""The files beside the segments as they belong to one checkpoint: what a snapshot keeps of them.

Rule: reads beside a writer, so it takes no more than the checkpoint covers; what came later would contradict the log.
"""

from typing import Final

from coffer.archive.copies.backup import NamedBytes
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.checkpoint import Checkpoint, open_checkpoint
from coffer.archive.tree.checkpoint_history import read_entries
from coffer.archive.tree.key_history import read_key_history
from coffer.keys.disk import opening
from coffer.keys.errors import HistoryError, UnavailableError

__all__ = ["archive_parts"]

_LARGEST: Final = 1 << 20


def archive_parts(folder: ArchiveFolder, note: bytes) -> tuple[Checkpoint, list[NamedBytes]]:
    """The checkpoint in a signed note, and archive.json, that note as the latest one, the history up to it, and the
    endorsements of its keys.

    Raises IntegrityError if the archive did not sign it, HistoryError if it is not in the history, UnavailableError if
    the signing key is being changed at this moment.
    """
    checkpoint = open_checkpoint(note, folder)
    kept = []
    for entry in read_entries(folder):
        kept.append(entry.note)
        if entry.checkpoint == checkpoint:
            break
    else:
        raise HistoryError(
            f"the checkpoint over {checkpoint.size} records is not in the history",
            hint="coffer recover show lists the remedies",
        )
    parts = [
        NamedBytes("archive.json", opening.read(folder.path / "archive.json", _LARGEST)),
        NamedBytes("checkpoints/latest", note),
        NamedBytes("checkpoints/history", b"".join(kept)),
    ]
    try:
        endorsed = opening.read(folder.endorsements, _LARGEST)
    except FileNotFoundError:
        return checkpoint, parts
    if any(each.size > checkpoint.size for each in read_key_history(folder).standing()):
        raise UnavailableError("the signing key was changed a moment ago", hint="run the backup again in a minute")
    return checkpoint, [*parts, NamedBytes("checkpoints/endorsements", endorsed)]
