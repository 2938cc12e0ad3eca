"""The process that ends TLS: it holds the private key, and passes clear bytes to processes that do not.

Rule: it parses no DICOM and opens no archive. A caller costs it one thread, a bounded buffer and `handshake_seconds`
until it has proved its certificate; after that its places and limits are the listener's. It ends with the process that
started it, and every connection with it.
"""

import contextlib
import os
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Final

from coffer.keys.errors import CofferError
from coffer.keys.memory import hardening
from coffer.server.config.passing import decode_config
from coffer.server.config.settings import Config
from coffer.server.host import headroom
from coffer.server.host.child import ignore_signals, inherited
from coffer.server.host.rate import Rates, source_of
from coffer.server.host.sockets import display_address
from coffer.server.host.watched import Watched
from coffer.server.observe import logs
from coffer.server.tls import messages
from coffer.server.tls.connections import Connections, PendingHandshakes
from coffer.server.tls.handshake import TOO_MANY, Handshake, HandshakeError, shake_hands, wrap
from coffer.server.tls.loaded import LoadedSet, LoadedSets
from coffer.server.tls.messages import Admitted, Expiry, Failed, Pulse, Quit, Ready, Reload, Reloaded, Setup
from coffer.server.tls.outgoing import Outgoing
from coffer.server.tls.relay import CLEAR_BUFFER, Relay
from coffer.server.workers.transport import LineClosed, Wire

_log = logs.get_logger()
_LOOK_SECONDS: Final = 5.0
_PULSE_SECONDS: Final = 1.0
_PAUSE_SECONDS: Final = 0.1
DIMSE: Final = "dimse"


