"""The process that writes the archive, as a command beside it sees it: what it is waited for, and whether it is there.

Rule: a command waits for nobody who is gone. The lock tells: the kernel drops it with the process that held it.
"""

import time
from collections.abc import Callable
from typing import Final

from coffer.archive.store.folder import ArchiveFolder
from coffer.keys.disk.lock import holder
from coffer.keys.errors import WriterGoneError

__all__ = ["require", "wait_until"]

_POLL_SECONDS: Final = 0.1


def require(folder: ArchiveFolder, waits: str = "nothing was done") -> None:
    """Raise WriterGoneError, with what waits for it, where nobody has the archive open for writing."""
    if holder(folder.lock) is None:
        raise WriterGoneError(
            f"nobody writes the archive any more; {waits}",
            hint="run the command again: it then does it itself; or start the server, which goes on",
        )


def wait_until(folder: ArchiveFolder, is_done: Callable[[], bool], seconds: float) -> bool:
    """Wait until something is done, at most for so long, and while somebody writes; whether it is done."""
    deadline = time.monotonic() + seconds
    while not is_done():
        if time.monotonic() > deadline:
            return False
        if holder(folder.lock) is None:
            return is_done()  # it may have been the last thing that it did
        time.sleep(_POLL_SECONDS)
    return True
