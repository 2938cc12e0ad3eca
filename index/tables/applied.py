"""How far each log is in the index: the position below which nothing is missing.

Rule: pure. Threads finish in any order, so an applied record does not mean that all before it are applied; only the
watermark may be written beside the rows. What is written is a mark: a watermark at which the hash of the record before
it is known, because only that distinguishes this log from a fork of it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from coffer.archive.format.entry import LogId, Tip
from coffer.index.tables.rows import Version
from coffer.keys.errors import FormatError

__all__ = ["Anchor", "Applied", "AppliedLogs", "Mark"]

_LAYOUT: Final = struct.Struct(">IQ32sQIQ32s")


@dataclass(frozen=True, slots=True)
class Anchor:
    """One object in the index: its place in its log, and its content id (32 bytes)."""

    seq: int
    segment: int
    offset: int
    content_id: bytes


@dataclass(frozen=True, slots=True)
class Mark:
    """Every record of a log below `tip.next_seq` is applied; `anchor` is the newest object among them, if any."""

    tip: Tip
    anchor: Anchor | None


class Applied:
    """Keeps track of the applied records of one log. Not thread-safe: the caller holds the index's lock.

    `next_seq` is the first record missing. `mark` follows it as far as the log's tips are known; None: none is.
    """

    __slots__ = ("_early", "_heads", "_objects", "mark", "next_seq")

    def __init__(self, mark: Mark | None = None) -> None:
        self.mark = mark
        self.next_seq = mark.tip.next_seq if mark else 0
        self._early: set[int] = set()
        self._objects: dict[int, Anchor] = {}  # above the mark
        self._heads: dict[int, Tip] = {}  # above the mark

    def cover(self, first_seq: int, count: int = 1, version: Version | None = None, tip: Tip | None = None) -> None:
        """Mark records [first_seq, first_seq + count) as applied; `version` is the object among them, if any, and `tip`
        an end that the log has, or had, at or above them."""
        for seq in range(max(first_seq, self.next_seq), first_seq + count):
            self._early.add(seq)
        if version is not None and version.seq >= self._marked:
            self._objects[version.seq] = Anchor(version.seq, version.segment, version.offset, version.content_id)
        self._follow(tip)

    def advance(self, tip: Tip) -> None:
        """Mark every record below the tip as applied."""
        if tip.next_seq > self.next_seq:
            self.next_seq = tip.next_seq
            self._early = {seq for seq in self._early if seq >= tip.next_seq}
        self._follow(tip)

    @property
    def _marked(self) -> int:
        return self.mark.tip.next_seq if self.mark else 0

    def _follow(self, tip: Tip | None) -> None:
        if tip is not None and tip.next_seq > self._marked:
            self._heads[tip.next_seq] = tip
        while self.next_seq in self._early:
            self._early.discard(self.next_seq)
            self.next_seq += 1
        reached = max((end for end in self._heads if end <= self.next_seq), default=None)
        if reached is None:
            return
        below = [seq for seq in self._objects if seq < reached]
        anchor = self._objects[max(below)] if below else self.mark.anchor if self.mark else None
        self.mark = Mark(self._heads[reached], anchor)
        for seq in below:
            del self._objects[seq]
        for end in [end for end in self._heads if end <= reached]:
            del self._heads[end]


class AppliedLogs:
    """How far each log of an archive is applied. Not thread-safe: the caller holds the index's lock."""

    __slots__ = ("_logs",)

    def __init__(self, marks: Iterable[Mark] = ()) -> None:
        self._logs = {mark.tip.log: Applied(mark) for mark in marks}

    def of(self, log: LogId) -> Applied:
        """The progress of one log; of an unknown one nothing is applied."""
        return self._logs.setdefault(log, Applied())

    @property
    def marks(self) -> dict[LogId, Mark]:
        """The newest mark of each log that has one, by log."""
        return {log: its.mark for log, its in sorted(self._logs.items()) if its.mark is not None}

    def encode(self) -> bytes:
        """Return 96 bytes for each mark, in order of the logs, big endian: log (4), next_seq (8), the leaf hash of the
        record before it (32), the anchor's seq (8), segment (4), offset (8), content id (32, zeros: no anchor)."""
        return b"".join(map(_encode, self.marks.values()))

    @staticmethod
    def decode(data: bytes) -> AppliedLogs:
        """Return what was encoded. Raises FormatError for another length, or logs out of order."""
        marks = list(_decode(data)) if len(data) % _LAYOUT.size == 0 else None
        if marks is None or any(one.tip.log >= other.tip.log for one, other in pairwise(marks)):
            raise FormatError("the index's positions are not valid", hint="run `coffer index rebuild`")
        return AppliedLogs(marks)


def _encode(mark: Mark) -> bytes:
    anchor = mark.anchor or Anchor(0, 0, 0, bytes(32))
    return _LAYOUT.pack(*mark.tip, anchor.seq, anchor.segment, anchor.offset, anchor.content_id)


def _decode(data: bytes) -> Iterator[Mark]:
    for log, next_seq, head, seq, segment, offset, content_id in _LAYOUT.iter_unpack(data):
        anchor = Anchor(seq, segment, offset, content_id) if any(content_id) else None
        yield Mark(Tip(log, next_seq, head), anchor)
