"""Bring log, index and keyring into agreement after a change of the keys: the writer's task, whoever began the change.

Rule: the only state is the keyring's rows, so a stop anywhere costs nothing, and the next call does the rest.
"""

import threading
import time
from collections.abc import Callable
from typing import Final

from coffer.archive.format.entry import RecordId
from coffer.archive.log import LogWriter
from coffer.archive.reader import LogReader
from coffer.index.index import Index
from coffer.index.rebuild import CatchUp
from coffer.keys.errors import CofferError, IntegrityError
from coffer.keys.keyring import shred
from coffer.keys.keyring.keyring import Keyring
from coffer.server.clock import watching
from coffer.server.engine.checkpoint_signer import ArchiveSigner
from coffer.server.mailbox import outbox
from coffer.server.observe.logs import get_logger

__all__ = ["Reconciler"]

_log = get_logger()
_AGAIN_SECONDS: Final = 60.0
_AGAIN_OBJECTS: Final = 100  # unreadable ones: each may cost a damaged disk many seconds


class Reconciler:
    """Reconciles the writer's keyring, log and index, and remembers up to which change of the keys they agree."""

    def __init__(
        self, keyring: Keyring, log: LogWriter, reader: LogReader, index: Index, signer: ArchiveSigner
    ) -> None:
        self._keyring = keyring
        self._log = log
        self._reader = reader
        self._index = index
        self._signer = signer
        self._delivering = threading.Lock()
        self._reconciled = -1  # the number of the keyring's feed up to which nothing is left to do
        self._compact_after = 0.0
        self._retry_after = 0.0

    def retry(self, again: Callable[[int], CatchUp]) -> None:
        """Retry some of the objects that could not be read, if there are any and it is time.

        `again` gets how many to retry at most. Raises CofferError.
        """
        if time.monotonic() < self._retry_after or not self._index.skipped_objects:
            return
        self._retry_after = time.monotonic() + _AGAIN_SECONDS
        done = again(_AGAIN_OBJECTS)
        if done.applied:
            _log.info("objects can be read again and are found now", name="object.reindexed", count=done.applied)

    def reconcile(self) -> None:
        """Finish key changes that this or another process began, if any; durable on return. Raises CofferError.

        In this order: an ordered rotation of the signing key completes, events reach the log and are signed, the log
        goes on from a confirmed time, claims are settled, the index drops what shredded keys sealed, the wrapped keys
        leave the keyring, and if an epoch ended, the index is compacted. After a stop anywhere, the next call does the
        rest. HistoryError, and nothing is done, where the keyring was put back to an earlier state.
        """
        self._keyring.require_kept()
        self._signer.rotate()
        if self.deliver() | self._continue_log():
            self._signer.sign()
        self._keyring.claims.settle()
        self._keyring.follow()
        changes, gone = self._keyring.gone_since(self._reconciled)
        if changes == self._reconciled:
            return
        tombstones = shred.waiting(self._keyring, gone)
        if tombstones:
            shred.require_genuine(self._keyring, tombstones)
        for key_id, tombstone in tombstones.items():
            self._index.forget(key_id, tombstone.name)
        if tombstones:
            self._index.flush()
            shred.drop(self._keyring, list(tombstones))
            _log.info("studies were shredded", name="study.shredded", keys=[key_id.hex()[:8] for key_id in tombstones])
        if self._compact():
            self._reconciled = changes

    def deliver(self) -> int:
        """Move the events waiting in the keyring into the log, durable on return; returns how many there were."""
        with self._delivering:
            return outbox.deliver(self._keyring, self._log, self._reader, self._cover)

    def _continue_log(self) -> bool:
        try:
            if not watching.is_log_behind(self._keyring):
                return False
        except IntegrityError:  # shown by `ClockJob`, and no reason to leave keys unsettled
            return False
        with self._delivering:
            return watching.continue_log(self._keyring, self._log, self._cover)

    def _cover(self, record: RecordId) -> None:
        self._index.cover(record, self._log.tip)

    def _compact(self) -> bool:
        """Compact the index if an epoch ended since the last time; returns whether it is done. A failure is retried."""
        epoch = shred.uncompacted(self._keyring)
        if not epoch:
            return True
        if time.monotonic() < self._compact_after:
            return False
        try:
            self._index.compact()
        except CofferError as error:  # the traces open nothing: no reason to keep the archive closed
            self._compact_after = time.monotonic() + _AGAIN_SECONDS
            _log.error(
                "the index still holds traces of shredded studies",
                name="index.compact_failed",
                cause=str(error),
                remedy=error.hint(),
            )
            return False
        shred.compacted(self._keyring, epoch)
        _log.info("the index was compacted", name="index.compacted", epoch=epoch)
        return True
