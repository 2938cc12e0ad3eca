"""Fill the searchable table from the rows on disk while the archive takes in objects already.

Rule: rows come in the order of their studies' numbers. A study that is put or taken away before the filling has come to
it counts as there from then on, so that the older row which the filling may have read never overwrites it.
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
    """How far one filling has come. The index's lock is held around every method but `wait`, `stop` and `is_done`."""

    def __init__(self) -> None:
        self._end = 0  # studies below this number are in the table
        self._early: set[int] = set()
        self._settled = threading.Event()
        self._error: CofferError | None = None
        self.is_stopped = False

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to fill in."""
        return self._end == _DONE

    @property
    def error(self) -> CofferError | None:
        """What ended it before its end."""
        return self._error

    def meets(self, study: Ref) -> bool:
        """Whether a study that is put or taken away was not there yet. It is from now on."""
        number = number_of(study)
        if number < self._end or number in self._early:
            return False
        self._early.add(number)
        return True

    def take(self, page: Iterable[tuple[Ref, Row]]) -> list[tuple[Ref, Row]]:
        """The rows of the next page that are still to be filled in."""
        rows = list(page)
        fresh = [(ref, row) for ref, row in rows if number_of(ref) not in self._early]
        self._end = number_of(rows[-1][0]) + 1
        return fresh

    def finish(self, error: CofferError | None = None) -> None:
        """Nothing more comes: all is in, or `error` ended it."""
        self._error = error
        if error is None:
            self._end = _DONE
            self._early.clear()
        self._settled.set()

    def stop(self) -> None:
        """Ask the filling to end where it is; who waits for it goes on."""
        self.is_stopped = True
        self._settled.set()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until everything is in, at most so long; False where it is not. Raises what ended it."""
        self._settled.wait(seconds)
        if self._error is not None:
            raise self._error.with_traceback(None)  # it would grow with each who meets it
        return self.is_done
