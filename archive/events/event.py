"""What every event has: a code, a version, the kind of its record; and an event that this version does not know.

Rule: pure. The three are attributes of the class, its fields are those of the JSON object.
"""

from dataclasses import dataclass
from typing import ClassVar

import msgspec

from coffer.archive.format.record import Kind

__all__ = ["Event", "UnknownEvent"]


class Event(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One event. `code` is "noun.verb" and stable; `version` goes up with every change of the fields; `kind` stands in
    the record's header."""

    code: ClassVar[str]
    version: ClassVar[int] = 1
    kind: ClassVar[Kind] = Kind.STATE


@dataclass(frozen=True, slots=True)
class UnknownEvent:
    """An event of a code or version that this version of Coffer does not know: a newer one wrote it."""

    code: str
    version: int
    kind: int
