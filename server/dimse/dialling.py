"""How a connection to a peer is made: without TLS here, with TLS by whoever holds the key.

Rule: a peer that is to be called with TLS is never called without.
"""

import socket
from typing import Protocol

from coffer.keys.errors import UnavailableError
from coffer.server.config.settings import Peer

__all__ = ["Dial", "connect", "dial_plain"]


class Dial(Protocol):
    """Connects to a configured peer."""

    def __call__(self, peer: Peer, seconds: float) -> socket.socket:
        """A connected stream socket whose other end is the peer; `seconds` bound each wait. Raises UnavailableError
        that names the peer, the cause and the remedy."""


def connect(name: str, host: str, port: int, seconds: float) -> socket.socket:
    """A TCP connection to what people know as `name`. Raises UnavailableError."""
    try:
        return socket.create_connection((host, port), seconds)
    except OSError as error:
        raise UnavailableError(
            f"{name} at {host}:{port} cannot be reached: {error.strerror or 'no answer'}",
            hint="check the address and that the peer listens",
        ) from error


def dial_plain(peer: Peer, seconds: float) -> socket.socket:
    """A `Dial` without TLS."""
    if peer.tls:
        raise UnavailableError(f"{peer.ae_title} is called with TLS only, and there is none here", hint="see [tls]")
    return connect(peer.ae_title, peer.host, peer.port, seconds)
