"""Events of the mark outside the archive folder.

Rule: a mark that was not raised by a checkpoint, but made by a person, is recorded before it is made.
"""

from typing import Annotated

from coffer.archive.events.event import Event
from coffer.archive.events.fields import By, Head, Reason, doc

__all__ = ["MarkRenewed"]


class MarkRenewed(Event, frozen=True, kw_only=True):
    """The mark outside the folder was made anew: it was missing, or the archive holds less than it named."""

    code = "mark.renewed"

    old_mark: Annotated[Head | None, doc("what the mark named before; null: it was missing, or could not be read")]
    mark: Annotated[Head, doc("the log that was signed when it was made anew")]
    reason: Reason
    by: By
