"""What the one writer does after a change of the keys, whoever began it: log, index and keyring brought to agree.

Rule: nothing is kept but the keyring's rows, so a stop anywhere costs nothing, and settling again does the rest.
"""

import threading
import time
from collections.abc import Callable
from typing import Final

import structlog

from coffer.archive.log import LogWriter
from coffer.archive.reader import LogReader
from coffer.index.index import Index
from coffer.index.rebuild import CatchUp
from coffer.keys.errors import CofferError
from coffer.keys.keyring import rows, shred
from coffer.keys.keyring.keyring import Keyring
from coffer.server.engine.checkpoint_signer import Signatory
from coffer.server.engine.erasure_state import uncompacted
from coffer.server.mailbox import outbox

__all__ = ["Settlement"]

_log = structlog.get_logger(__name__)
_AGAIN_SECONDS: Final = 60.0
_AGAIN_OBJECTS: Final = 100  # of those that cannot be read: each may cost a damaged disk many seconds


class Settlement:
    """The writer's keyring, log and index, and up to which change of the keys they agree."""

    def __init__(self, keyring: Keyring, log: LogWriter, reader: LogReader, index: Index, signatory: Signatory) -> None:
        self._keyring = keyring
        self._log = log
        self._reader = reader
        self._index = index
        self._signatory = signatory
        self._delivering = threading.Lock()
        self._settled = -1  # the keyring's changes up to which nothing is left to do
        self._compact_after = 0.0
        self._retry_after = 0.0

    def retry(self, again: Callable[[int], CatchUp]) -> None:
        """Let `again` try some of the objects again that could not be read, if there are any and it is time.

        It takes how many at most. Raises CofferError.
        """
        if time.monotonic() < self._retry_after or not self._index.skipped_objects:
            return
        self._retry_after = time.monotonic() + _AGAIN_SECONDS
        done = again(_AGAIN_OBJECTS)
        if done.applied:
            _log.info("objects can be read again and are found now", count=done.applied)

    def settle(self) -> None:
        """Finish what this or another process began with the keys, if anything: durable on return. Raises CofferError.

        In this order: the signing key changes where that was ordered, events reach the log and are signed, the index is
        rid of what shredded keys sealed, their wrapped form leaves the keyring, and where an epoch ended, the index is
        written anew. Stopped anywhere, the next call does the rest.
        """
        self._signatory.rotate()
        if self.deliver():
            self._signatory.sign()
        changes = self._keyring.follow()
        if changes == self._settled:
            return
        doomed = shred.waiting(self._keyring)
        for key_id, stone in doomed.items():
            self._index.forget(key_id, stone.name)
        if doomed:
            self._index.flush()
            shred.drop(self._keyring, list(doomed))
            _log.info("shredded", keys=[key_id.hex()[:8] for key_id in doomed])
        if self._compact():
            self._settled = changes

    def deliver(self) -> int:
        """Move the events that wait in the keyring into the log, durable on return; how many there were."""
        with self._delivering:
            return outbox.deliver(self._keyring, self._log, self._reader, self._index.cover)

    def _compact(self) -> bool:
        """Write the index anew where an epoch ended since it was; whether it is done. A failure is tried again."""
        epoch = uncompacted(self._keyring)
        if not epoch:
            return True
        if time.monotonic() < self._compact_after:
            return False
        try:
            self._index.compact()
        except CofferError as error:  # what is left over opens nothing: it need not keep an archive closed
            self._compact_after = time.monotonic() + _AGAIN_SECONDS
            _log.error("the index keeps traces of shredded studies", cause=str(error), way_out=error.hint())
            return False
        self._keyring.amend([(rows.COMPACTED_KEY, epoch.to_bytes(4, "big"))])
        _log.info("the index was written anew", epoch=epoch)
        return True
