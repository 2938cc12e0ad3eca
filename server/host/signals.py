"""Signals to the server: which stop it and which are ignored; none of them interrupts work.

Rule: SIGTERM and SIGINT order the server to stop, however often they come: running work is finished first. SIGHUP does
the same if the server was started from a terminal, which is then closing; without a terminal it is ignored, as it is
under nohup. SIGUSR1 and SIGUSR2 are ignored; Python ignores SIGPIPE. Handlers take no lock and log nothing.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any, Final, Self

__all__ = ["EndOrdered", "Signals"]

_ENDING: Final = (signal.SIGTERM, signal.SIGINT)
_IGNORED: Final = (signal.SIGUSR1, signal.SIGUSR2)


class EndOrdered(BaseException):  # an order, not an error; no handler of errors may catch it
    """A signal ordered the server to stop while it was starting."""


class Signals:
    """Handles signals from enter to exit. Use it in the main thread."""

    def __init__(self) -> None:
        self._end: Callable[[], None] = lambda: None
        self._ignore: Callable[[str], None] = lambda _: None
        self._interrupts = False
        self._is_ordered = False
        self._before: dict[signal.Signals, Any] = {}

    def notify(self, end: Callable[[], None], ignore: Callable[[str], None]) -> None:
        """Call `end` for each order to stop, including one that has arrived already, and `ignore` with the name of each
        signal that is ignored.

        Both are called in the middle of any code: they may only use what is safe there (`SimpleQueue.put`).
        """
        self._end, self._ignore = end, ignore
        if self._is_ordered:
            end()

    def __enter__(self) -> Self:
        handlers: dict[signal.Signals, Callable[[int, FrameType | None], None]] = {
            **dict.fromkeys(_ENDING, self._on_end),
            **dict.fromkeys(_IGNORED, self._on_ignored),
            signal.SIGHUP: self._on_end if _has_terminal() else self._on_ignored,
        }
        for number, handler in handlers.items():
            before = signal.getsignal(number)
            if number != signal.SIGHUP or before != signal.SIG_IGN:  # nohup has set SIG_IGN: keep it
                self._before[number] = before
                signal.signal(number, handler)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """While the block runs, the first order to stop raises EndOrdered in it.

        For work that may take long and survives being left in the middle, as it survives a power cut: opening the
        archive.
        """
        self._interrupts = True
        try:
            if self._is_ordered:
                self._interrupts = False
                raise EndOrdered
            yield
        finally:
            self._interrupts = False

    def _on_end(self, _number: int, _frame: FrameType | None) -> None:
        self._is_ordered = True
        self._end()
        if self._interrupts:
            self._interrupts = False  # a second signal must not interrupt the handling of the first
            raise EndOrdered

    def _on_ignored(self, number: int, _frame: FrameType | None) -> None:
        self._ignore(signal.Signals(number).name)


def _has_terminal() -> bool:
    """Whether this process has a controlling terminal, which sends SIGHUP when it closes."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
