"""The committing process's end of one line: what came and was not dealt with, what is owed, and the memory for bodies.

Rule: it never waits. A request is dealt with when the one before it was answered and its answer taken; until then what
a worker sends stays where it is, first here, then in the kernel. Descriptors are kept for a body only, one at a time.
"""

import contextlib
import fcntl
import mmap
import os
import socket
import stat
from collections.abc import Callable
from typing import Final

from coffer.server.workers.checks import MAX_REQUEST_BYTES, BrokenRule
from coffer.server.workers.rights import Rights
from coffer.server.workers.search import Search
from coffer.server.workers.transport import SEALS, LineClosed, Wire, framed

__all__ = ["Client"]

_MOST_AHEAD: Final = 64 << 10  # bytes that are read of a line that is owed an answer: so its end is seen
_MOST_WAITING: Final = 8  # descriptors
_MOST_STRAYS: Final = 1000  # descriptors that no message takes, in all


class Client:
    """One line. Used by the coordinator's thread."""

    def __init__(self, sock: socket.socket, host: str, ended: Callable[[], None]) -> None:
        sock.setblocking(False)
        self.wire = Wire(sock, most_bytes=MAX_REQUEST_BYTES)
        self.host = host
        self.ended = ended
        self.rights = Rights(host)
        self.search: Search | None = None
        self.is_owed = False  # an answer is being made
        self.is_gone = False
        self.stuck_since: float | None = None  # an answer waits to be taken
        self._out = bytearray()
        self._map: mmap.mmap | None = None
        self._strays = 0

    # Messages

    @property
    def is_free(self) -> bool:
        """Whether its next request may be dealt with."""
        return not self.is_owed and not self._out and not self.is_gone

    @property
    def may_read(self) -> bool:
        """Whether to look at what it sends."""
        return self.is_free or self.wire.waiting_bytes < _MOST_AHEAD

    @property
    def has_answer(self) -> bool:
        """Whether an answer waits to be taken."""
        return bool(self._out)

    def read(self) -> None:
        """Take in what has come. Raises LineClosed, BrokenRule."""
        self.wire.fill()
        if self.wire.waiting_fds > _MOST_WAITING:
            raise BrokenRule("it sent descriptors that belong to nothing")

    def next(self) -> bytes | None:
        """The next whole request, or None. Raises LineClosed, BrokenRule."""
        message = self.wire.next()
        if message is None and not self.wire.waiting_bytes:
            self._drop_strays()
        return message

    def answer(self, reply: bytes, now: float) -> None:
        """Send a reply, as far as the worker takes it now. Raises LineClosed."""
        self.is_owed = False
        self._out += framed(reply)
        self.stuck_since = now
        self.push()

    def push(self) -> None:
        """Send more of what is owed. Raises LineClosed."""
        try:
            while self._out:
                del self._out[: self.wire.socket.send(self._out)]
        except BlockingIOError:
            return
        except OSError as error:
            raise LineClosed from error
        self.stuck_since = None

    # Bodies

    def body(self, length: int) -> memoryview:
        """The first bytes of the shared memory, mapped anew when the worker has made a new one. The worker may change
        them at any time. Raises BrokenRule."""
        for fd in self.wire.take_fds():
            try:
                self._adopt(fd)
            finally:
                os.close(fd)
        if self._map is None or len(self._map) < length:
            raise BrokenRule("it sent a body without the memory for it")
        return memoryview(self._map)[:length]

    def _adopt(self, fd: int) -> None:
        """Map it where it cannot shrink: to read what is not there any more would end the process (SIGBUS)."""
        try:
            found, seals = os.fstat(fd), fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        except OSError as error:  # a file, a pipe, a socket
            raise BrokenRule("it sent something else than memory") from error
        if not stat.S_ISREG(found.st_mode) or seals & SEALS != SEALS:
            raise BrokenRule("it sent memory that may shrink")
        self.unmap()
        try:
            self._map = mmap.mmap(fd, found.st_size, prot=mmap.PROT_READ)
        except (OSError, ValueError, OverflowError) as error:
            raise BrokenRule("it sent memory that cannot be mapped") from error

    def _drop_strays(self) -> None:
        strays = self.wire.take_fds()
        for fd in strays:
            os.close(fd)
        self._strays += len(strays)
        if self._strays > _MOST_STRAYS:
            raise BrokenRule("it sent descriptors that belong to nothing")

    def unmap(self) -> None:
        """Give the memory back. Harmless when repeated."""
        if self._map is not None:
            with contextlib.suppress(BufferError):  # somebody still looks at it: then it goes when that does
                self._map.close()
            self._map = None

    def close(self) -> None:
        """Close everything; whoever works for it stops."""
        self.is_gone = True
        if self.search is not None:
            self.search.is_over = True
            self.search = None
        self.wire.close()
        self._out.clear()
        self.stuck_since = None
        self.unmap()
