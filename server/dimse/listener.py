"""The listening socket: one thread that accepts, one thread for each association, and limits before either costs much.

Rule: connections beyond the limits are answered (local limit exceeded) by few threads and then dropped, so that a flood
of silent clients never keeps an honest one out for longer than the handshake time.
"""

import contextlib
import socket
import threading
import time
from collections import Counter
from typing import Final

import structlog

from keys.errors import ConfigError
from server.config import Config
from server.dimse.acceptor import Acceptor
from server.dimse.connection import Connection
from server.dimse.services import Observer, Services

_log = structlog.get_logger(__name__)

_BACKLOG: Final = 128
_MOST_REFUSALS: Final = 32  # connections that are being told that there are too many
_RECEIVE_BUFFER: Final = 1 << 20


class Listener:
    """Accepts associations from `start` to `stop`."""

    def __init__(self, config: Config, services: Services, observer: Observer) -> None:
        self._config = config
        self._services = services
        self._observer = observer
        self._lock = threading.Lock()
        self._open: dict[Acceptor, str] = {}
        self._refusing = 0
        self._socket: socket.socket | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._accept, name="dimse-listener", daemon=True)

    @property
    def port(self) -> int:
        """The port that is listened on."""
        assert self._socket is not None, "the listener is not started"
        return int(self._socket.getsockname()[1])

    def start(self) -> None:
        """Listen. Raises ConfigError where the address cannot be had."""
        settings = self._config.dimse
        try:
            family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
            self._socket = socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {settings.host}:{settings.port}: {error.strerror}",
                hint="stop what uses the port, or set [dimse] host and port",
            ) from error
        # Inherited by accepted sockets: a window that holds a whole small object.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        self._thread.start()

    def stop(self, grace_seconds: float = 10.0) -> None:
        """Accept nothing more, let operations under way end, abort the rest; returns when all threads are done."""
        self._stopping = True
        if self._socket is None:
            return
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()
        deadline = time.monotonic() + grace_seconds
        while self._associations():
            late = time.monotonic() > deadline
            for acceptor in self._associations():
                if late or acceptor.is_idle:
                    acceptor.abort()
            time.sleep(0.02)

    def _associations(self) -> list[Acceptor]:
        with self._lock:
            return list(self._open)

    def _accept(self) -> None:
        assert self._socket is not None
        while not self._stopping:
            try:
                sock, address = self._socket.accept()
            except OSError as error:
                if not self._stopping:
                    _log.error("cannot accept connections", cause=error.strerror)
                    time.sleep(0.1)
                continue
            self._begin(sock, str(address[0]))

    def _begin(self, sock: socket.socket, host: str) -> None:
        settings = self._config.dimse
        with self._lock:
            per_host = Counter(self._open.values())[host]
            is_full = len(self._open) - self._refusing >= settings.max_associations
            is_full = is_full or per_host - self._refusing >= settings.max_associations_per_peer
            if is_full and self._refusing >= _MOST_REFUSALS:
                sock.close()
                self._observer.rejected("flood")
                return
            self._refusing += is_full
            connection = Connection(sock, max_pdu=settings.max_pdu, gap_seconds=settings.gap_seconds)
            acceptor = Acceptor(connection, host, self._config, self._services, self._observer, is_full=is_full)
            self._open[acceptor] = host
        thread = threading.Thread(target=self._serve, args=(acceptor,), kwargs={"is_full": is_full}, daemon=True)
        thread.start()

    def _serve(self, acceptor: Acceptor, *, is_full: bool) -> None:
        try:
            acceptor.serve()
        except Exception:  # noqa: BLE001  # one association must not take the server with it
            _log.exception("an association ended with a fault of ours")
        finally:
            with self._lock:
                del self._open[acceptor]
                self._refusing -= is_full
