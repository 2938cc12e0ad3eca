"""Events of rekeys: a study's objects sealed again under another key.

Rule: the start says who and why, the end which records; both are about the key that is replaced.
"""

from typing import Annotated

from coffer.archive.events.event import Event
from coffer.archive.events.fields import By, Count, NewKey, Reason, doc
from coffer.archive.format.record import Kind

__all__ = ["RekeyOrdered", "StudyRekeyed"]


class RekeyOrdered(Event, frozen=True, kw_only=True):
    """Another key was ordered for a study, in the place of the one that the record is about."""

    code = "rekey.ordered"

    new_key: NewKey
    reason: Reason
    by: By


class StudyRekeyed(Event, frozen=True, kw_only=True):
    """The objects under the key that the record is about stand in later records, under another key."""

    code = "study.rekeyed"
    kind = Kind.STUDY_REKEYED

    new_key: NewKey
    objects: Annotated[Count, doc("how many objects were sealed again")]
    first_record: Annotated[Count | None, doc("the first record of an object sealed again; null: there is none")]
    last_record: Annotated[Count | None, doc("the last record of an object sealed again; null: there is none")]
