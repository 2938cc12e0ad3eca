"""The listening socket: one thread that accepts, and limits before a connection costs much.

Rule: connections beyond the limits are answered (local limit exceeded) by few threads and then dropped, so that a flood
of silent clients never keeps an honest one out for longer than the handshake time. Who serves is the dispatcher's
business: this module hands out connections and counts them.
"""

import contextlib
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

import structlog

from keys.errors import ConfigError
from server.config import Config
from server.dimse.acceptor import Acceptor
from server.dimse.associations import Associations
from server.dimse.connection import Connection
from server.dimse.services import Observer

_log = structlog.get_logger(__name__)

_BACKLOG: Final = 128
_MOST_REFUSALS: Final = 32  # connections that are being told that there are too many
_RECEIVE_BUFFER: Final = 1 << 20


class Dispatcher(Protocol):
    """Serves the connections that a listener accepts."""

    def dispatch(self, connection: socket.socket, host: str, ended: Callable[[], None]) -> None:
        """Serve a connection, which is its own from now on; call `ended` once when it is over. Returns at once."""


class Listener:
    """Accepts associations from `start` to `stop`."""

    def __init__(self, config: Config, dispatcher: Dispatcher, observer: Observer) -> None:
        self._config = config
        self._dispatcher = dispatcher
        self._observer = observer
        self._lock = threading.Lock()
        self._open: Counter[str] = Counter()  # by host
        self._refused = Associations()
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

    def stop(self) -> None:
        """Accept nothing more. What was dispatched goes on."""
        self._stopping = True
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
            self._thread.join()
        self._refused.stop(0)

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

    def _begin(self, connection: socket.socket, host: str) -> None:
        settings = self._config.dimse
        with self._lock:
            is_full = self._open.total() >= settings.max_associations
            is_full = is_full or self._open[host] >= settings.max_associations_per_peer
            if not is_full:
                self._open[host] += 1
            elif self._refusing < _MOST_REFUSALS:
                self._refusing += 1
            else:
                connection.close()
                self._observer.rejected("flood")
                return
        if is_full:
            pdus = Connection(connection, max_pdu=settings.max_pdu, gap_seconds=settings.gap_seconds)
            self._refused.begin(Acceptor(pdus, host, self._config, None, self._observer), self._end_refusal)
        else:
            self._dispatcher.dispatch(connection, host, partial(self._end, host))

    def _end(self, host: str) -> None:
        with self._lock:
            self._open[host] -= 1
            if not self._open[host]:
                del self._open[host]

    def _end_refusal(self) -> None:
        with self._lock:
            self._refusing -= 1
