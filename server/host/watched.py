"""A thread that the service needs: started again when it dies, told of while it cannot stay alive.

Rule: a shortage (memory, descriptors, a library's fault) must pass without a restart of the server, and whatever does
not pass must show. The thread begins its work again by itself, so that no new thread is needed when there are none.
What the work had in its hands when it died is the work's own business: it begins again as after a crash.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Final

from coffer.server.host.headroom import what_ran_out
from coffer.server.observe.logs import get_logger

__all__ = ["Watched"]

_log = get_logger()
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 5.0
_WELL_SECONDS: Final = 10.0  # a run of so long ends a row of deaths
_PATIENCE_SECONDS: Final = 60.0


class Watched:
    """Runs `work` in a thread from `start` until `stopping` is set and it returns."""

    def __init__(
        self,
        name: str,
        work: Callable[[], None],
        stopping: threading.Event,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`work` ends soon after `stopping` is set; that it ends before counts as its death, like an exception."""
        self.name = name
        self._work = work
        self._stopping = stopping
        self._clock = clock
        self.deaths = 0
        self._row = 0  # deaths one soon after the other
        self._row_began = 0.0
        self._begun: float | None = None  # when the present run did
        self._went_on: float | None = None
        self._cause = ""
        self._is_shortage = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin. Raises RuntimeError where the system gives no thread."""
        self._thread.start()

    def join(self, seconds: float | None = None) -> None:
        """Wait for the end, at most so long. Harmless where it was never started."""
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(seconds)

    def go_on(self) -> None:
        """Called by the work, often: it is not stuck. Work that never calls it is not looked at."""
        self._went_on = self._clock()

    def silent_seconds(self) -> float:
        """For how long the work, which says so otherwise, has not said that it goes on; 0 if it has ended or died, for
        which there are `trouble` and `is_lost`."""
        if self._went_on is None or self._begun is None or self._stopping.is_set():
            return 0.0
        return self._clock() - max(self._went_on, self._begun)

    def is_alive(self) -> bool:
        """Whether its thread runs, be it between a death and the next beginning."""
        return self._thread.is_alive()

    def trouble(self) -> str:
        """What a human should know: it died lately, or is not running at all; empty when all is well."""
        if self._stopping.is_set() or self._thread.ident is None:
            return ""
        if not self.is_alive():
            return f"the thread for {self.name} is gone"
        if not self._row or self._is_well():
            return ""
        return f"{self.name} died {self._row} times and is started again each time: {self._cause}"

    def is_lost(self) -> bool:
        """Whether to start it again has been of no use for a minute: it will not come back by itself.

        A shortage may last longer than that, and is over one day.
        """
        if self._stopping.is_set() or self._thread.ident is None:
            return False
        is_dying = bool(self._row) and not self._is_well() and not self._is_shortage
        return not self.is_alive() or (is_dying and self._clock() - self._row_began > _PATIENCE_SECONDS)

    def _is_well(self) -> bool:
        begun = self._begun
        return begun is not None and self._clock() - begun >= _WELL_SECONDS

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._begun = self._clock()
            try:
                self._work()
                if self._stopping.is_set():
                    return
                self._die(None)
            except Exception as error:  # noqa: BLE001  # whatever it is, the service needs this thread
                self._die(error)
            self._stopping.wait(min(_FIRST_PAUSE_SECONDS * 2 ** min(self._row, 10), _LONGEST_PAUSE_SECONDS))

    def _die(self, error: Exception | None) -> None:
        with contextlib.suppress(Exception):  # out of memory even for this
            self.deaths += 1
            if self._is_well() or not self._row:
                self._row, self._row_began = 0, self._clock()
            self._row += 1
            self._begun = None
            self._is_shortage = error is not None and what_ran_out(error) != ""
            self._cause = "it ended by itself" if error is None else type(error).__name__
            if self._row.bit_count() == 1:  # the first, second, fourth ...: no flood while it lasts
                _log.error(
                    "a thread died and is started again",
                    name="thread.died",
                    what=self.name,
                    times=self._row,
                    exc_info=error,
                )
