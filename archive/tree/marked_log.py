"""Whether a log is the one that a mark names, and goes on from there.

Rule: reads headers only. Not the writer's check, which also compares epochs and keys (`archive.verify.seams`).
"""

from coffer.archive.format.merkle import Frontier
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.checkpoint_history import find_note, last_checkpoint
from coffer.archive.tree.leaves import Leaves
from coffer.archive.tree.mark import Mark
from coffer.keys.crypto.signing import body_of
from coffer.keys.errors import NotFoundError

__all__ = ["holds_marked_records"]


def holds_marked_records(folder: ArchiveFolder, mark: Mark) -> bool:
    """Whether the log's first records are those that the mark names. Quick where the history has its checkpoint.

    Raises IntegrityError, UnreadableError.
    """
    if last_checkpoint(folder).size < mark.size:
        return False
    try:
        return body_of(find_note(folder, mark.size)) == mark.checkpoint.serialize()
    except NotFoundError:
        tree = Frontier()
        Leaves(folder).grow(tree, mark.size)
        return tree.root() == mark.root
