"""The records of objects that are stored but not in the index, because they could not be read or opened.

Rule: pure. A record stays here until it is in the index, or until the log shows that it never will be: while there are
any, no answer is complete. Numbers are kept as runs, so that a lost key takes no more room than a damaged byte.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterable
from itertools import pairwise
from typing import Final, NamedTuple

from coffer.archive.format.entry import LogId, RecordId
from coffer.keys.errors import FormatError

__all__ = ["Run", "Skipped"]

_RUN: Final = struct.Struct(">IQQ")


class Run(NamedTuple):
    """Consecutive records of one log, by their first and last number. Runs compare by log, then by number."""

    log: LogId
    first: int
    last: int


class Skipped:
    """A set of records. Not thread-safe: the caller holds the index's lock."""

    __slots__ = ("_runs",)

    def __init__(self, runs: Iterable[Run] = ()) -> None:
        """`runs` are in order, with a gap between any two of one log."""
        self._runs = list(runs)

    def __len__(self) -> int:
        return sum(run.last - run.first + 1 for run in self._runs)

    def __contains__(self, record: RecordId) -> bool:
        at = self._place(record)
        return at > 0 and self._runs[at - 1].log == record.log and self._runs[at - 1].last >= record.seq

    @property
    def runs(self) -> tuple[Run, ...]:
        """The runs in order."""
        return tuple(self._runs)

    def _place(self, record: RecordId) -> int:
        """How many runs begin at or before a record."""
        return bisect_right(self._runs, record, key=lambda run: RecordId(run.log, run.first))

    def add(self, record: RecordId) -> None:
        """Add a record."""
        if record in self:
            return
        log, seq = record
        at, first, last = self._place(record), seq, seq
        if at < len(self._runs) and self._runs[at][:2] == (log, seq + 1):
            last = self._runs.pop(at).last
        if at and (self._runs[at - 1].log, self._runs[at - 1].last) == (log, seq - 1):
            at -= 1
            first = self._runs.pop(at).first
        self._runs.insert(at, Run(log, first, last))

    def discard(self, record: RecordId) -> None:
        """Remove a record if it is in."""
        if record in self:
            log, seq = record
            at = self._place(record) - 1
            _, first, last = self._runs[at]
            parts = Run(log, first, seq - 1), Run(log, seq + 1, last)
            self._runs[at : at + 1] = [run for run in parts if run.first <= run.last]

    def encode(self) -> bytes:
        """Return for each run its log (4), first and last number (8 each), big endian."""
        return b"".join(_RUN.pack(*run) for run in self._runs)

    @classmethod
    def decode(cls, data: bytes) -> Skipped:
        """Return what was encoded. Raises FormatError for runs that are empty, out of order, or touch."""
        if len(data) % _RUN.size:
            raise FormatError("the index's list of skipped records is cut", hint="run `coffer index rebuild`")
        runs = [Run(*run) for run in _RUN.iter_unpack(data)]
        edges = [edge for log, first, last in runs for edge in ((log, first), (log, last + 1))]
        if any(later <= earlier for earlier, later in pairwise(edges)):
            raise FormatError("the index's list of skipped records is not in order", hint="run `coffer index rebuild`")
        return cls(runs)
