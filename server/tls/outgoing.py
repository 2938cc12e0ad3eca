"""Connections to destinations, ordered by receiving processes (`server.dimse.outlet`).

Rule: who orders may be in the hands of a stranger: it names a peer of the configuration and learns whether that was
reached. Address, expected name and public key come from the configuration alone. An order that makes no sense is
dropped.
"""

import contextlib
import os
import socket
import ssl
import stat
import threading
from collections.abc import Callable
from typing import Final

from coffer.keys.errors import CofferError
from coffer.server.config.settings import Config, Peer
from coffer.server.dimse.outlet import CONNECTED, FAILED
from coffer.server.observe.logs import get_logger
from coffer.server.tls.connections import Connections
from coffer.server.tls.handshake import REFUSED, Handshake, HandshakeError, shake_hands, wrap
from coffer.server.tls.loaded import LoadedSet
from coffer.server.tls.relay import CLEAR_BUFFER, Relay

__all__ = ["Outgoing", "call"]

_log = get_logger()
_LONGEST: Final = 64
_MOST_FDS: Final = 4
_PATIENCE_SECONDS: Final = 1.0  # of whoever ordered
_MOST: Final = 128  # calls and connections at the same time


def call(peer: Peer, loaded: LoadedSet, seconds: float, handshake_seconds: float) -> tuple[ssl.SSLSocket, Handshake]:
    """Connect to a peer and prove that it is the configured one: by the name in its certificate, or by its public key.

    Raises HandshakeError, OSError: then nothing is left open.
    """
    sock = socket.create_connection((peer.host, peer.port), seconds)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    contexts = loaded.contexts
    tls = wrap(contexts.pinned if peer.tls_spki_sha256 else contexts.named, sock, peer.tls_name or peer.host)
    try:
        agreed = shake_hands(tls, handshake_seconds, loaded.material)
        found = agreed.certificate.spki_sha256 if agreed.certificate else ""
        if peer.tls_spki_sha256 not in {"", found}:
            raise HandshakeError(REFUSED, f"its public key is another one: {found}")
    except BaseException:
        tls.close()
        raise
    return tls, agreed


class Outgoing:
    """Serves the orders of one outlet. `serve` runs in one thread."""

    def __init__(
        self,
        config: Config,
        orders: socket.socket,
        current: Callable[[], LoadedSet],
        connections: Connections,
        count: Callable[[str], None],
    ) -> None:
        self._config = config
        self._peers = {peer.ae_title: peer for peer in config.peers if peer.tls}
        self._orders = orders
        self._current = current
        self._connections = connections
        self._count = count
        self._places = threading.Semaphore(_MOST)

    def serve(self) -> None:
        """Take orders until the socket is closed. Raises OSError, RuntimeError where the system lacks something."""
        while True:
            name, fds, _, _ = socket.recv_fds(self._orders, _LONGEST, _MOST_FDS)
            peer = self._peers.get(name.decode("ascii", "replace"))
            is_order = peer is not None and len(fds) == 1 and stat.S_ISSOCK(os.fstat(fds[0]).st_mode)
            if peer is None or not is_order or not self._places.acquire(blocking=False):
                for fd in fds:
                    os.close(fd)
                continue
            clear = socket.socket(fileno=fds[0])
            try:
                threading.Thread(target=self._call, args=(peer, clear), daemon=True).start()
            except BaseException:
                self._places.release()
                clear.close()
                raise

    def _call(self, peer: Peer, clear: socket.socket) -> None:
        settings, loaded = self._config, self._current()
        try:
            tls, agreed = call(peer, loaded, settings.dimse.destination_seconds, settings.tls.handshake_seconds)
            self._count("done")
            _log.info(
                "a TLS connection to a destination was made", name="tls.connected", peer=peer.ae_title,
                version=agreed.version, cipher=agreed.cipher, group=agreed.group,
            )  # fmt: skip
            clear.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, CLEAR_BUFFER)
            clear.settimeout(_PATIENCE_SECONDS)
            clear.sendall(CONNECTED)
            self._connections.run(Relay(tls, clear), peer.host, agreed, loaded.material)
        except (CofferError, OSError) as error:
            self._fail(peer, clear, error)
        finally:
            clear.close()
            self._places.release()

    def _fail(self, peer: Peer, clear: socket.socket, error: Exception) -> None:
        cause = str(error) if isinstance(error, CofferError) else getattr(error, "strerror", "") or "no answer"
        if isinstance(error, HandshakeError):
            self._count(error.reason)
        _log.warning(
            "a destination cannot be reached with TLS", name="tls.call_failed", peer=peer.ae_title, cause=cause
        )
        with contextlib.suppress(OSError):
            clear.settimeout(_PATIENCE_SECONDS)
            clear.sendall(FAILED + cause.encode())
