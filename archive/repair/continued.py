"""Whether a copy that records are taken from was continued by the archive itself, or by somebody who opened the copy.

Rule: all copies have the archive's keys, so their signatures prove nothing. Up to what is signed here, the copy has to
prove the same roots. Behind that, the lineage in the tag of its last group says who wrote, because the tag's head binds
every record before: only what the mark outside names counts, or, without a mark, what the log here ends with. Any other
lineage is taken only if a person names it.
"""

from collections.abc import Sequence
from contextlib import suppress

from coffer.archive.format.group import GroupEnd, lineage_of
from coffer.archive.repair.tail import read_tail
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.segment_store import LOG, segment_numbers
from coffer.archive.tree.checkpoint import Checkpoint
from coffer.archive.tree.key_history import read_key_history
from coffer.archive.tree.mark import Mark
from coffer.archive.verify.seams import Seams
from coffer.keys.errors import HistoryError, IntegrityError

__all__ = ["foreign_lineage"]


def foreign_lineage(
    folder: ArchiveFolder, copy: ArchiveFolder, theirs: Checkpoint, proved: Sequence[Checkpoint], outside: Mark | None
) -> bytes | None:
    """The lineage under which a copy goes on behind what it was proved to share with the archive, if it is not one that
    the archive knows; None otherwise. `theirs` is the copy's checkpoint, `proved` what it was compared with, `outside`
    the mark. Raises IntegrityError if the copy's last tag does not hold."""
    shared = max((claim.size for claim in proved), default=0) if outside is None else outside.size
    size, found = _last(copy, theirs)
    if size <= shared:
        return None
    own: bytes | None = None
    if outside is not None:
        own = outside.lineage
    else:
        with suppress(IntegrityError):  # a log that cannot say it knows none
            own = _last(folder)[1]
    return None if found == own else found


def _last(folder: ArchiveFolder, *claims: Checkpoint) -> tuple[int, bytes]:
    """How many records a log has, and the lineage of its last group (empty without any), by a tag that holds."""
    tail = read_tail(folder, claims)
    size, group, tag = tail.chain.next_seq, tail.group, tail.tag
    if not size:
        return 0, b""
    if not tail.offsets:  # the segment was just begun: the last group ends the one before
        numbers = [number for number in segment_numbers(folder.segment_store()) if number < tail.segment]
        group, tag = Seams.read(folder, numbers).last_tag()
    end = GroupEnd(folder.archive_id, LOG, tail.epoch, group, size, tail.chain.head)
    if not read_key_history(folder).vouches(end, tag):
        raise HistoryError(
            "the copy's newest records were not written by this archive: the tag of the last group is not its own",
            hint="name another copy",
        )
    return size, lineage_of(tag)
