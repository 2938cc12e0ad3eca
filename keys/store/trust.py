"""What one opened store knows of its rows: the keys of their sums, which buckets of rows were found right by them, and
how far they had come.

Rule: a bucket is checked before its first change, in the transaction of the change: nothing is written on top of rows
that nobody wrote. It reads through functions that the store gives it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from coffer.keys.errors import UnavailableError
from coffer.keys.store.reached import Reached
from coffer.keys.store.sums import RowSums
from coffer.keys.store.writes import Get, Walk, complaint_about, require_right

__all__ = ["Trust"]

_FEW: Final = 4096  # rows, which are read in some 12 ms
Visit = Callable[[bytes, bytes], None]


class Trust:
    """The sums of one opened store. The store's own lock, or its transactions, keep `require` in turn."""

    def __init__(self) -> None:
        self._sums: RowSums | None = None
        self._right: frozenset[int] = frozenset()  # buckets
        self.reached = Reached()

    def authenticate(self, sums: RowSums) -> None:
        """Use these from now on."""
        self._sums = sums

    def sums(self) -> RowSums:
        """Return them. Raises UnavailableError before `authenticate`."""
        if self._sums is None:
            raise UnavailableError("the keyring is open without its keys: its rows are read and not written")
        return self._sums

    def steps(self, buckets: Iterable[int], rows: int, *, again: bool = False) -> list[list[int]]:
        """Return those of these buckets that were not found right before, or `again` all, in steps for `require`: all
        at once where the keyring has few `rows`, otherwise each by itself, so that others wait for no more."""
        new = [bucket for bucket in buckets if again or bucket not in self._right]
        return [[bucket] for bucket in new] if rows > _FEW else [new] if new else []

    def require(self, buckets: Iterable[int], get: Get, walk: Walk, *, again: bool = False) -> None:
        """Raise IntegrityError unless these buckets are right, or were when they were first needed; with `again`, now.
        `get` and `walk` read one state. HistoryError where it is one from before, whatever is needed."""
        wanted = frozenset(buckets) | {0}  # where the fold is, by which every bucket is judged
        self.reached.require(get, wanted)
        new = wanted if again else wanted - self._right
        if new:
            require_right(new, get, walk, self.sums())
            self._right |= new

    def complaint(self, walk: Callable[[Visit], object]) -> str | None:
        """Return how all rows differ from what is kept about them, or None; accidents only before `authenticate`."""
        return complaint_about(walk, self._sums)
