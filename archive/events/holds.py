"""Events of holds: added and removed.

Rule: they name a study or patient by a keyed hash only; the log outlives both.
"""

from typing import Annotated, Literal

from coffer.archive.events.event import Event
from coffer.archive.events.fields import By, Date, Hex4, Hex16, Reason, doc

__all__ = ["HoldAdded", "HoldRemoved"]


class _HoldEvent(Event, frozen=True, kw_only=True):
    hold: Annotated[Hex4, doc("the id of the hold")]
    on: Annotated[Literal["study", "patient", "instance"], doc("what the hold is on")]
    token: Annotated[Hex16, doc("the keyed hash of the study, patient or object that the hold is on")]
    until: Annotated[Date | None, doc("the last day of the hold; null: until it is removed")]
    reason: Reason
    by: By


class HoldAdded(_HoldEvent, frozen=True, kw_only=True):
    """A hold was added: until it is over or removed, nothing that it matches is shredded."""

    code = "hold.added"


class HoldRemoved(_HoldEvent, frozen=True, kw_only=True):
    """A hold was removed; the reason is that of the hold."""

    code = "hold.removed"
