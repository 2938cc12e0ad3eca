"""Bring an index that is open for reading level with the log, for as long as a command runs, or say that it is behind.

Rule: no answer is given from an index that lacks what is stored, without a word. Beside the process that writes, what
it has committed is waited for; where nobody writes, as after a crash, the records that are missing are read from the
log into memory, and nothing on disk is changed. What would take too long is refused.
"""

import time
from collections.abc import Callable
from typing import Final

from coffer.archive.reader import LogReader
from coffer.index import rebuild
from coffer.index.dicom.headers import HeaderLimits
from coffer.index.index import Index
from coffer.index.rebuild import OpenBody
from coffer.keys.errors import IntegrityError, UnavailableError

__all__ = ["level"]

_MOST_RECORDS: Final = 20_000  # some ten seconds
_PATIENCE_SECONDS: Final = 5.0  # a server writes its index every second
_POLL_SECONDS: Final = 0.05
_HINT: Final = "start the server, which brings it level, or run coffer index rebuild"


def level(
    index: Index, reader: LogReader, open_body: OpenBody, limits: HeaderLimits, is_written: Callable[[], bool]
) -> UnavailableError | None:
    """Level `index`, which is open for reading, with the log as it was at the call; what keeps it from that, or None.

    `is_written` says whether a process has the archive open for writing now.
    """
    try:
        last = _end(reader, index)
        if not rebuild.belongs_to(index, reader) or index.applied_seq < last:
            if is_written() and not _waited(index, last, is_written):
                behind = last - index.stored_seq
                return UnavailableError(
                    f"the index is {behind} records behind the log, and whoever writes it does not go on",
                    hint="wait for it, and try again: /readyz, coffer status and the log of the server tell more",
                )
            index.refresh()
        return _fill(index, reader, open_body, limits, last)
    except (IntegrityError, UnavailableError) as error:
        return UnavailableError(f"what the index lacks of the log cannot be read: {error}", hint=error.hint())


def _waited(index: Index, last: int, is_written: Callable[[], bool]) -> bool:
    """Whether the writer has written what was committed, or has gone, in time."""
    end = time.monotonic() + _PATIENCE_SECONDS
    while index.stored_seq < last and is_written():
        if time.monotonic() > end:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _fill(
    index: Index, reader: LogReader, open_body: OpenBody, limits: HeaderLimits, last: int
) -> UnavailableError | None:
    if not rebuild.belongs_to(index, reader):
        return UnavailableError("the index belongs to another state of the log than the one here", hint=_HINT)
    behind = last - index.applied_seq
    if behind > _MOST_RECORDS:
        return UnavailableError(f"the index is {behind} records behind the log", hint=_HINT)
    if behind > 0:
        rebuild.catch_up(index, reader, open_body, limits, flush=False)
    return None


def _end(reader: LogReader, index: Index) -> int:
    """The number of the log's last record; that of the index's, where the log has none behind it."""
    last = index.applied_seq
    for _, header in reader.records(last + 1):
        last = header.seq
    return last
