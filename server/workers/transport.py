"""One end of a line between two processes: whole messages, file descriptors beside them, bodies in shared memory.

Rule: a message is its length (4 bytes, big endian) and its bytes. A body is never copied through the socket: its sender
writes it into memory that both ends map, and does not touch it again before the reply.
"""

import contextlib
import fcntl
import mmap
import os
import socket
import struct
from typing import Final

from coffer.keys.errors import UnavailableError

_LENGTH: Final = struct.Struct(">I")
_MOST_BYTES: Final = 256 << 20
_READ_BYTES: Final = 256 << 10
_MOST_FDS: Final = 4
# Shared memory keeps its size: a process that reads beyond the end is killed (SIGBUS).
SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
_SMALLEST: Final = 1 << 20
_KEPT: Final = 16 << 20  # more than this is released after use


class LineClosed(Exception):  # noqa: N818  # the end of a line is an event
    """The other end has closed the line."""


def framed(message: bytes) -> bytes:
    """A message as it is sent over the line."""
    return _LENGTH.pack(len(message)) + message


class Wire:
    """Sends and receives messages on a connected Unix stream socket. One thread sends, one receives."""

    def __init__(self, sock: socket.socket, *, most_bytes: int = _MOST_BYTES) -> None:
        """`most_bytes` is the longest message that is received."""
        self.socket = sock
        self._most_bytes = most_bytes
        self._buffer = bytearray()
        self._fds: list[int] = []

    def send(self, message: bytes, fds: tuple[int, ...] = ()) -> None:
        """Send one message. Raises LineClosed."""
        data = framed(message)
        try:
            if fds:
                sent = socket.send_fds(self.socket, [data], list(fds))
                data = data[sent:]
            if data:
                self.socket.sendall(data)
        except OSError as error:
            raise LineClosed from error

    def receive(self) -> bytes:
        """Wait for the next message. Raises LineClosed."""
        while (message := self.next()) is None:
            self.fill()
        return message

    def fill(self) -> None:
        """Read what has arrived, waiting for it if the socket blocks; at most `_MOST_FDS` descriptors are accepted.

        Raises LineClosed.
        """
        try:
            data, fds, _, _ = socket.recv_fds(self.socket, _READ_BYTES, _MOST_FDS)
        except BlockingIOError:
            return
        except OSError as error:
            raise LineClosed from error
        self._fds += fds
        if not data:
            raise LineClosed
        self._buffer += data

    def next(self) -> bytes | None:
        """The next whole message of what was read, or None. Raises LineClosed for one that is too long."""
        if len(self._buffer) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer)
        if length > self._most_bytes:
            raise LineClosed
        end = _LENGTH.size + length
        if len(self._buffer) < end:
            return None
        message = bytes(self._buffer[_LENGTH.size : end])
        del self._buffer[:end]
        return message

    @property
    def waiting_bytes(self) -> int:
        """Bytes that were read and not yet returned."""
        return len(self._buffer)

    @property
    def waiting_fds(self) -> int:
        """Descriptors that arrived and were not yet taken."""
        return len(self._fds)

    def take_fd(self) -> int | None:
        """The first descriptor that arrived and was not yet taken, for messages that carry one each; None if there is
        none. The caller closes it."""
        return self._fds.pop(0) if self._fds else None

    def take_fds(self) -> list[int]:
        """File descriptors that arrived and were not yet taken; the caller closes them."""
        taken, self._fds = self._fds, []
        return taken

    def close(self) -> None:
        """Close the socket and all descriptors that were not taken. Harmless when repeated."""
        self.socket.close()
        for fd in self.take_fds():
            os.close(fd)


class SharedMemory:
    """The sender's side of the shared memory for bodies; it grows as needed."""

    def __init__(self) -> None:
        self._map: mmap.mmap | None = None
        self._size = 0
        self._unsent: int | None = None

    def room(self, length: int) -> memoryview:
        """The first `length` bytes, to write a body to. Raises UnavailableError."""
        if self._map is None or self._size < length:
            self.close()
            self._make(max(_SMALLEST, 1 << (length - 1).bit_length()))
        assert self._map is not None
        return memoryview(self._map)[:length]

    def take_unsent(self) -> int | None:
        """The descriptor of memory that the other end does not have yet; the caller sends and closes it."""
        fd, self._unsent = self._unsent, None
        return fd

    def _make(self, size: int) -> None:
        try:
            self._unsent = os.memfd_create("coffer-body", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            os.ftruncate(self._unsent, size)
            fcntl.fcntl(self._unsent, fcntl.F_ADD_SEALS, SEALS)
            self._map = mmap.mmap(self._unsent, size)
        except OSError as error:
            self.close()
            raise UnavailableError(f"no memory for a body: {error.strerror}", hint="send the object again") from error
        self._size = size

    def is_large(self) -> bool:
        """Whether it should be closed after use."""
        return self._size > _KEPT

    def close(self) -> None:
        """Release the memory. Harmless when repeated."""
        fd = self.take_unsent()
        if fd is not None:
            os.close(fd)
        if self._map is not None:
            # The traceback of a failed store may still hold a view: it is unmapped with that.
            with contextlib.suppress(BufferError):
                self._map.close()
        self._map, self._size = None, 0
