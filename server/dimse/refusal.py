"""Reject a connection at once (PS3.8 9.3.4), without a thread that would read its request first."""

import contextlib
import socket
from typing import Final

from coffer.server.dimse.protocol import negotiation
from coffer.server.dimse.protocol.negotiation import Rejection

__all__ = ["refuse_at_once"]

_MOMENT_SECONDS: Final = 0.02
_READ_BYTES: Final = 64 << 10


def refuse_at_once(connection: socket.socket, rejection: Rejection) -> None:
    """Send an A-ASSOCIATE-RJ and close; waits for 20 ms at most.

    What has arrived of the request is read first: closing a socket with unread bytes resets the connection, which would
    overtake the answer.
    """
    with connection, contextlib.suppress(OSError):
        connection.settimeout(_MOMENT_SECONDS)
        with contextlib.suppress(TimeoutError):
            connection.recv(_READ_BYTES)
        connection.send(negotiation.reject(rejection))
        connection.shutdown(socket.SHUT_WR)
