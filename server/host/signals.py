"""Signals to the server: which end it, which do nothing, and that none of them cuts anything short.

Rule: SIGTERM and SIGINT order the end, however often they come: what is under way is finished first. SIGHUP does the
same where the server was started from a terminal, which is then closing; without one there is nobody to speak for, and
it is ignored, as it is under nohup. SIGUSR1 and SIGUSR2 are ignored; SIGPIPE is by Python. Handlers take no lock and
write no line.
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


class EndOrdered(BaseException):  # an order, not an error; nothing below may take it for one
    """The end was ordered while the server was being opened."""


class Signals:
    """Catches signals from enter to exit. Use it in the main thread."""

    def __init__(self) -> None:
        self._end: Callable[[], None] = lambda: None
        self._ignore: Callable[[str], None] = lambda _: None
        self._interrupts = False
        self._is_ordered = False
        self._before: dict[signal.Signals, Any] = {}

    def tell(self, end: Callable[[], None], ignore: Callable[[str], None]) -> None:
        """Call `end` for each order to end, also for one that has come already, and `ignore` with the name of each
        signal that is ignored.

        Both are called in the middle of anything: they may only use what is made for that (`SimpleQueue.put`).
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
            if number != signal.SIGHUP or before != signal.SIG_IGN:  # nohup asks for just that
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
        """While the block runs, the first order to end raises EndOrdered in it.

        For what may take long and is as safe to leave in the middle as by a power cut: opening the archive.
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
            self._interrupts = False  # what is done about the first one is not interrupted by a second
            raise EndOrdered

    def _on_ignored(self, number: int, _frame: FrameType | None) -> None:
        self._ignore(signal.Signals(number).name)


def _has_terminal() -> bool:
    """Whether this process belongs to a terminal, whose end it would be told of by SIGHUP."""
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
