"""The listening socket: one thread that accepts connections and enforces the limits before a connection costs much.

Rule: neither a connection nor a shortage ends the accepting. Connections beyond the limits are answered (local limit
exceeded, or temporary congestion) by a few threads, and in a flood by one, and then dropped, so that silent clients
never keep an honest one out. The dispatcher serves the connections: this module hands them out and counts them.
"""

import contextlib
import errno
import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from coffer.keys.errors import ConfigError, UnavailableError
from coffer.server.access.decision import policy_of
from coffer.server.config.settings import Config
from coffer.server.dimse.acceptor import Acceptor
from coffer.server.dimse.associations import Associations
from coffer.server.dimse.places import AssociationPlace, AssociationPlaces
from coffer.server.dimse.protocol.connection import Connection
from coffer.server.dimse.protocol.negotiation import CONGESTED, TOO_MANY, Rejection
from coffer.server.dimse.refusal import Refusals, refuse_at_once
from coffer.server.host import headroom
from coffer.server.host.headroom import CongestedError, Shortage
from coffer.server.host.rate import Rates, source_of
from coffer.server.host.sockets import display_address, is_readable, listen
from coffer.server.host.watched import Watched
from coffer.server.identity.admission import Connected
from coffer.server.observe.logs import get_logger
from coffer.server.observe.reached import Limit, Rejected
from coffer.server.services.api import Observer

_log = get_logger()

_BACKLOG: Final = 128
_MOST_REFUSALS: Final = 32  # requests that are read at the same time, only to be rejected by their name in the log
_RECEIVE_BUFFER: Final = 1 << 20
_PAUSE_SECONDS: Final = 0.1
_LOOK_SECONDS: Final = 1.0
_BROKEN: Final = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK})  # the listening socket itself


class Dispatcher(Protocol):
    """Serves the connections that a listener accepts."""

    def dispatch(self, connection: socket.socket, place: AssociationPlace, ended: Callable[[], None]) -> None:
        """Take over a connection and serve it; call `ended` once when it is over. Returns at once.

        Raises CongestedError, UnavailableError or the error of what ran out: then the connection is still the caller's.
        """

    def end(self, place: AssociationPlace) -> None:
        """End the association of a place, unless an operation has started on it. Returns at once."""


