"""In which epoch of the log a segment is: what the records say of it.

Rule: pure. Epochs are numbered without gaps. Each begins with a LOG_EPOCH, the first record of its segment, whose body,
in the clear, names it. So the epoch in a segment's header, which is under no hash, follows from records, which are.
"""

import json
from typing import Final

from coffer.archive.format.record import Kind
from coffer.keys.errors import FormatError

__all__ = ["LONGEST_BODY", "complaint", "stated_epoch"]

LONGEST_BODY: Final = 1 << 20  # as of an event


def complaint(before: int, epoch: int, kind: int | None, unread: int = 0) -> str | None:
    """Why a segment behind one of epoch `before` cannot be of this epoch; None if it can.

    `kind` is that of its first record, None if no whole record stands there: the next epoch may be about to begin.
    `unread` counts the segments in between whose beginning could not be read: each of them may have begun an epoch.
    """
    least = before + (kind == Kind.LOG_EPOCH)
    if least <= epoch <= least + unread + (kind is None):
        return None
    if kind == Kind.LOG_EPOCH:
        return f"begins epoch {epoch} of the log behind epoch {before}"
    return f"is of epoch {epoch} of the log, behind one of epoch {before}, and no record begins that"


def stated_epoch(body: bytes) -> int:
    """The epoch that a LOG_EPOCH begins, by its body. Raises FormatError if that is not what such a record holds."""
    try:
        told = json.loads(body)
    except ValueError as error:
        raise FormatError("the record that begins an epoch of the log cannot be read") from error
    if not isinstance(told, dict) or told.get("code") != "log.epoch_begun" or type(told.get("epoch")) is not int:
        raise FormatError("the record that begins an epoch of the log does not name it")
    return int(told["epoch"])
