"""An order to the writer of the archive to sign a checkpoint now, given by a command that runs beside it.

Rule: the writer answers an order by removing it (`keys.mailbox.orders`), once a checkpoint is durable that covers
everything stored when the order was given. The caller withdraws an order that is not answered.
"""

import time
from typing import Final

from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.writer_lock import writer
from coffer.keys.clock import clock_ms
from coffer.keys.errors import UnavailableError
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.mailbox import orders
from coffer.server.host.control import objection
from coffer.server.mailbox import writer_process

__all__ = ["ask", "is_waited_for"]

_POLL_SECONDS: Final = 0.1
_PATIENCE_SECONDS: Final = 60.0
_ASK_SECONDS: Final = 10.0
_COUNTS_MS: Final = 2 * round(_PATIENCE_SECONDS * 1000)


def is_waited_for(keyring: Keyring, now_ms: int) -> bool:
    """Whether a command may still be waiting for an order. Raises UnavailableError, IntegrityError."""
    return any(abs(now_ms - each.given_ms) < _COUNTS_MS for each in orders.waiting(keyring))


def ask(keyring: Keyring, folder: ArchiveFolder, patience_seconds: float = _PATIENCE_SECONDS) -> None:
    """Give an order and wait: on return a checkpoint over everything stored before the call is signed.

    Raises UnavailableError, and withdraws the order, if the writer does not sign in time, or says that it cannot;
    WriterGoneError if it has ended; HistoryError if the order is gone because the keyring was put back.
    """
    began = time.monotonic()
    order = orders.give(keyring, clock_ms())
    try:
        asked = began
        while orders.is_waiting(keyring, order):
            now = time.monotonic()
            if now >= began + patience_seconds:
                raise _late(folder, patience_seconds)
            if now >= asked + _ASK_SECONDS:  # by then a server has tried again what failed before
                asked = now
                _require_no_objection(folder)
            writer_process.require(folder, "nothing was signed")
            time.sleep(_POLL_SECONDS)
            keyring.require_kept()
        keyring.require_kept()
    except BaseException:
        orders.remove(keyring, [order])
        raise


def _require_no_objection(folder: ArchiveFolder) -> None:
    cause = objection(folder.path, "signed")
    if cause is not None:
        raise UnavailableError(f"the server cannot sign: {cause}", hint=cause.hint())


def _late(folder: ArchiveFolder, seconds: float) -> UnavailableError:
    return UnavailableError(
        f"{writer(folder.lock) or 'the writer'} has signed nothing for {seconds:.0f} s",
        hint="coffer status and its log show why; run the command again after it has ended, or was restarted",
    )
