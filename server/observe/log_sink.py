"""Where log lines go: a descriptor that may be slow, full, blocked or gone, and never holds up the logging thread.

Rule: `write` never raises, and never waits once the sink is started. A started sink has a thread of its own and a
bounded queue; before that, and if no thread is available, the logging thread writes itself and waits a second at most.
A line that cannot be written is counted, and the count is logged as soon as the log can be written again.
"""

import atexit
import contextlib
import os
import select
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final, TextIO

__all__ = ["LogSink"]

_MOST_LINES: Final = 4096
_LONGEST_BYTES: Final = 4000  # below PIPE_BUF even with its ends: lines of several processes in one pipe stay whole
_DIRECT_SECONDS: Final = 1.0  # how long a command, which has no thread for it, waits for a slow reader
_LAST_SECONDS: Final = 2.0  # how long the end of the process waits for the rest of the queue
_PAUSE_SECONDS: Final = 0.5


class LogSink:
    """A text stream that loses lines rather than time. Thread-safe, also from a signal handler or a finaliser."""

    def __init__(self, stream: TextIO | None) -> None:
        """`stream` None: every line is lost."""
        self.stream = stream
        self.format_lost: Callable[[int], str] = "{} log lines were lost".format  # makes the line that reports losses
        self._lines: SimpleQueue[bytes] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._wants_thread = False
        self._lock = threading.RLock()
        self._lost = self._unreported = 0
        self._is_torn = False  # the last line was written only in part
        self._written = threading.Event()

    @property
    def lost(self) -> int:
        """How many lines were lost since the process started."""
        return self._lost

    @property
    def is_losing(self) -> bool:
        """Whether lines were lost that the log has not reported yet."""
        return self._unreported > 0

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            return self.stream is not None and self.stream.isatty()
        return False

    def fileno(self) -> int:
        """The stream's descriptor, -1 if it has none."""
        with contextlib.suppress(OSError, ValueError, AttributeError):
            return -1 if self.stream is None else self.stream.fileno()
        return -1

    def start(self) -> None:
        """Write in a thread of its own from now on. If none is available, the next line tries again."""
        with self._lock:
            self._wants_thread = True
            if self._thread is not None:
                return
            thread = threading.Thread(target=self._run, name="log", daemon=True)
            with contextlib.suppress(RuntimeError, MemoryError):
                thread.start()
                self._thread = thread
                atexit.register(self.drain)

    def write(self, text: str) -> int:
        """Accept one line, or part of it. Never raises, and never waits for the descriptor once the sink is started."""
        with contextlib.suppress(Exception):
            line = text.encode("utf-8", "replace")
            if len(line) > _LONGEST_BYTES:
                line = line[:_LONGEST_BYTES] + b" ...\n"
            if self._wants_thread:
                self.start()
            if self._thread is None:
                self._put_directly(line)
            elif self._lines.qsize() >= _MOST_LINES:
                self.lose()
            else:
                self._lines.put(line)
        return len(text)

    def flush(self) -> None:
        """Nothing to do: this sink does not buffer."""

    def drain(self, seconds: float = _LAST_SECONDS) -> None:
        """Wait until everything logged is written, at most `seconds`."""
        deadline = time.monotonic() + seconds
        while self._thread is not None and not self._lines.empty() and time.monotonic() < deadline:
            time.sleep(0.01)
        self._written.wait(max(0.0, min(0.2, deadline - time.monotonic())))

    def lose(self) -> None:
        """Count a line that could not be written."""
        with self._lock:
            self._lost += 1
            self._unreported += 1

    def _put_directly(self, line: bytes) -> None:
        if not self._put(line, _DIRECT_SECONDS):
            self.lose()

    def _run(self) -> None:
        while True:
            with contextlib.suppress(Exception):  # out of memory: this line is lost, the next one may not be
                self._next()

    def _next(self) -> None:
        try:
            line = self._lines.get(timeout=_PAUSE_SECONDS)
        except Empty:
            line = b""
        self._written.clear()
        done = False
        try:
            done = self._report_lost() and (not line or self._put(line))
        finally:
            self._written.set()
            if line and not done:
                self.lose()

    def _report_lost(self) -> bool:
        """Write how many lines were lost, if any were; False if that cannot be written either."""
        unreported = self._unreported
        if unreported and not self._put(self.format_lost(unreported).encode("utf-8", "replace") + b"\n"):
            return False
        with self._lock:
            self._unreported -= unreported
        return True

    def _put(self, line: bytes, seconds: float | None = None) -> bool:
        """Write a whole line, waiting `seconds` for the reader (None: forever); False if it is lost."""
        if self.stream is None:
            return False
        try:
            descriptor = self.stream.fileno()
        except (OSError, ValueError, AttributeError):
            return self._put_text(line)
        view = memoryview(b"\n" + line if self._is_torn else line)
        deadline = None if seconds is None else time.monotonic() + seconds
        whole = len(view)
        try:
            while view:
                self._wait(descriptor, deadline)
                view = view[os.write(descriptor, view) :]
        except (OSError, ValueError):
            self._is_torn = self._is_torn or len(view) < whole
            return False
        self._is_torn = not line.endswith(b"\n")
        return True

    def _put_text(self, line: bytes) -> bool:
        """Write to a stream that has no descriptor: memory, in tests."""
        assert self.stream is not None
        try:
            self.stream.write(line.decode("utf-8", "replace"))
        except (OSError, ValueError):
            return False
        return True

    @staticmethod
    def _wait(descriptor: int, deadline: float | None) -> None:
        """Return when the descriptor takes data. Raises TimeoutError; any other error appears in the write itself."""
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        wait = None if deadline is None else 1000 * max(0.0, deadline - time.monotonic())
        if not poll.poll(wait):
            raise TimeoutError
