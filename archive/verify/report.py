"""What to check in a segment, and what was found: the values that processes exchange when a log is verified.

Rule: pure, and small enough to send: the report of a segment of any size has a few kilobytes, unless it is damaged or
its objects were opened.
"""

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from coffer.archive.format.group import GroupEnd
from coffer.archive.format.record import RecordHeader
from coffer.archive.format.segment import Footer, SegmentHeader
from coffer.archive.format.walk import BATCH_BYTES
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.segment_store import LOG, SealedSegment
from coffer.archive.store.source import Source
from coffer.archive.store.writer_lock import writer
from coffer.archive.tree.subtree_range import Span
from coffer.keys.buffer import Buffer


class VerifyLevel(IntEnum):
    """How deep a verification goes. Each level includes those before it."""

    HEADERS = 0
    BODIES = 1
    DECRYPT = 2


class OpenRecord(Protocol):
    """Opens a record's body and checks its contents; `read(offset, length)` returns bytes of the sealed body.

    Returns what has to be compared with what other records say, for the `Comparison` that belongs to it; empty if
    nothing. Raises IntegrityError if it is not what was sealed, ShreddedError or KeyUnavailableError if no key opens
    it.
    """

    def __call__(self, header: RecordHeader, read: Callable[[int, int], bytes]) -> bytes: ...


class Comparison(Protocol):
    """Compares what opened records say of each other, which nothing that checks single records can."""

    def add(self, told: Buffer, lost: Sequence[int]) -> None:
        """Take what `OpenRecord` returned for the records of a segment, joined, and the times (ms since 1970 UTC) in
        the headers of its objects that could not be opened."""

    def findings(self, *, is_whole: bool) -> Iterator["Finding"]:
        """Yield what contradicts, once everything was added. Not `is_whole`: only what follows some record was read."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: where (segment number, byte offset, record number if known) and what."""

    segment: int
    offset: int
    seq: int | None
    what: str


def gaps(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The first and last segment of each gap in `numbers`, which ascend and should begin with 1."""
    for before, number in pairwise((0, *numbers)):
        if number > before + 1:
            yield before + 1, number - 1


def missing(first: int, last: int) -> Finding:
    """The finding that segments `first` to `last` are missing. It is a single one, because a planted file name can make
    the gap a million segments wide."""
    what = "the segment is missing" if first == last else f"the segment and those up to {last} are missing"
    return Finding(first, 0, None, what)


def _is_written(lock: Path) -> bool:
    return writer(lock) is not None


@dataclass(frozen=True, slots=True)
class Task:
    """What to check: one segment of an archive, which `open` gives, in any process. `folder` is the archive's, and
    `is_written` tells whether a process writes it now. `cuts` are tree sizes at which the
    tree must be known.

    Bodies of records below `from_seq`, or that begin before `from_offset`, are not read. `sample` is the share of the
    others that is read, chosen by `seed`. `is_cold`: read from the medium itself, and keep nothing in the page cache.
    `batch_bytes`: how much is read between two calls of `progress`, if records are no larger.
    """

    open: Callable[[], Source]
    folder: Path
    is_written: Callable[[], bool]
    archive_id: bytes
    number: int
    is_last: bool
    level: VerifyLevel
    cuts: tuple[int, ...] = ()
    from_seq: int = 0
    from_offset: int = 0
    sample: float = 1.0
    seed: int = 0
    is_cold: bool = False
    batch_bytes: int = BATCH_BYTES

    @classmethod
    def of(cls, folder: ArchiveFolder, number: int, replacement: SealedSegment | None = None, **more: Any) -> "Task":
        """A check of a segment where it lies in its archive, or of a replacement; `more` are the other fields."""
        opened = partial(folder.segment_store().open, LOG, number) if replacement is None else replacement.open
        return cls(opened, folder.path, partial(_is_written, folder.lock), folder.archive_id, number, **more)


@dataclass(slots=True)
class Run:
    """Records that chain to each other: the hash that the first one chains to, the hash that the next one must chain
    to, and their subtrees."""

    prev: bytes
    head: bytes
    span: Span


@dataclass(slots=True)
class Counts:
    """What was read: `bodies` were hashed, `opened` of them decrypted; `bytes` counts those of bodies."""

    records: int = 0
    bodies: int = 0
    bytes: int = 0
    opened: int = 0


@dataclass(slots=True)
class Report:
    """What a segment holds. `footer` comes without offsets, which the scan has compared.

    `begins` are kind and time of its first record, if that is whole; `tagged` is the last end of a group, with its tag,
    which the scan has not verified.
    """

    number: int
    size: int = 0
    header: SegmentHeader | None = None
    footer: Footer | None = None
    stop: int = 0
    runs: list[Run] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    findings: list[Finding] = field(default_factory=list)
    begins: tuple[int, int] | None = None
    tagged: tuple[GroupEnd, bytes] | None = None
    unopened: dict[bytes, list[int]] = field(default_factory=dict)  # missing key id: the records that only it opens
    shredded: set[bytes] = field(default_factory=set)  # ids of keys to be destroyed, by a record here
    superseded: set[bytes] = field(default_factory=set)  # ids of keys that were replaced, by a record here
    told: bytearray = field(default_factory=bytearray)  # for a `Comparison`, as `lost`
    lost: "array[int]" = field(default_factory=partial(array, "Q"))  # 3.11 does not subscript it
