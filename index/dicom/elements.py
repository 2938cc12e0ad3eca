"""What the parser gives and takes: elements, the place of the pixel data, and the limits of one walk.

Rule: values only; no logic.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

__all__ = ["Element", "Elements", "HeaderLimits", "PixelValue", "Read"]

Read: TypeAlias = Callable[[int, int], bytes]  # (start, stop) -> the bytes between them, as many as exist
Elements: TypeAlias = "dict[int, Element]"


class Element(NamedTuple):
    """One element: VR as written ("" in Implicit VR), value bytes, and items if it is a sequence."""

    vr: str
    raw: bytes
    items: tuple[Elements, ...] = ()


class PixelValue(NamedTuple):
    """Where the value of Pixel Data is. If encapsulated, `length` reaches to the end of the fragments."""

    offset: int
    length: int
    encapsulated: bool
    whole: bool  # False if the declared length exceeds the data set


@dataclass(frozen=True, slots=True)
class HeaderLimits:
    """What one walk may cost. The defaults are for stored objects; a query has lower limits."""

    bytes: int = 64 << 20  # read from the source
    depth: int = 64  # sequences in sequences; DCMTK's own limit
    elements: int = 1_000_000  # elements and items together
    seconds: float = 2.0  # of `clock`
    value: int = 16 << 10  # bytes of one wanted value; longer ones are omitted
    items: int = 64  # of one wanted sequence; further ones are omitted
    clock: Callable[[], float] = field(default=time.thread_time, compare=False)
