"""Connections to peers with TLS, made for a receiving process by the one that holds the key.

Rule: a receiving process names a peer and gets clear bytes; address, name and certificate are those of the
configuration, whatever it says. The order is one datagram, the AE title, with one end of a socket pair; the answer
comes over that pair: `+`, then the peer's bytes, or `-` and why not.
"""

import socket
import struct
from typing import Final

from coffer.keys.errors import UnavailableError
from coffer.server.config.settings import Peer
from coffer.server.config.tls import Tls
from coffer.server.dimse.dialling import dial_plain

__all__ = ["CONNECTED", "FAILED", "Outlet"]

CONNECTED: Final = b"+"
FAILED: Final = b"-"
_LONGEST: Final = 1000
_FD: Final = struct.Struct("i")


class Outlet:
    """A `server.dimse.dialling.Dial` for peers with and without TLS. Thread-safe."""

    def __init__(self, orders: socket.socket | None, settings: Tls) -> None:
        """`orders` is the datagram socket to the process that ends TLS; None if there is no such process."""
        self._orders = orders
        self._settings = settings

    def __call__(self, peer: Peer, seconds: float) -> socket.socket:
        """As `server.dimse.dialling.Dial`."""
        if not peer.tls or self._orders is None:
            return dial_plain(peer, seconds)
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                rights = socket.SOL_SOCKET, socket.SCM_RIGHTS, _FD.pack(theirs.fileno())
                # Not `send_fds`, which would wait where nobody takes orders and too many are waiting.
                self._orders.sendmsg([peer.ae_title.encode("ascii")], [rights], socket.MSG_DONTWAIT)
            ours.settimeout(seconds + self._settings.handshake_seconds)
            answer = ours.recv(1)
            if answer != CONNECTED:
                raise _failure(peer, ours.recv(_LONGEST).decode("utf-8", "replace") if answer == FAILED else "")
        except OSError as error:
            ours.close()
            raise _failure(peer, "no answer") from error
        except BaseException:
            ours.close()
            raise
        return ours


def _failure(peer: Peer, why: str) -> UnavailableError:
    return UnavailableError(
        f"{peer.ae_title} at {peer.host}:{peer.port} cannot be reached with TLS: {why or 'the connection broke'}",
        hint=f"run: coffer tls check {peer.ae_title}",
    )