class Gate:
    """The process's state, from `Setup` to `Quit`."""

    def __init__(self, config: Config, control: Wire, outlet: socket.socket, doors: dict[str, socket.socket]) -> None:
        """Raises ConfigError, UnavailableError if the files do not fit together."""
        self._config = config
        self._control = control
        self._sending = threading.Lock()
        self._sets = LoadedSets(config.tls)
        self._connections = Connections()
        self._pending = PendingHandshakes(config.tls.max_handshakes, config.tls.max_handshakes_per_address)
        self._rates = Rates(config.tls.handshakes_per_second)
        self._counting = threading.Lock()
        self._handshakes: Counter[str] = Counter()
        self._shortage = headroom.Shortage()
        self._stopping = threading.Event()
        outgoing = Outgoing(config, outlet, self._current, self._connections, self._count)
        works: list[tuple[str, Callable[[], None]]] = [
            (f"accepting TLS for {door}", partial(self._accept, door, sock)) for door, sock in doors.items()
        ]
        works += [
            ("connecting to destinations", outgoing.serve),
            ("looking at the files of TLS", self._look),
            ("the pulse of the process that ends TLS", self._beat),
        ]
        self._threads = [Watched(name, work, self._stopping) for name, work in works]

    def start(self) -> None:
        """Accept connections. Raises RuntimeError where the system gives no thread."""
        self._send(Ready())
        for each in self._threads:
            each.start()

    def reload(self, number: int) -> None:
        """Read the files again, end what they no longer let in, and answer how it went."""
        try:
            self._sets.reload()
        except CofferError as error:
            self._send(Reloaded(number, str(error), error.hint()))
            return
        self._end_bad()
        self._send(Reloaded(number))

    def quit(self) -> None:
        """End every connection."""
        self._stopping.set()
        self._connections.end_all()

    def _current(self) -> LoadedSet:
        return self._sets.current

    def _send(self, report: messages.Report, fds: tuple[int, ...] = ()) -> None:
        with self._sending:
            self._control.send(messages.encode(report), fds)

    def _count(self, outcome: str) -> None:
        with self._counting:
            self._handshakes[outcome] += 1

    # Callers

    def _accept(self, door: str, listening: socket.socket) -> None:
        while not self._stopping.is_set():
            try:
                sock, address = listening.accept()
            except OSError as error:
                self._note(error)
                self._stopping.wait(_PAUSE_SECONDS)  # also once the server has shut the door: it is about to stop
                continue
            host = display_address(str(address[0]))
            try:
                self._begin(door, sock, host)
            except (OSError, RuntimeError, MemoryError, CofferError) as error:
                sock.close()
                self._note(error)

    def _note(self, error: BaseException) -> None:
        what = headroom.what_ran_out(error)
        if what:
            self._shortage.note(what)

    def _begin(self, door: str, sock: socket.socket, host: str) -> None:
        if headroom.lacks_descriptors():
            self._shortage.note(headroom.DESCRIPTORS)
            sock.close()
            return
        if not self._rates.allows(source_of(host)):
            self._count(TOO_MANY)
            sock.close()
            return
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        loaded = self._sets.current
        context = loaded.contexts.dimse if door == DIMSE else loaded.contexts.http
        tls = wrap(context, sock)
        self._pending.enter(tls, host)
        try:
            threading.Thread(target=self._serve, args=(door, tls, host, loaded), daemon=True).start()
        except BaseException:
            self._pending.leave(tls)
            tls.close()
            raise

    def _serve(self, door: str, tls: ssl.SSLSocket, host: str, loaded: LoadedSet) -> None:
        try:
            agreed = shake_hands(tls, self._config.tls.handshake_seconds, loaded.material)
        except HandshakeError as error:
            reason = error.reason if self._pending.leave(tls) else TOO_MANY
            tls.close()
            self._count(reason)
            _log.warning(
                "a TLS handshake failed", name="tls.handshake_failed", door=door, host=host, reason=reason,
                cause=str(error),
            )  # fmt: skip
            return
        except Exception as error:  # noqa: BLE001  # one connection must not leave anything behind
            self._lose(tls, error)
            return
        self._pending.leave(tls)
        self._count("done")
        try:
            relay = self._hand_over(door, tls, host, agreed)
        except (OSError, LineClosed) as error:
            self._lose(tls, error)
            return
        self._connections.run(relay, host, agreed, loaded.material)

    def _lose(self, tls: ssl.SSLSocket, error: Exception) -> None:
        self._pending.leave(tls)
        tls.close()
        self._note(error)
        _log.error("a connection was lost to an internal error", name="connection.lost", exc_info=error)

    def _hand_over(self, door: str, tls: ssl.SSLSocket, host: str, agreed: Handshake) -> Relay:
        _log.info(
            "a TLS connection was accepted", name="tls.accepted", door=door, host=host, version=agreed.version,
            cipher=agreed.cipher, group=agreed.group,
            subject=agreed.certificate.subject if agreed.certificate else "",
        )  # fmt: skip
        ours, theirs = socket.socketpair()
        with theirs:
            for each in (ours, theirs):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, CLEAR_BUFFER)
            try:
                self._send(Admitted(door, host, agreed.certificate), (theirs.fileno(),))
            except BaseException:
                ours.close()
                raise
        return Relay(tls, ours)

    # What goes on beside

    def _look(self) -> None:
        while not self._stopping.wait(_LOOK_SECONDS):
            self._sets.look()
            self._end_bad()

    def _end_bad(self) -> None:
        self._connections.end_bad(self._sets.current.material, time.time())

    def _beat(self) -> None:
        while not self._stopping.wait(_PULSE_SECONDS):
            material = self._sets.current.material
            with self._counting:
                handshakes = dict(self._handshakes)
            pulse = Pulse(
                Expiry(material.expires, material.revocations_expire),
                len(self._connections),
                self._sets.trouble,
                self._shortage.now(),
                logs.lost(),
                self._sets.reloads,
                self._sets.failures,
                handshakes,
                self._connections.ended(),
            )
            with contextlib.suppress(LineClosed):  # the main thread notices it too
                self._send(pulse)


def run(control: Wire, sockets: list[socket.socket]) -> None:
    """Execute orders until `Quit`. Raises LineClosed if the process that started this one has ended, CofferError."""
    gate: Gate | None = None
    while True:
        match messages.decode_order(control.receive()):
            case Setup(config, doors) if gate is None:
                settings = decode_config(config)
                logs.configure(settings.log)
                logs.run_in_background()
                headroom.raise_limit(3 * settings.dimse.max_associations + 512)
                gate = Gate(settings, control, sockets[0], dict(zip(doors, sockets[1:], strict=True)))
                gate.start()
            case Reload(number) if gate is not None:
                gate.reload(number)
            case Quit():
                if gate is not None:
                    gate.quit()
                return
            case _:
                raise LineClosed


def main() -> None:
    """Run the process; its arguments are the descriptors of control socket, outlet and listening sockets."""
    ignore_signals()
    hardening.forbid_dumps()
    control, *sockets = inherited(sys.argv[1:])
    wire = Wire(control)
    try:
        run(wire, sockets)
    except CofferError as error:
        with contextlib.suppress(LineClosed):
            wire.send(messages.encode(Failed(str(error), error.hint())))
        logs.drain()
        os._exit(1)
    except LineClosed:
        os._exit(1)
    logs.drain()
    os._exit(0)  # threads of connections may still wait for their peers
