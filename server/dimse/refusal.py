"""Reject a connection (PS3.8 9.3.4) without a thread of its own that would read its request first.

Rule: the rejection is sent at once. Closing a socket with unread bytes resets the connection, which would overtake the
answer; so what arrives of the request is read and dropped: for a moment, or in one thread for all of a flood.
"""

import contextlib
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from coffer.server.dimse.protocol import negotiation
from coffer.server.dimse.protocol.negotiation import Rejection

__all__ = ["MOST_LINGERING", "Refusals", "refuse_at_once"]

MOST_LINGERING: Final = 256  # rejected connections whose peer has not closed yet; one costs a descriptor
_MOMENT_SECONDS: Final = 0.02
_LINGER_SECONDS: Final = 2.0
_READ_BYTES: Final = 64 << 10


def refuse_at_once(connection: socket.socket, rejection: Rejection) -> None:
    """Send an A-ASSOCIATE-RJ and close; waits for 20 ms at most. For a process that is short of descriptors or threads.

    What has arrived of the request is read first.
    """
    with connection, contextlib.suppress(OSError):
        connection.settimeout(_MOMENT_SECONDS)
        with contextlib.suppress(TimeoutError):
            connection.recv(_READ_BYTES)
        connection.send(negotiation.reject(rejection))
        connection.shutdown(socket.SHUT_WR)


@dataclass(frozen=True, slots=True)
class _Lingering:
    """A connection that was rejected, and when it is closed at the latest (monotonic, s)."""

    connection: socket.socket
    until: float


class Refusals:
    """Rejects connections of a flood without waiting for any. Thread-safe.

    Each is held for two seconds at most, until its peer closes: `MOST_LINGERING` of them, then the oldest is closed.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._lingering: deque[_Lingering] = deque()
        self._thread: threading.Thread | None = None
        self._is_over = False

    def reject(self, connection: socket.socket, rejection: Rejection) -> None:
        """Send an A-ASSOCIATE-RJ and take the connection over. Returns at once; never raises for the connection."""
        try:
            connection.setblocking(False)
            connection.send(negotiation.reject(rejection))
            connection.shutdown(socket.SHUT_WR)
        except OSError:
            connection.close()
            return
        with self._changed:
            if self._is_over or not self._has_thread():
                connection.close()
                return
            if len(self._lingering) >= MOST_LINGERING:
                self._lingering.popleft().connection.close()
            self._lingering.append(_Lingering(connection, self._clock() + _LINGER_SECONDS))
            self._changed.notify()

    def stop(self) -> None:
        """Close every connection, and reject no more. Harmless if repeated."""
        with self._changed:
            self._is_over = True
            while self._lingering:
                self._lingering.pop().connection.close()
            self._changed.notify()
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    def _has_thread(self) -> bool:
        """Whether the one thread runs; begin it with the first connection. False if the system provides none now."""
        if self._thread is None:
            thread = threading.Thread(target=self._drain, name="rejecting", daemon=True)
            try:
                thread.start()
            except (RuntimeError, MemoryError):
                return False
            self._thread = thread
        return True

    def _drain(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_over or self._lingering)
                if self._is_over:
                    return
                now = self._clock()
                self._lingering = deque(each for each in self._lingering if not _is_done(each, now))
            time.sleep(_MOMENT_SECONDS)


def _is_done(each: _Lingering, now: float) -> bool:
    """Read and drop what has arrived; close the connection if its peer has closed it, or its time is over."""
    try:
        is_closed = not each.connection.recv(_READ_BYTES)
    except BlockingIOError:
        is_closed = False
    except OSError:
        is_closed = True
    if is_closed or now >= each.until:
        each.connection.close()
        return True
    return False
