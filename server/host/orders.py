"""What is said to a running server from outside: to end, or a signal that it ignores.

Rule: orders come from signal handlers, in the middle of anything, so they only pass through a `SimpleQueue`, whose put
is made for that; what is done and logged about them is done by the thread that waits.
"""

from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final

from coffer.server.observe.logs import get_logger

__all__ = ["Orders"]

_log = get_logger()
_LOOK_SECONDS: Final = 0.5
_END: Final = ""


class Orders:
    """Given by any thread or signal handler, taken by the one that waits."""

    def __init__(self) -> None:
        self._orders: SimpleQueue[str] = SimpleQueue()  # to end, or the name of a signal that is ignored

    def end(self) -> None:
        """Let `wait_for_end` return."""
        self._orders.put(_END)

    def ignore(self, signal: str) -> None:
        """Let `wait_for_end` write that a signal is ignored."""
        self._orders.put(signal)

    def wait_for_end(self, meanwhile: Callable[[], None]) -> None:
        """Block until the end is ordered; call `meanwhile` twice a second till then. Raises what it raises."""
        while not self._is_ended():
            meanwhile()

    def _is_ended(self) -> bool:
        try:
            order = self._orders.get(timeout=_LOOK_SECONDS)
        except Empty:
            return False
        if order != _END:
            _log.info(
                "a signal is ignored",
                name="signal.ignored",
                signal=order,
                remedy="restart to apply a change of coffer.toml; for TLS files run: coffer reload",
            )
        return order == _END
