"""One TCP connection: whole PDUs in, buffers out, and a deadline on everything.

Rule: no call waits for ever. A peer that is silent, or drips bytes, costs one thread for a bounded time and one buffer
of the announced PDU size; nothing is allocated for a length that the peer only claims.
"""

import contextlib
import select
import socket
import time
from collections.abc import Sequence
from typing import Final

from server.dimse import pdu

_FIRST_BUFFER: Final = 16 << 10
_LINGER_SECONDS: Final = 1.0
_QUICK_ACK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)


class ConnectionClosed(Exception):  # noqa: N818  # the end of a connection is an event, not always an error
    """The peer is gone, or was too slow; nothing more can be sent or read."""


class Connection:
    """Reads and writes PDUs on one socket. Used by one thread at a time; `close` may come from another.

    `gap_seconds` bounds the wait inside a PDU and for the peer to take what is sent.
    """

    def __init__(self, sock: socket.socket, *, max_pdu: int, gap_seconds: float) -> None:
        # An answer must not wait for the acknowledgement of the one before it (Nagle, 40 ms each).
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = sock
        self._max_pdu = max_pdu
        self._gap_seconds = gap_seconds
        self._buffer = bytearray(_FIRST_BUFFER)
        self._header = bytearray(pdu.HEADER.size)

    def read_pdu(self, wait_seconds: float) -> tuple[int, memoryview]:
        """The next PDU's type and body; the view is valid until the next read.

        Waits up to `wait_seconds` for its first byte. Raises ConnectionClosed, ProtocolError.
        """
        header = memoryview(self._header)
        self._acknowledge()
        self._fill(header[:1], wait_seconds)
        self._fill(header[1:], self._gap_seconds)
        kind, length = pdu.parse_header(header, self._max_pdu)
        if length > len(self._buffer):
            # At most the announced PDU size, or the bounded size of an association request.
            self._buffer = bytearray(length)
        body = memoryview(self._buffer)[:length]
        self._fill(body, self._gap_seconds)
        return kind, body

    def _acknowledge(self) -> None:
        """Acknowledge at once what has come in.

        A sender with Nagle's algorithm on (DCMTK, Orthanc by default) holds its next small PDU back until we do, 40 ms
        for every object. Linux forgets the option, so it is set each time.
        """
        if _QUICK_ACK is not None:
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 1)

    def _fill(self, view: memoryview, seconds: float) -> None:
        """Fill the view before the deadline: the whole of it, so that dripping single bytes gains no time."""
        got, size, deadline = 0, len(view), time.monotonic() + seconds
        try:
            while got < size:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise ConnectionClosed("the peer was silent for too long")
                self._socket.settimeout(left)
                count = self._socket.recv_into(view[got:])
                if not count:
                    raise ConnectionClosed("the peer closed the connection")
                got += count
        except TimeoutError as error:
            raise ConnectionClosed("the peer was silent for too long") from error
        except (OSError, ValueError) as error:
            raise ConnectionClosed("the connection broke") from error

    def send(self, buffers: Sequence[bytes | memoryview]) -> None:
        """Send everything in order. Raises ConnectionClosed when the peer does not take it in time."""
        try:
            self._socket.settimeout(self._gap_seconds)
            self._socket.sendall(b"".join(buffers))
        except (OSError, ValueError) as error:
            raise ConnectionClosed("the peer does not take what is sent") from error

    def is_readable(self) -> bool:
        """Whether the peer has sent something that was not read yet."""
        try:
            return bool(select.select([self._socket], [], [], 0)[0])
        except (OSError, ValueError):
            return True

    def close(self, *, gracefully: bool = False) -> None:
        """Close; `gracefully` lets the peer close first for a second, so that our last PDU is not lost (PS3.8 AA-2)."""
        if gracefully:
            with contextlib.suppress(OSError, ValueError):
                self._socket.shutdown(socket.SHUT_WR)
                self._socket.settimeout(_LINGER_SECONDS)
                while self._socket.recv(_FIRST_BUFFER):
                    pass
        self.cut()

    def cut(self) -> None:
        """Break the connection at once, from any thread: a read that waits ends with ConnectionClosed."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
