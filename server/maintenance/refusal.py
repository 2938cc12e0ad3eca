"""Why nothing would be stored in an archive now, found without opening it for writing.

Rule: it changes nothing and works beside a writer. What is published last is read first, mark before checkpoint before
keyring before history: a checkpoint that a writer signs meanwhile must not look like a contradiction.
"""

from coffer.archive.repair.tail import read_tail, signed_claims
from coffer.archive.tree.checkpoint import read_checkpoint, remembered_checkpoint
from coffer.archive.tree.checkpoint_history import last_checkpoint
from coffer.keys.errors import IntegrityError, UnreadableError
from coffer.server.engine.archive import ReadableArchive
from coffer.server.engine.opening import objection_to_writing

__all__ = ["refusal_of"]


def refusal_of(archive: ReadableArchive) -> IntegrityError | UnreadableError | None:
    """The error with which a writer would refuse this archive: below its mark, damaged, forked, with another keyring,
    or on a medium that cannot be read. None if it would store. Reads the ends of all segments and the last one."""
    folder, keyring = archive.folder, archive.keyring
    mark = archive.mark.find()
    outside = mark.checkpoint if mark else None
    try:
        signed = read_checkpoint(folder)
        remembered = remembered_checkpoint(keyring.remembered_checkpoint(), folder)
        read_tail(folder, signed_claims(signed, remembered, last_checkpoint(folder), outside), mark)
    except (IntegrityError, UnreadableError) as error:
        return error
    return objection_to_writing(archive.config, folder, keyring, archive.late, mark)
