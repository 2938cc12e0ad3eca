"""The records of objects that are stored but not in the index, because they could not be read or opened.

Rule: pure. A record stays here until it is in the index, or until the log shows that it never will be: while there are
any, no answer is complete. Numbers are kept as runs, so that a lost key takes no more room than a damaged byte.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterable
from itertools import pairwise
from typing import Final

from coffer.keys.errors import FormatError

__all__ = ["Skipped"]

_RUN: Final = struct.Struct(">QQ")


class Skipped:
    """A set of record numbers. Not thread-safe: the caller holds the index's lock."""

    __slots__ = ("_runs",)

    def __init__(self, runs: Iterable[tuple[int, int]] = ()) -> None:
        """`runs` are the first and last number of each run, in order, with a gap between any two."""
        self._runs = list(runs)

    def __len__(self) -> int:
        return sum(last - first + 1 for first, last in self._runs)

    def __contains__(self, seq: int) -> bool:
        return self._runs[at - 1][1] >= seq if (at := self._place(seq)) else False

    @property
    def runs(self) -> tuple[tuple[int, int], ...]:
        """First and last number of each run, in order."""
        return tuple(self._runs)

    def _place(self, seq: int) -> int:
        """How many runs begin at or before a number."""
        return bisect_right(self._runs, seq, key=lambda run: run[0])

    def add(self, seq: int) -> None:
        """Add a number."""
        if seq in self:
            return
        at, first, last = self._place(seq), seq, seq
        if at < len(self._runs) and self._runs[at][0] == seq + 1:
            last = self._runs.pop(at)[1]
        if at and self._runs[at - 1][1] == seq - 1:
            at -= 1
            first = self._runs.pop(at)[0]
        self._runs.insert(at, (first, last))

    def discard(self, seq: int) -> None:
        """Remove a number if it is in."""
        if seq in self:
            at = self._place(seq) - 1
            first, last = self._runs[at]
            self._runs[at : at + 1] = [run for run in ((first, seq - 1), (seq + 1, last)) if run[0] <= run[1]]

    def encode(self) -> bytes:
        """Return first and last number of each run, 8 bytes each, big endian."""
        return b"".join(_RUN.pack(*run) for run in self._runs)

    @classmethod
    def decode(cls, data: bytes) -> Skipped:
        """Return what was encoded. Raises FormatError for runs that are empty, out of order, or touch."""
        if len(data) % _RUN.size:
            raise FormatError("the index's list of skipped records is cut", hint="run `coffer index rebuild`")
        runs = list(_RUN.iter_unpack(data))
        edges = [edge for first, last in runs for edge in (first, last + 1)]
        if any(later <= earlier for earlier, later in pairwise(edges)):
            raise FormatError("the index's list of skipped records is not in order", hint="run `coffer index rebuild`")
        return cls(runs)