class Listener:
    """Accepts associations from `start` to `stop`."""

    def __init__(
        self,
        config: Config,
        dispatcher: Dispatcher,
        observer: Observer,
        is_stranger: Callable[[Connected], bool] = lambda _: False,
    ) -> None:
        """`is_stranger` says of a connection that neither configuration nor users know who calls."""
        self._config = config
        self._is_stranger = is_stranger
        self._policy = policy_of(config)
        self._dispatcher = dispatcher
        self._observer = observer
        self._lock = threading.Lock()
        settings = config.dimse
        self._places = AssociationPlaces(
            settings.max_associations, settings.max_associations_per_peer, reserved=settings.reserved_associations
        )
        self._arrivals = Rates(settings.associations_per_second_per_peer)
        self._strangers = Rates(settings.associations_per_second)
        self._refused = Associations()
        self._refusing = 0
        self._flood = Refusals()
        self._socket: socket.socket | None = None
        self._is_broken = False  # the socket must be opened again
        self._stopping = threading.Event()
        self._shortage = Shortage()
        self.watched = Watched("accepting associations", self._accept, self._stopping)

    @property
    def port(self) -> int:
        """The port it listens on."""
        assert self._socket is not None, "the listener is not started"
        return int(self._socket.getsockname()[1])

    def start(self) -> None:
        """Listen, unless only TLS is spoken. Raises ConfigError if the address is not available."""
        if self._config.dimse.port:
            self._listen()
            self.watched.start()

    def _listen(self) -> None:
        settings = self._config.dimse
        try:
            self._socket = listen(settings.host, settings.port, _BACKLOG)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {settings.host}:{settings.port}: {error.strerror}",
                hint="stop the program that uses the port, or set [dimse] host and port",
            ) from error
        # Inherited by accepted sockets: a window that holds a whole small object.
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)

    def stop(self) -> None:
        """Stop accepting. Connections that were dispatched are not affected."""
        self._stopping.set()
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self.watched.join()
            self._socket.close()
        self._refused.stop(0)
        self._flood.stop()

    def reasons(self) -> list[str]:
        """Why no association is accepted now, apart from faults of its thread; empty when all is well."""
        reason = self._shortage.reason()
        return [reason] if reason else []

    def short_of(self) -> str:
        """What this process is short of, one of `headroom.KINDS`; empty when nothing is short."""
        return self._shortage.now()

    def _accept(self) -> None:
        assert self._socket is not None
        if self._is_broken:
            self._socket.close()
            self._listen()
            self._is_broken = False
        while not self._stopping.is_set():
            self.watched.go_on()
            try:
                if not is_readable(self._socket, _LOOK_SECONDS):
                    continue
                sock, address = self._socket.accept()
            except OSError as error:
                self._handle_accept_error(error)
                continue
            self.admit(sock, Connected(display_address(str(address[0]))))

    def admit(self, connection: socket.socket, by: Connected) -> None:
        """Give a connection its place, or refuse it; raises nothing. One with TLS carries its clear bytes. May be
        called by any thread."""
        if self._stopping.is_set():
            connection.close()
            return
        try:
            self._begin(connection, by)
        except Exception as error:  # noqa: BLE001  # one connection must not keep the others out
            connection.close()
            self._handle_begin_error(error)

    def _handle_accept_error(self, error: OSError) -> None:
        """Wait a moment; new connections wait in the backlog. Raises the error if a new socket is needed."""
        if self._stopping.is_set():
            return
        what = headroom.what_ran_out(error)
        if what:
            self._shortage.note(what)
        elif error.errno in _BROKEN:
            self._is_broken = True
            raise error
        self._stopping.wait(_PAUSE_SECONDS)

    def _handle_begin_error(self, error: Exception) -> None:
        what = headroom.what_ran_out(error)
        if what:
            self._shortage.note(what)
        else:
            _log.error("a connection was lost to an internal error", name="connection.lost", exc_info=error)

    def _begin(self, connection: socket.socket, by: Connected) -> None:
        host, is_stranger = by.host, self._is_stranger(by)
        if not self._arrivals.allows(source_of(host)) or (is_stranger and not self._strangers.allows("")):
            self._observer.rejected(Rejected.RATE)
            self._flood.reject(connection, TOO_MANY)
            return
        if headroom.lacks_descriptors():
            self._shortage.note(headroom.DESCRIPTORS)
            self._refuse_congested(connection, host)
            return
        place = self._enter(host, is_stranger=is_stranger)
        if place is None:
            self._reject_too_many(connection, host)
            return
        place.certificate, place.is_encrypted = by.certificate, by.is_encrypted
        try:
            self._dispatcher.dispatch(connection, place, partial(self._leave, place))
        except CongestedError:
            self._leave(place)
            self._refuse_congested(connection, host)
        except UnavailableError as error:
            self._leave(place)
            _log.warning(
                "association rejected",
                name="association.rejected",
                reason=CONGESTED.word,
                host=host,
                cause=str(error),
            )
            self._refuse(connection, CONGESTED)
        except BaseException:
            self._leave(place)
            raise

    def _enter(self, host: str, *, is_full: bool = False, is_stranger: bool = False) -> AssociationPlace | None:
        """A place for a newcomer, for which another association may be ended; None if there is none."""
        with self._lock:
            place, victim = self._places.enter(host, is_full=is_full, is_stranger=is_stranger)
            is_reserved = place is None and is_stranger and not self._places.is_full
        if is_reserved:
            self._observer.limited(Limit.RESERVE)
        if victim is not None:
            _log.info(
                "an idle association is ended to make room",
                name="association.evicted",
                host=victim.host,
                was_used=victim.is_used,
            )
            self._observer.rejected(Rejected.IDLE)
            self._dispatcher.end(victim)
        return place

    def _refuse_congested(self, connection: socket.socket, host: str) -> None:
        """Reject a newcomer, and end an idle association to make room for the next one."""
        place = self._enter(host, is_full=True)
        if place is not None:
            self._leave(place)
        self._refuse(connection, CONGESTED)

    def _reject_too_many(self, connection: socket.socket, host: str) -> None:
        """Read the request and reject it in a thread; if too many are being rejected that way already, unread."""
        settings = self._config.dimse
        with self._lock:
            is_flood = self._refusing >= _MOST_REFUSALS
            self._refusing += not is_flood
        if is_flood:
            self._observer.rejected(Rejected.FLOOD)
            self._flood.reject(connection, TOO_MANY)
            return
        try:
            pdus = Connection(connection, max_pdu=settings.max_pdu, gap_seconds=settings.gap_seconds)
            self._refused.begin(
                Acceptor(pdus, host, self._config, self._policy, None, self._observer, None), self._end_refusal
            )
        except BaseException:
            self._end_refusal()
            raise

    def _refuse(self, connection: socket.socket, rejection: Rejection) -> None:
        self._observer.rejected(rejection.word)
        refuse_at_once(connection, rejection)

    def _leave(self, place: AssociationPlace) -> None:
        with self._lock:
            self._places.leave(place)

    def _end_refusal(self) -> None:
        with self._lock:
            self._refusing -= 1
