"""The listening socket: one thread that accepts, and limits before a connection costs much.

Rule: nothing that a connection, or a shortage, brings about ends the accepting. Connections beyond the limits are
answered (local limit exceeded, or temporary congestion) by few threads and then dropped, so that a flood of silent
clients never keeps an honest one out. Who serves is the dispatcher's business: this module hands out connections and
counts them.
"""

import contextlib
import errno
import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

import structlog

from coffer.keys.errors import ConfigError, UnavailableError
from coffer.server.access.decision import policy_of
from coffer.server.config.settings import Config
from coffer.server.dimse.acceptor import Acceptor
from coffer.server.dimse.associations import Associations
from coffer.server.dimse.places import Place, Places
from coffer.server.dimse.protocol.connection import Connection
from coffer.server.dimse.protocol.negotiation import CONGESTED, Rejection
from coffer.server.dimse.refusal import refuse_at_once
from coffer.server.host import headroom
from coffer.server.host.headroom import CongestedError, Shortage
from coffer.server.host.sockets import listen, named
from coffer.server.host.watched import Watched
from coffer.server.services.api import Observer

_log = structlog.get_logger(__name__)

_BACKLOG: Final = 128
_MOST_REFUSALS: Final = 32  # connections that are being told that there are too many
_RECEIVE_BUFFER: Final = 1 << 20
_PAUSE_SECONDS: Final = 0.1
_BROKEN: Final = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK})  # the listening socket itself


class Dispatcher(Protocol):
    """Serves the connections that a listener accepts."""

    def dispatch(self, connection: socket.socket, place: Place, ended: Callable[[], None]) -> None:
        """Serve a connection, which is its own from now on; call `ended` once when it is over. Returns at once.

        Raises CongestedError, UnavailableError or what ran out: then the connection is still the caller's.
        """

    def end(self, place: Place) -> None:
        """End the association of a place, unless it has begun to do something. Returns at once."""


class Listener:
    """Accepts associations from `start` to `stop`."""

    def __init__(self, config: Config, dispatcher: Dispatcher, observer: Observer) -> None:
        self._config = config
        self._policy = policy_of(config)
        self._dispatcher = dispatcher
        self._observer = observer
        self._lock = threading.Lock()
        self._places = Places(config.dimse.max_associations, config.dimse.max_associations_per_peer)
        self._refused = Associations()
        self._refusing = 0
        self._socket: socket.socket | None = None
        self._is_broken = False  # the socket is to be opened again
        self._stopping = threading.Event()
        self._shortage = Shortage()
        self.watched = Watched("accepting associations", self._accept, self._stopping)

    @property
    def port(self) -> int:
        """The port that is listened on."""
        assert self._socket is not None, "the listener is not started"
        return int(self._socket.getsockname()[1])

    def start(self) -> None:
        """Listen. Raises ConfigError where the address cannot be had."""
        self._listen()
        self.watched.start()

    def _listen(self) -> None:
        settings = self._config.dimse
        try:
            self._socket = listen(settings.host, settings.port, _BACKLOG)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {settings.host}:{settings.port}: {error.strerror}",
                hint="stop what uses the port, or set [dimse] host and port",
            ) from error
        # Inherited by accepted sockets: a window that holds a whole small object.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)

    def stop(self) -> None:
        """Accept nothing more. What was dispatched goes on."""
        self._stopping.set()
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self.watched.join()
            self._socket.close()
        self._refused.stop(0)

    def reasons(self) -> list[str]:
        """Why no association is accepted now, but for what is wrong with its thread; nothing when all is well."""
        told = self._shortage.told()
        return [told] if told else []

    def short_of(self) -> str:
        """What runs short in this process, one of `headroom.KINDS`; empty when nothing does."""
        return self._shortage.now()

    def _accept(self) -> None:
        assert self._socket is not None
        if self._is_broken:
            self._socket.close()
            self._listen()
            self._is_broken = False
        while not self._stopping.is_set():
            try:
                sock, address = self._socket.accept()
            except OSError as error:
                self._could_not_accept(error)
                continue
            try:
                self._begin(sock, named(str(address[0])))
            except Exception as error:  # noqa: BLE001  # one connection must not keep the others out
                sock.close()
                self._could_not_begin(error)

    def _could_not_accept(self, error: OSError) -> None:
        """Wait a moment: whoever knocks waits in the backlog. Raises the error where a new socket is needed."""
        if self._stopping.is_set():
            return
        what = headroom.what_ran_out(error)
        if what:
            self._shortage.note(what)
        elif error.errno in _BROKEN:
            self._is_broken = True
            raise error
        self._stopping.wait(_PAUSE_SECONDS)

    def _could_not_begin(self, error: Exception) -> None:
        what = headroom.what_ran_out(error)
        if what:
            self._shortage.note(what)
        else:
            _log.error("a connection was lost by a fault of ours", exc_info=error)

    def _begin(self, connection: socket.socket, host: str) -> None:
        if headroom.lacks_descriptors():
            self._shortage.note(headroom.DESCRIPTORS)
            self._refuse_congested(connection, host)
            return
        place = self._enter(host)
        if place is None:
            self._tell_too_many(connection, host)
            return
        try:
            self._dispatcher.dispatch(connection, place, partial(self._leave, place))
        except CongestedError:
            self._leave(place)
            self._refuse_congested(connection, host)
        except UnavailableError as error:
            self._leave(place)
            _log.warning("association rejected", reason=CONGESTED.word, host=host, cause=str(error))
            self._refuse(connection, CONGESTED)
        except BaseException:
            self._leave(place)
            raise

    def _enter(self, host: str, *, is_full: bool = False) -> Place | None:
        """A place for a newcomer, for which another one may be ended; None where there is none."""
        with self._lock:
            place, victim = self._places.enter(host, is_full=is_full)
        if victim is not None:
            _log.info("an idle association gives up its place", host=victim.host, was_used=victim.is_used)
            self._observer.rejected("idle")
            self._dispatcher.end(victim)
        return place

    def _refuse_congested(self, connection: socket.socket, host: str) -> None:
        """Turn a newcomer away, and let an idle association make room for the next one."""
        place = self._enter(host, is_full=True)
        if place is not None:
            self._leave(place)
        self._refuse(connection, CONGESTED)

    def _tell_too_many(self, connection: socket.socket, host: str) -> None:
        """Answer at leisure, as the request deserves, where few are being answered so."""
        settings = self._config.dimse
        with self._lock:
            is_flood = self._refusing >= _MOST_REFUSALS
            self._refusing += not is_flood
        if is_flood:
            connection.close()
            self._observer.rejected("flood")
            return
        try:
            pdus = Connection(connection, max_pdu=settings.max_pdu, gap_seconds=settings.gap_seconds)
            self._refused.begin(
                Acceptor(pdus, host, self._config, self._policy, None, self._observer), self._end_refusal
            )
        except BaseException:
            self._end_refusal()
            raise

    def _refuse(self, connection: socket.socket, rejection: Rejection) -> None:
        self._observer.rejected(rejection.word)
        refuse_at_once(connection, rejection)

    def _leave(self, place: Place) -> None:
        with self._lock:
            self._places.leave(place)

    def _end_refusal(self) -> None:
        with self._lock:
            self._refusing -= 1
