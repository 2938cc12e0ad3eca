"""Events of repairs and recoveries, which are carried out without keys and recorded by the next writer, and of objects
that were taken from a backup.

Rule: numbers, hashes, names of kept files and ids of keys. Those of repairs wait, until they are sealed, in a file that
anybody may have written (`archive.repair.deferred_events`), so that no field takes more than such a repair would write.
"""

from typing import Annotated

from coffer.archive.events.event import Event
from coffer.archive.events.fields import By, Count, Head, Hex16, Line, Name, doc
from coffer.archive.format.record import Kind

__all__ = ["LossAccepted", "ObjectsRestored", "Repair", "SegmentRepaired", "SegmentsTaken"]


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


class ObjectsRestored(Event, frozen=True, kw_only=True):
    """Objects of a study were taken from a snapshot, opened, and written into files outside the archive."""

    code = "objects.restored"

    snapshot: Annotated[Name, doc("the id of the snapshot")]
    opened_by: Annotated[tuple[Hex16, ...], doc("the ids of the keys that opened the objects, in ascending order")]
    files: Annotated[Count, doc("how many files were written, or were there already")]
    by: By


Repair = SegmentRepaired | SegmentsTaken | LossAccepted
