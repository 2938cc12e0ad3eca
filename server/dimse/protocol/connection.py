"""One TCP connection: whole PDUs in, buffers out, and a deadline on everything.

Rule: no call waits forever. A peer that is silent, or drips bytes, costs one thread for a bounded time and one buffer
of the announced PDU size; nothing is allocated for a length that the peer merely claims.
"""

import contextlib
import os
import socket
import time
from collections.abc import Sequence
from typing import Final

from coffer.server.dimse.protocol import pdu
from coffer.server.host.sockets import is_readable, is_writable
from coffer.server.observe.reached import Abort

_AHEAD: Final = 16 << 10  # read beyond what is needed: small PDUs come in one call, of large ones little is moved
_LINGER_SECONDS: Final = 1.0
_GATHERED_BYTES: Final = 64 << 10  # up to this size it is cheaper to join buffers than to list them
_MOST_BUFFERS: Final = 512
_LEAST_SECONDS: Final = 0.001  # 0 would be no wait but another mode of the socket
_SILENT: Final = "the peer was silent for too long"
_QUICK_ACK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)


class ConnectionClosed(Exception):  # noqa: N818  # the end of a connection is an event, not always an error
    """The peer is gone or was too slow; nothing more can be sent or read."""


class PeerSilent(ConnectionClosed):
    """The peer has used up its time: it sent nothing, or too slowly, or for too long; an A-ABORT can still be sent.
    `counted` is the word under which it is counted."""

    def __init__(self, what: str, counted: Abort = Abort.GAP) -> None:
        super().__init__(what)
        self.counted = counted


class Connection:
    """Reads and writes PDUs on one socket. Used by one thread at a time; `cut` may be called from another.

    `gap_seconds` bounds the wait inside a PDU, and the wait for the peer to take what is sent.
    """

    def __init__(self, sock: socket.socket, *, max_pdu: int, gap_seconds: float) -> None:
        # A response must not wait for the acknowledgement of the previous one (Nagle, 40 ms each).
        self._is_tcp = sock.family != socket.AF_UNIX  # clear bytes of a TLS connection come over a socket pair
        if self._is_tcp:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = sock
        self._max_pdu = max_pdu
        self._gap_seconds = gap_seconds
        self._timeout = -1.0
        self._set_timeout(gap_seconds)
        # Bytes start:end of the buffer were read from the socket and not returned yet.
        self._buffer = bytearray(_AHEAD)
        self._start = self._end = 0

    def read_pdu(self, wait_seconds: float, *, whole: bool = False) -> tuple[int, memoryview]:
        """The next PDU's type and body; the view is valid until the next read.

        Waits up to `wait_seconds` for its first byte, or if `whole` for its last one, too. Raises ConnectionClosed,
        ProtocolError.
        """
        until = time.monotonic() + wait_seconds

        def gap_seconds() -> float:
            return max(_LEAST_SECONDS, until - time.monotonic()) if whole else self._gap_seconds

        self._need(1, wait_seconds, Abort.IDLE)
        self._need(pdu.HEADER.size, gap_seconds())
        body = self._start + pdu.HEADER.size
        kind, length = pdu.parse_header(memoryview(self._buffer)[self._start : body], self._max_pdu)
        self._need(pdu.HEADER.size + length, gap_seconds())
        body = self._start + pdu.HEADER.size
        self._start = body + length
        return kind, memoryview(self._buffer)[body : self._start]

    def _need(self, count: int, seconds: float, counted: Abort = Abort.GAP) -> None:
        """Read until `count` bytes are in the buffer, under one deadline, so that dripping single bytes gains no time.

        Reads a little more if it has arrived: the next PDU's header, or several small PDUs.
        """
        have = self._end - self._start
        if have >= count:
            return
        self._make_room(count)
        deadline = time.monotonic() + seconds
        buffer, stop = memoryview(self._buffer), self._start + count + _AHEAD
        try:
            while self._end - self._start < count:
                self._acknowledge()
                self._set_timeout(seconds)
                got = self._socket.recv_into(buffer[self._end : stop])
                if not got:
                    raise ConnectionClosed("the peer closed the connection")
                self._end += got
                seconds = deadline - time.monotonic()
                if seconds <= 0 and self._end - self._start < count:
                    raise PeerSilent(_SILENT, counted)
        except TimeoutError as error:
            raise PeerSilent(_SILENT, counted) from error
        except (OSError, ValueError) as error:
            raise ConnectionClosed("the connection broke") from error

    def _make_room(self, count: int) -> None:
        """Make `count` bytes from the start fit into the buffer.

        It grows to what a checked PDU header announces: at most one PDU of the size that we announced, and a little.
        """
        have = self._end - self._start
        if self._start + count <= len(self._buffer) and have:
            return
        rest = memoryview(self._buffer)[self._start : self._end]
        if count > len(self._buffer):
            self._buffer = bytearray(count + _AHEAD)
        memoryview(self._buffer)[:have] = rest
        self._start, self._end = 0, have

    def _acknowledge(self) -> None:
        """Acknowledge at once what has arrived.

        A sender with Nagle's algorithm on (DCMTK, Orthanc by default) holds its next small PDU back until we do: 40 ms
        for every object. Linux resets the option, so it is set each time.
        """
        if self._is_tcp and _QUICK_ACK is not None:
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.IPPROTO_TCP, _QUICK_ACK, 1)

    def _set_timeout(self, seconds: float) -> None:
        if seconds != self._timeout:
            self._socket.settimeout(seconds)
            self._timeout = seconds

    def send(self, buffers: Sequence[bytes | memoryview]) -> None:
        """Send everything in order. Raises ConnectionClosed if the peer does not take it in time."""
        try:
            if sum(map(len, buffers)) < _GATHERED_BYTES:
                self._send_views([memoryview(b"".join(buffers))])
            else:
                self._send_views([memoryview(buffer) for buffer in buffers])
        except (OSError, ValueError) as error:
            raise ConnectionClosed("the peer does not take what is sent") from error

    def _send_views(self, views: list[memoryview]) -> None:
        """Hand buffers to the kernel as it takes them. Raises TimeoutError."""
        deadline = time.monotonic() + self._gap_seconds
        at = 0
        while at < len(views):
            try:
                # The system call takes what fits. Python's own method would first poll whether anything does, and each
                # poll gives up the global lock, which other threads are waiting for.
                sent = os.writev(self._socket.fileno(), views[at : at + _MOST_BUFFERS])
            except BlockingIOError:
                self._wait_for_room(deadline - time.monotonic())
                continue
            while at < len(views) and sent >= len(views[at]):
                sent -= len(views[at])
                at += 1
            if sent:
                views[at] = views[at][sent:]

    def _wait_for_room(self, seconds: float) -> None:
        if seconds <= 0 or not is_writable(self._socket, seconds):
            raise TimeoutError

    def is_readable(self, seconds: float = 0.0) -> bool:
        """Whether anything that the peer has sent is unread, or arrives within `seconds`."""
        if self._end > self._start:
            return True
        try:
            return is_readable(self._socket, seconds)
        except (OSError, ValueError):
            return True

    def close(self, *, gracefully: bool = False) -> None:
        """Close; `gracefully` gives the peer a second to close first, so that our last PDU is not lost (PS3.8 AA-2)."""
        if gracefully:
            with contextlib.suppress(OSError, ValueError):
                self._socket.shutdown(socket.SHUT_WR)
                self._socket.settimeout(_LINGER_SECONDS)
                while self._socket.recv(_AHEAD):
                    pass
        self.cut()

    def cut(self) -> None:
        """Break the connection at once, from any thread: a pending read ends with ConnectionClosed."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
