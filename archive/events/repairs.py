"""Events of repairs and recoveries, which are carried out without keys and recorded by the next writer.

Rule: numbers, hashes and the names of kept files. Until they are sealed they wait in a file that anybody may have
written (`archive.repair.deferred_events`), so that no field takes more than such a repair would write.
"""

from typing import Annotated

from coffer.archive.events.event import Event
from coffer.archive.events.fields import Count, Head, Line, Name, doc
from coffer.archive.format.record import Kind

__all__ = ["LossAccepted", "Repair", "SegmentRepaired", "SegmentsTaken"]


class SegmentRepaired(Event, frozen=True, kw_only=True):
    """Damaged records of a segment were replaced from a copy of the archive."""

    code = "segment.repaired"
    kind = Kind.REPAIR

    segment: Annotated[Count, doc("the number of the segment")]
    taken_records: Annotated[tuple[Count, ...], doc("the numbers of the records taken from the copy")]
    kept: Annotated[Name | None, doc("the damaged segment's name in `lost+found`; null: there was no such file")]


class _RecoveryEvent(Event, frozen=True, kw_only=True):
    kind = Kind.REPAIR

    found: Annotated[Head, doc("the intact log as it was found")]
    left: Annotated[Head, doc("the log that was signed afterwards")]
    signed: Annotated[Head | None, doc("the latest checkpoint as it was found; null: none that is valid")]
    remembered: Annotated[Head | None, doc("the checkpoint that the keyring remembered; null: none")]
    contradiction: Annotated[Line, doc("the error that was found, as it was shown; empty: none")]


class SegmentsTaken(_RecoveryEvent, frozen=True, kw_only=True):
    """Segments that were missing or different here were taken from a copy of the archive, with its checkpoint."""

    code = "segments.taken"


class LossAccepted(_RecoveryEvent, frozen=True, kw_only=True):
    """The log was continued from what was left of it, and what was lost was accepted as lost."""

    code = "loss.accepted"


Repair = SegmentRepaired | SegmentsTaken | LossAccepted
