"""The committing process's end of one line: unhandled messages, the owed answer, and the memory for bodies.

Rule: it never blocks. A request is handled once the previous one was answered and its answer was read; until then what
a worker sends stays buffered, first here, then in the kernel. Descriptors are kept for a body only, one at a time.
"""

import contextlib
import fcntl
import mmap
import os
import socket
import stat
from collections.abc import Callable
from typing import Final

from coffer.keys.memory.secret import Secret
from coffer.server.access.principal import Principal
from coffer.server.identity.admission import Connected
from coffer.server.identity.identification import Identification
from coffer.server.workers.checks import MAX_REQUEST_BYTES, BrokenRule
from coffer.server.workers.rights import Rights
from coffer.server.workers.search import Search
from coffer.server.workers.transport import SEALS, LineClosed, Wire, framed, poured

__all__ = ["Client"]

_MOST_AHEAD: Final = 64 << 10  # bytes read ahead while an answer is owed, so that a closed line is noticed
_MOST_WAITING: Final = 8  # descriptors
_MOST_STRAYS: Final = 1000  # descriptors that belong to no message, in total


class Client:
    """One line. Used by the coordinator's thread."""

    def __init__(
        self,
        sock: socket.socket,
        by: Connected,
        ended: Callable[[], None],
        withdraw: Callable[[], None] = lambda: None,
    ) -> None:
        """`ended` is called once, when the line is closed; `withdraw` when its association has to end, and returns at
        once."""
        sock.setblocking(False)
        self.wire = Wire(sock, most_bytes=MAX_REQUEST_BYTES)
        self.by = by
        self.host = by.host
        self.ended = ended
        self.withdraw = withdraw
        self.withdrawn_at: float | None = None  # monotonic, in seconds: when it was
        self.rights = Rights()
        self.search: Search | None = None
        self.identification: Identification | None = None
        self.is_owed = False  # an answer is being prepared
        self.is_gone = False
        self.stuck_since: float | None = None  # since when an answer waits to be read
        self._out = bytearray()
        self._beside: int | None = None  # the pipe with a key that belongs to the answer
        self._map: mmap.mmap | None = None
        self._strays = 0

    @property
    def caller(self) -> Principal | None:
        """Who was let in; None before anybody was."""
        return self.rights.bound

    # Messages

    @property
    def is_free(self) -> bool:
        """Whether its next request may be handled."""
        return not self.is_owed and not self._out and not self.is_gone

    @property
    def may_read(self) -> bool:
        """Whether to read what it sends."""
        return self.is_free or self.wire.waiting_bytes < _MOST_AHEAD

    @property
    def has_answer(self) -> bool:
        """Whether an answer waits to be read by the worker."""
        return bool(self._out)

    def read(self) -> None:
        """Read what has arrived. Raises LineClosed, BrokenRule."""
        self.wire.fill()
        if self.wire.waiting_fds > _MOST_WAITING:
            raise BrokenRule("it sent descriptors that belong to nothing")

    def next(self) -> bytes | None:
        """The next whole request, or None. Raises LineClosed, BrokenRule."""
        message = self.wire.next()
        if message is None and not self.wire.waiting_bytes:
            self._drop_strays()
        return message

    def answer(self, reply: bytes, now: float, key: Secret | None = None) -> None:
        """Send a reply, with a key in a pipe beside it, as far as the worker reads it now. Raises LineClosed."""
        self.is_owed = False
        self._out += framed(reply)
        self.stuck_since = now
        if key is not None:
            try:
                self._beside = poured(key)
            except OSError as error:
                raise LineClosed from error
        self.push()

    def push(self) -> None:
        """Send more of the pending answer. Raises LineClosed."""
        try:
            while self._out:
                del self._out[: self._send()]
        except BlockingIOError:
            return
        except OSError as error:
            raise LineClosed from error
        self.stuck_since = None

    def _send(self) -> int:
        """Send what the kernel takes of the answer, with the key beside its first bytes. Raises OSError."""
        if self._beside is None:
            return self.wire.socket.send(self._out)
        sent = socket.send_fds(self.wire.socket, [self._out], [self._beside])
        self._drop_beside()
        return sent

    def _drop_beside(self) -> None:
        if self._beside is not None:
            os.close(self._beside)
            self._beside = None

    # Bodies

    def body(self, length: int) -> memoryview:
        """The first bytes of the shared memory, mapped again if the worker created a new one. The worker may change
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
        """Map it if it cannot shrink: reading beyond its end would kill the process (SIGBUS)."""
        try:
            found, seals = os.fstat(fd), fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        except OSError as error:  # a file, a pipe, a socket
            raise BrokenRule("it sent something other than memory") from error
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
        """Release the memory. Harmless when repeated."""
        if self._map is not None:
            with contextlib.suppress(BufferError):  # a view still exists: it is unmapped with that
                self._map.close()
            self._map = None

    def close(self) -> None:
        """Close everything; a search for this line stops."""
        self.is_gone = True
        if self.search is not None:
            self.search.is_over = True
            self.search = None
        self.wire.close()
        self._out.clear()
        self._drop_beside()
        self.stuck_since = None
        self.unmap()
