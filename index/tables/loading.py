"""Filling the searchable table from the rows on disk while the archive already stores objects.

Rule: rows come in the order of their study numbers. A study that is put or removed before the filling reaches it counts
as filled from then on, so that an older row that the filling may have read never overwrites it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Final, TypeVar

from coffer.index.tables.sealed_rows import Ref, number_of
from coffer.keys.errors import CofferError

__all__ = ["Loading"]

Row = TypeVar("Row")
_DONE: Final = 1 << 64


class Loading:
    """The progress of one filling. The index's lock is held around every method but `wait`, `stop` and `is_done`."""

    def __init__(self) -> None:
        self._end = 0  # studies below this number are in the table
        self._early: set[int] = set()
        self._ended = threading.Event()
        self._error: CofferError | None = None
        self.is_stopped = False

    @property
    def is_done(self) -> bool:
        """Whether the table is filled."""
        return self._end == _DONE

    @property
    def error(self) -> CofferError | None:
        """The error that stopped it, if any."""
        return self._error

    def claim(self, study: Ref) -> bool:
        """Count a study that is put or removed as filled; returns whether it was not filled yet."""
        number = number_of(study)
        if number < self._end or number in self._early:
            return False
        self._early.add(number)
        return True

    def take(self, page: Iterable[tuple[Ref, Row]]) -> list[tuple[Ref, Row]]:
        """The rows of the next page that must still be filled in."""
        rows = list(page)
        fresh = [(ref, row) for ref, row in rows if number_of(ref) not in self._early]
        self._end = number_of(rows[-1][0]) + 1
        return fresh

    def finish(self, error: CofferError | None = None) -> None:
        """End the filling: everything is in, or `error` stopped it."""
        self._error = error
        if error is None:
            self._end = _DONE
            self._early.clear()
        self._ended.set()

    def stop(self) -> None:
        """Ask the filling to stop where it is; `wait` returns."""
        self.is_stopped = True
        self._ended.set()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until everything is in, at most `seconds`; False if it is not. Raises the error that stopped it."""
        self._ended.wait(seconds)
        if self._error is not None:
            raise self._error.with_traceback(None)  # each raise would add to its traceback
        return self.is_done
