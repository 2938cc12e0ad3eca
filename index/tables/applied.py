"""How far the log is in the index: the position below which nothing is missing.

Rule: pure. Threads finish in any order, so an applied record does not mean that all before it are applied; only the
watermark may be written beside the rows. The anchor (the last object below it) distinguishes this log from another.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from coffer.index.tables.rows import Version
from coffer.keys.errors import FormatError

__all__ = ["Anchor", "Applied"]

_LAYOUT: Final = struct.Struct(">QQIQ32s")


@dataclass(frozen=True, slots=True)
class Anchor:
    """One object in the index: its place in the log, and its content id (32 bytes)."""

    seq: int
    segment: int
    offset: int
    content_id: bytes


class Applied:
    """Keeps track of applied records. Not thread-safe: the caller holds the index's lock. `next_seq` is the first one
    missing."""

    __slots__ = ("_anchor", "_early", "_early_anchors", "next_seq")

    def __init__(self, next_seq: int = 0, anchor: Anchor | None = None) -> None:
        self.next_seq = next_seq
        self._anchor = anchor
        self._early: set[int] = set()
        self._early_anchors: dict[int, Anchor] = {}

    @property
    def anchor(self) -> Anchor | None:
        """The newest applied object below `next_seq`, or None."""
        return self._anchor

    def cover(self, first_seq: int, count: int = 1, version: Version | None = None) -> None:
        """Mark records [first_seq, first_seq + count) as applied; `version` is the object among them, if any."""
        for seq in range(max(first_seq, self.next_seq), first_seq + count):
            self._early.add(seq)
        if version is not None and version.seq >= self.next_seq:
            self._early_anchors[version.seq] = Anchor(version.seq, version.segment, version.offset, version.content_id)
        self._advance()

    def advance(self, next_seq: int) -> None:
        """Mark every record below `next_seq` as applied."""
        if next_seq > self.next_seq:
            self.next_seq = next_seq
            self._early = {seq for seq in self._early if seq >= next_seq}
        self._advance()

    def _advance(self) -> None:
        while self.next_seq in self._early:
            self._early.discard(self.next_seq)
            self.next_seq += 1
        for seq in sorted(s for s in self._early_anchors if s < self.next_seq):
            self._anchor = self._early_anchors.pop(seq)

    def encode(self) -> bytes:
        """Return 60 bytes: next_seq (8), the anchor's seq (8), segment (4), offset (8), content id (32) or zeros."""
        anchor = self._anchor or Anchor(0, 0, 0, bytes(32))
        return _LAYOUT.pack(self.next_seq, anchor.seq, anchor.segment, anchor.offset, anchor.content_id)

    @staticmethod
    def decode(data: bytes) -> Applied:
        """Return what was encoded. Raises FormatError for any other length."""
        if len(data) != _LAYOUT.size:
            raise FormatError("the index's position is not valid", hint="run `coffer index rebuild`")
        next_seq, seq, segment, offset, content_id = _LAYOUT.unpack(data)
        return Applied(next_seq, Anchor(seq, segment, offset, content_id) if any(content_id) else None)
