"""Bytes between a TLS connection and a clear socket, in both directions, in one thread and bounded memory.

Rule: it looks at no byte. What one side does not take is not read from the other; the end of either side reaches the
other after what was read before it. `cut` ends it at once, from any thread.
"""

import contextlib
import select
import socket
import ssl
import time
from typing import Final

from coffer.server.host.sockets import is_readable

__all__ = ["CLEAR_BUFFER", "Relay"]

_BUFFER: Final = 128 << 10  # in each direction
CLEAR_BUFFER: Final = 1 << 20  # of the clear socket: an object of usual size is handed over at once
_LINGER_SECONDS: Final = 1.0
_IN, _OUT, _GONE = select.POLLIN, select.POLLOUT, select.POLLHUP | select.POLLERR
_QUICK_ACK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)


class Relay:
    """One connection after its handshake. `run` is called by one thread, once."""

    def __init__(self, tls: ssl.SSLSocket, clear: socket.socket) -> None:
        """Both sockets are the relay's from now on: it closes them."""
        tls.setblocking(False)
        clear.setblocking(False)
        self._tls, self._clear = tls, clear
        self._in, self._out = bytearray(_BUFFER), bytearray(_BUFFER)
        self._to_clear, self._to_tls = memoryview(b""), memoryview(b"")
        self._must_send = False  # TLS itself has something to send before it reads on
        self._tls_fd, self._clear_fd = tls.fileno(), clear.fileno()
        self._wanted = _IN, _IN
        self._poll = select.poll()
        for fd in (self._tls_fd, self._clear_fd):
            self._poll.register(fd, _IN)
        self._is_over = False
        self.turns = 0  # how often it was woken

    def run(self) -> None:
        """Pass bytes on until one side ends. Raises nothing that a peer can cause."""
        try:
            while not self._is_over:
                self._wait()
        except (OSError, ValueError):  # either side broke, or was cut
            pass
        finally:
            self._close()

    def cut(self) -> None:
        """End it at once."""
        for each in (self._tls, self._clear):
            with contextlib.suppress(OSError, ValueError):
                socket.socket.shutdown(each, socket.SHUT_RDWR)

    def _wait(self) -> None:
        of_tls, of_clear = self._ready()
        self.turns += 1
        if of_tls & _OUT and self._to_tls:
            self._send_tls()
        if of_clear & _OUT and self._to_clear:
            self._send_clear()
        if of_tls and not self._to_clear:
            self._read_tls()
        elif of_tls & _GONE:
            self._finish_clear()
        if self._is_over:
            return
        if of_clear & _GONE:
            self._finish_tls()
        elif of_clear & _IN and not self._to_tls:
            self._read_clear()

    def _ready(self) -> tuple[int, int]:
        """What can be done on either side, as soon as anything can that is wanted."""
        wants_tls = _OUT if self._to_tls or self._must_send else 0
        wants_tls |= 0 if self._to_clear or self._must_send else _IN
        wants_clear = (0 if self._to_tls else _IN) | (_OUT if self._to_clear else 0)
        if (wants_tls, wants_clear) != self._wanted:
            self._wanted = wants_tls, wants_clear
            self._poll.modify(self._tls_fd, wants_tls)
            self._poll.modify(self._clear_fd, wants_clear)
        # OpenSSL may hold bytes that the socket has delivered already: there is nothing to wait for then.
        if wants_tls & _IN and self._tls.pending():
            return _IN, 0
        of_tls = of_clear = 0
        for fd, events in self._poll.poll():
            if fd == self._tls_fd:
                of_tls = events
            else:
                of_clear = events
        return of_tls, of_clear

    def _read_tls(self) -> None:
        """Read what has arrived, record by record, and hand it over together. To ask before each record whether another
        has come costs more than the exception that says once that none has."""
        view, end = memoryview(self._in), 0
        is_over = self._must_send = False
        try:
            while True:
                got = self._tls.recv_into(view[end:])
                end, is_over = end + got, not got
                if is_over or end == _BUFFER:
                    break
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLWantWriteError:  # it owes the peer an answer of its own (TLS 1.3 KeyUpdate)
            self._must_send = True
        except OSError:
            is_over = True
        self._acknowledge()
        self._to_clear = view[:end]
        if end:
            self._send_clear()
        if is_over:
            self._finish_clear()

    def _acknowledge(self) -> None:
        """Acknowledge at once, as `server.dimse.protocol.connection` does without TLS, for the same reason."""
        if _QUICK_ACK is not None:
            with contextlib.suppress(OSError):
                self._tls.setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 1)

    def _send_clear(self) -> None:
        try:
            self._to_clear = self._to_clear[self._clear.send(self._to_clear) :]
        except BlockingIOError:
            return

    def _finish_clear(self) -> None:
        """The peer has ended: what it sent before is still the receiver's."""
        self._is_over = True
        self._clear.settimeout(_LINGER_SECONDS)
        self._clear.sendall(self._to_clear)

    def _finish_tls(self) -> None:
        """Our side has ended: what it sent before is still the peer's."""
        self._tls.settimeout(_LINGER_SECONDS)
        self._tls.sendall(self._to_tls)
        while got := self._clear.recv_into(self._out):
            self._tls.sendall(memoryview(self._out)[:got])
        self._end_tls()

    def _read_clear(self) -> None:
        try:
            got = self._clear.recv_into(self._out)
        except BlockingIOError:
            return
        if not got:
            self._end_tls()
            return
        self._to_tls = memoryview(self._out)[:got]
        self._send_tls()

    def _send_tls(self) -> None:
        try:
            self._to_tls = self._to_tls[self._tls.send(self._to_tls) :]
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return

    def _end_tls(self) -> None:
        """Our side has sent its last byte: say so, and give the peer a moment to read it and to close first."""
        self._is_over = True
        with contextlib.suppress(OSError, ValueError):
            self._tls.unwrap()
        with contextlib.suppress(OSError, ValueError):
            socket.socket.shutdown(self._tls, socket.SHUT_WR)
            deadline = time.monotonic() + _LINGER_SECONDS
            while (left := deadline - time.monotonic()) > 0 and is_readable(self._tls, left):
                if not socket.socket.recv(self._tls, _BUFFER):
                    return

    def _close(self) -> None:
        self.cut()
        self._clear.close()
        self._tls.close()
