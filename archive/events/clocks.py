"""Events of the wall clock: in doubt, confirmed, and the epoch of the log that begins where it had been wrong.

Rule: they say what the clocks showed, never which of them was right. The record's own time is of no use here.
"""

from typing import Annotated

from coffer.archive.events.event import Event
from coffer.archive.events.fields import By, Epoch, Ms, Reason, Text, doc
from coffer.archive.format.record import Kind

__all__ = ["ClockConfirmed", "ClockDoubted", "LogEpochBegun"]


class ClockDoubted(Event, frozen=True, kw_only=True):
    """The wall clock jumped, or lies before the log's last record: until it is confirmed, it grants nothing."""

    code = "clock.doubted"

    wall_ms: Annotated[Ms, doc("what the wall clock showed")]
    expected_ms: Annotated[
        Ms | None, doc("what it should have shown by the time since the machine started; null: unknown")
    ]
    last_record_ms: Annotated[Ms | None, doc("the time of the log's last record; null: not looked at")]


class ClockConfirmed(Event, frozen=True, kw_only=True):
    """An administrator confirmed that the wall clock is right, and ended a doubt in it."""

    code = "clock.confirmed"

    confirmed_ms: Annotated[Ms, doc("what the wall clock showed when it was confirmed")]
    doubted_ms: Annotated[Ms, doc("what it had shown when it came into doubt")]
    reason: Reason
    by: By


class LogEpochBegun(Event, frozen=True, kw_only=True):
    """An epoch of the log begins: the body, in the clear, of the first record of the epoch."""

    code = "log.epoch_begun"
    kind = Kind.LOG_EPOCH

    epoch: Epoch
    holder: Annotated[Text, doc("who writes in this epoch")]
    why: Annotated[
        Text,
        doc(
            "why it begins: `clock`, because a clock that had been ahead was "
            "confirmed; `loss`, because records that the mark outside the folder names are missing"
        ),
    ]
