"""What a snapshot does not have: records that were stored before it was begun, and that no checkpoint covered by then.

Rule: opens no key. What is not signed is in no snapshot, so whoever made one is told how much that is.
"""

from typing import NamedTuple

from coffer.archive.reader import LogReader
from coffer.archive.store.folder import ArchiveFolder

__all__ = ["LeftOut", "left_out"]


class LeftOut(NamedTuple):
    """How many records, and when the first of them was stored (ms since 1970)."""

    records: int
    since_ms: int


def left_out(folder: ArchiveFolder, size: int, until_ms: int) -> LeftOut | None:
    """The records behind the first `size` ones that were stored up to a time (ms since 1970); None if there are none.

    Raises IntegrityError, UnreadableError if the log cannot be read there.
    """
    reader = LogReader(folder)
    try:
        times = [header.time_ms for _, header in reader.records(size) if header.time_ms <= until_ms]
    finally:
        reader.close()
    return LeftOut(len(times), times[0]) if times else None
