"""One query or plan of one line: run in slices, answered in parts, ended by its budget or when its line has closed.

Rule: what was found is returned before the error that ended the search. A part is returned when it is full, when the
search has ended, or after a moment, so that the worker can check whether its peer has cancelled or left. Only processor
time is counted, over all slices: a peer that reads its rows slowly spends none.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any, Final

from coffer.keys.errors import CofferError, UnavailableError
from coffer.server.observe.logs import get_logger
from coffer.server.workers import messages
from coffer.server.workers.messages import Reply

_log = get_logger()

__all__ = ["Answer", "Search"]

_MOMENT_SECONDS: Final = 0.25  # then the worker gets what was found so far, and can notice that its peer has left
_END: Final = object()

Answer = Callable[["Search", bytes | None], None]  # gets the reply's bytes, or None after an internal error


class Search:
    """Created with the request, and given turns (`server.workers.turns`) whenever a part is requested.

    `begin` decodes and checks the request and yields its steps: what was found, or None periodically while nothing is.
    `pack` makes a reply from a part and whether it is the last; `rooms` holds the capacity of the first and of any
    later part; `too_costly` creates the error that is raised when the budget is spent.
    """

    def __init__(
        self,
        host: str,
        begin: Callable[[], Iterator[Any]],
        pack: Callable[[list[Any], bool], Reply],
        answer: Answer,
        *,
        rooms: tuple[int, int],
        is_stopping: Callable[[], bool],
        budget_seconds: float,
        too_costly: Callable[[], CofferError],
    ) -> None:
        self.host = host
        self.spent_seconds = 0.0
        self.is_over = False  # its answer is no longer wanted; set by any thread
        self._begin = begin
        self._pack = pack
        self._answer = answer
        self._rooms = rooms
        self._is_stopping = is_stopping
        self._budget = budget_seconds
        self._too_costly = too_costly
        self._steps: Iterator[Any] | None = None
        self._error: CofferError | None = None
        self._found: list[Any] = []
        self._room = 0
        self._answer_by = 0.0

    def want(self) -> None:
        """Request the next part, while none is owed."""
        self._room, self._rooms = self._rooms[0], (self._rooms[1], self._rooms[1])
        self._answer_by = time.monotonic() + _MOMENT_SECONDS

    def work(self, seconds: float) -> bool:
        """As `server.workers.turns.Turn.work`."""
        if self.is_over:
            self._steps = None
            return False
        try:
            is_last = self._search(time.monotonic() + seconds)
        except CofferError as error:
            # Its frames lead back to this search: the request would stay until the garbage collector comes, rarely.
            self._error, is_last = error.with_traceback(None), False
        except Exception:  # noqa: BLE001  # the worker must not wait forever
            _log.exception("a query ended with an internal error", name="query.failed")
            self._answer(self, None)
            return False
        if is_last is None:
            return not self.is_over
        self._give(is_last=is_last)
        return False

    def _search(self, until: float) -> bool | None:
        """Continue; returns whether all was found, or None if no part is due yet. Raises the error that ends it."""
        if self._error is not None:
            return False
        before = time.thread_time()
        try:
            self._require_serving()
            if self._steps is None:
                self._steps = iter(self._begin())
            while (step := next(self._steps, _END)) is not _END:
                if step is not None:
                    self._found.append(step)
                self._require_serving()
                if self.spent_seconds + time.thread_time() - before > self._budget:
                    raise self._too_costly()
                now = time.monotonic()
                if len(self._found) >= self._room or now >= self._answer_by:
                    return False
                if now >= until or self.is_over:
                    return None
            return True
        finally:
            self.spent_seconds += time.thread_time() - before

    def _require_serving(self) -> None:
        if self._is_stopping():
            raise UnavailableError("the server is stopping", hint="try again in a moment")

    def _give(self, *, is_last: bool) -> None:
        found, self._found = self._found, []
        if self._error is not None and not found:
            self._steps = None
            self._answer(self, messages.encode(messages.failed(self._error)))
        else:
            self._answer(self, messages.encode(self._pack(found, is_last)))
