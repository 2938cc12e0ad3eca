"""The word to whoever writes the archive that it shall sign a checkpoint now, for a command that runs beside it.

Rule: an order is a row of the keyring, and its answer is that the row is gone: it is taken away by the writer after a
checkpoint is durable that covers all that was stored when the order was given. Whoever gave it withdraws it when
nobody answers.
"""

import os
import time
from typing import Final

from coffer.archive.store.folder import ArchiveFolder
from coffer.keys.clock import clock_ms
from coffer.keys.disk.lock import holder
from coffer.keys.errors import UnavailableError
from coffer.keys.keyring import rows
from coffer.keys.keyring.keyring import Keyring
from coffer.server.mailbox import writer_process

__all__ = ["answer", "ask", "asked", "is_waited_for"]

_POLL_SECONDS: Final = 0.1
_PATIENCE_SECONDS: Final = 60.0
_COUNTS_MS: Final = 2 * round(_PATIENCE_SECONDS * 1000)


def asked(keyring: Keyring) -> list[bytes]:
    """The orders that wait, to be given to `answer`. Raises UnavailableError, IntegrityError."""
    return [place for place, _ in keyring.rows(rows.SIGN_PREFIX)]


def is_waited_for(keyring: Keyring, now_ms: int) -> bool:
    """Whether somebody may still wait for an order. Raises UnavailableError, IntegrityError."""
    given = (int.from_bytes(value, "big") for _, value in keyring.rows(rows.SIGN_PREFIX))
    return any(abs(now_ms - each) < _COUNTS_MS for each in given)


def answer(keyring: Keyring, orders: list[bytes]) -> None:
    """Say that a checkpoint was signed since these orders were read; durable on return. Raises UnavailableError."""
    if orders:
        keyring.amend([], orders)


def ask(keyring: Keyring, folder: ArchiveFolder, patience_seconds: float = _PATIENCE_SECONDS) -> None:
    """Give an order and wait: on return a checkpoint over all that was stored before the call is signed.

    Raises UnavailableError, and withdraws the order, where the writer does not sign in time; WriterGoneError where it
    has ended.
    """
    place, end = rows.SIGN_PREFIX + os.urandom(8), time.monotonic() + patience_seconds
    keyring.amend([(place, clock_ms().to_bytes(8, "big"))])
    try:
        while keyring.row(place) is not None:
            if time.monotonic() >= end:
                raise _late(folder, patience_seconds)
            writer_process.require(folder, "nothing was signed")
            time.sleep(_POLL_SECONDS)
    except BaseException:
        keyring.amend([], [place])
        raise


def _late(folder: ArchiveFolder, seconds: float) -> UnavailableError:
    return UnavailableError(
        f"{holder(folder.lock) or 'whoever writes'} has signed nothing for {seconds:.0f} s",
        hint="a server: /readyz and its log say why. Any other command: say it again when that one has ended",
    )
