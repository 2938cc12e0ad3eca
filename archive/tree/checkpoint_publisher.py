"""Publishes checkpoints of a growing log: tiles, history, keyring, latest, in that order, each once.

Rule: what it is given to publish extends what it published last, or nothing is signed. A publication that failed is
settled before the next one: after a failed sync the page cache cannot be trusted.
"""

from collections.abc import Callable

from coffer.archive.format.merkle import EMPTY_ROOT
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.checkpoint import Checkpoint
from coffer.archive.tree.checkpoint_history import publish, settle_history
from coffer.archive.tree.tile_writer import TileWriter
from coffer.keys.disk.syscalls import SYSTEM, Syscalls

__all__ = ["CheckpointPublisher"]


class CheckpointPublisher:
    """One per writer; the caller serialises. `signed` is the last checkpoint that was published, `newest` the newest
    that was signed, published or not."""

    def __init__(self, folder: ArchiveFolder, calls: Syscalls = SYSTEM) -> None:
        self.signed: Checkpoint | None = None
        self.newest = Checkpoint(folder.origin, 0, EMPTY_ROOT)
        self._folder = folder
        self._calls = calls
        self._is_settled = True
        self._tile_writer = TileWriter(folder, calls)

    @property
    def signed_size(self) -> int:
        """The number of records under the last published checkpoint."""
        return self.signed.size if self.signed else 0

    def publish(
        self, made: Checkpoint, sign: Callable[[bytes], bytes], remember: Callable[[bytes], None] | None
    ) -> Checkpoint | None:
        """Sign a checkpoint and publish the note, durable on return; None if the last one covers as many records.

        `remember` is called with the note when it is in the history and before it is the latest. Raises HistoryError,
        and signs nothing, if the log on disk does not extend the last signed checkpoint; UnavailableError.
        """
        if self.signed_size == made.size:
            return None
        self._tile_writer.extend(self.newest, made)
        if not self._is_settled:
            settle_history(self._folder, self._calls)
        self._is_settled = False
        publish(self._folder, sign(made.serialize()), remember, self._calls)
        self._is_settled = True
        self._tile_writer.tidy(self.newest, made)
        self.signed = self.newest = made
        return made
