"""What to check of a segment, and what was found: the values that go between processes when a log is verified.

Rule: pure, and small enough to be sent: a segment of any size makes a report of a few kilobytes, unless it is damaged.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from coffer.archive.format.record import RecordHeader
from coffer.archive.format.segment import Footer, SegmentHeader
from coffer.archive.format.walk import BATCH_BYTES
from coffer.archive.tree.subtree_range import Span


class Level(IntEnum):
    """How deep a verification looks. Each includes those before it."""

    HEADERS = 0
    BODIES = 1
    DECRYPT = 2


class OpenRecord(Protocol):
    """Opens a record's body and checks what is inside; `read(offset, length)` gives bytes of the sealed body.

    Raises IntegrityError where it is not what was sealed, ShreddedError or KeyUnavailableError where no key opens it.
    """

    def __call__(self, header: RecordHeader, read: Callable[[int, int], bytes]) -> None: ...


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: where (segment number, byte offset, record number where known) and what."""

    segment: int
    offset: int
    seq: int | None
    what: str


def gaps(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Which segments are missing before the last of `numbers`, which ascend: the first and the last of each gap."""
    for before, number in pairwise((0, *numbers)):
        if number > before + 1:
            yield before + 1, number - 1


def missing(first: int, last: int) -> Finding:
    """The finding that segments from `first` to `last` are missing: one, as a name that was planted is soon a million
    away from the others."""
    what = "the segment is missing" if first == last else f"the segment and those up to {last} are missing"
    return Finding(first, 0, None, what)


@dataclass(frozen=True, slots=True)
class Task:
    """What to check: one segment file of an archive. `cuts` are tree sizes at which the tree must be known.

    Bodies of records below `from_seq`, or that begin before `from_offset`, are not read. `sample` is the share of the
    others that is, chosen by `seed`. `is_cold`: read the medium itself, and leave what the system keeps in memory to
    others. `batch_bytes`: how much is read between two calls of `progress`, if records are no larger.
    """

    path: Path
    lock: Path
    archive_id: bytes
    number: int
    is_last: bool
    level: Level
    cuts: tuple[int, ...] = ()
    from_seq: int = 0
    from_offset: int = 0
    sample: float = 1.0
    seed: int = 0
    is_cold: bool = False
    batch_bytes: int = BATCH_BYTES


@dataclass(slots=True)
class Run:
    """Records that chain to each other: what the first one chains to, what the next one must, and their subtrees."""

    prev: bytes
    head: bytes
    span: Span


@dataclass(slots=True)
class Counts:
    """What was read. `bodies` were hashed and `opened` decrypted; `bytes` are those of bodies."""

    records: int = 0
    bodies: int = 0
    bytes: int = 0
    opened: int = 0


@dataclass(slots=True)
class Report:
    """What a segment holds. `footer` is without offsets: those were compared here."""

    number: int
    size: int = 0
    header: SegmentHeader | None = None
    footer: Footer | None = None
    stop: int = 0
    runs: list[Run] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    findings: list[Finding] = field(default_factory=list)
    unopened: dict[bytes, list[int]] = field(default_factory=dict)  # key id: the records that it alone opens
    shredded: set[bytes] = field(default_factory=set)  # key ids that a record here says are to be destroyed
    superseded: set[bytes] = field(default_factory=set)  # key ids that a record here says were replaced by another
