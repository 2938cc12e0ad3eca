"""The process that writes the archive, as seen by a command beside it: whether it runs, and waiting for its work.

Rule: a command never waits for a writer that has ended. The lock shows it: the kernel releases it with the process.
"""

import time
from collections.abc import Callable
from typing import Final

from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.writer_lock import writer
from coffer.keys.errors import WriterGoneError

__all__ = ["require", "wait_until"]

_POLL_SECONDS: Final = 0.1


def require(folder: ArchiveFolder, waits: str = "nothing was done") -> None:
    """Raise WriterGoneError, naming what waits for it, if no process has the archive open for writing."""
    if writer(folder.lock) is None:
        raise WriterGoneError(
            f"no process writes the archive any more; {waits}",
            hint="run the command again, which then does it itself; or start the server, which resumes it",
        )


def wait_until(folder: ArchiveFolder, is_done: Callable[[], bool], seconds: float) -> bool:
    """Wait until something is done, at most this long and only while a writer runs; returns whether it is done."""
    deadline = time.monotonic() + seconds
    while not is_done():
        if time.monotonic() > deadline:
            return False
        if writer(folder.lock) is None:
            return is_done()  # this may have been its last act
        time.sleep(_POLL_SECONDS)
    return True
