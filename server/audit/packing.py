"""Acts as the events that hold them: as few as possible, each within the length of one.

Rule: pure. Nothing is cut: what concerns very many studies becomes several acts that say the same of a part each.
"""

from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from coffer.archive.events.accesses import MOST_ACTS, AccessRecorded, Act
from coffer.archive.events.codec import MAX_EVENT_BYTES
from coffer.keys.errors import TooCostlyError

__all__ = ["events_of"]

_MOST_SUBJECTS: Final = 256
_MOST_BYTES: Final = MAX_EVENT_BYTES - 1024  # what is around the acts is far shorter


def events_of(acts: Iterable[Act]) -> Iterator[AccessRecorded]:
    """The events of these acts, in order. Raises TooCostlyError for a query that is too long to be recorded."""
    held: list[Act] = []
    size = 0
    for each in _parts(acts):
        length = len(msgspec.json.encode(each)) + 1
        if length > _MOST_BYTES:
            raise TooCostlyError("too long to be recorded: give fewer values", hint="give fewer values")
        if held and (size + length > _MOST_BYTES or len(held) == MOST_ACTS):
            yield AccessRecorded(acts=tuple(held))
            held, size = [], 0
        held.append(each)
        size += length
    if held:
        yield AccessRecorded(acts=tuple(held))


def _parts(acts: Iterable[Act]) -> Iterator[Act]:
    for each in acts:
        if len(each.subjects) <= _MOST_SUBJECTS:
            yield each
        else:
            for at in range(0, len(each.subjects), _MOST_SUBJECTS):
                yield msgspec.structs.replace(each, subjects=each.subjects[at : at + _MOST_SUBJECTS])
