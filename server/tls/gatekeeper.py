"""The server's end of the process that ends TLS: start it, take over the connections that it admits, restart it.

Rule: the listening sockets are the server's, so that callers wait, and are not refused, while the process is started
again; the connections that it held are lost with it. It is believed about certificates, and about nothing else: places,
limits and decisions are the doors'.
"""

import contextlib
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from coffer.keys.errors import ConfigError, UnavailableError
from coffer.server.access.certificate import PeerCertificate
from coffer.server.config.passing import encode_config
from coffer.server.config.settings import Config
from coffer.server.host.child import end_process, launch
from coffer.server.host.sockets import is_readable, listen
from coffer.server.host.watched import Watched
from coffer.server.observe.logs import get_logger
from coffer.server.tls import messages
from coffer.server.tls.messages import Admitted, Failed, Pulse, Quit, Ready, Reload, Reloaded, Setup
from coffer.server.workers.transport import LineClosed, Wire

__all__ = ["Admit", "Gatekeeper", "is_used"]

_log = get_logger()
_BACKLOG: Final = 128
_RECEIVE_BUFFER: Final = 1 << 20
_READY_SECONDS: Final = 30.0
_SILENT_SECONDS: Final = 30.0
_RESTART_SECONDS: Final = 1.0
_LONGEST_PAUSE_SECONDS: Final = 30.0
_DYING_SECONDS: Final = 2.0
_LONGEST: Final = 1 << 20
_REMEMBERED: Final = 16  # answers to reloads

Admit = Callable[[socket.socket, str, PeerCertificate | None], None]


def is_used(config: Config) -> bool:
    """Whether any door or destination uses TLS."""
    http = config.http.enabled and config.http.tls_port
    return bool(config.dimse.tls_port or http or any(peer.tls for peer in config.peers))


class Gatekeeper:
    """From `start` to `stop`. `doors` says who takes over the connections of each door, by its name."""

    def __init__(self, config: Config, doors: Mapping[str, Admit]) -> None:
        self._config = config
        self._doors = doors
        self._listening: dict[str, socket.socket] = {}
        # Both ends are kept: orders wait in it while the process is started again.
        self.outlet, self._outlet_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._process: subprocess.Popen[bytes] | None = None
        self._control: Wire | None = None
        self._stopping = threading.Event()
        self._state = threading.Condition()
        self._answers: dict[int, Reloaded] = {}
        self._orders = 0
        self.pulse: Pulse | None = None
        self.deaths = 0
        self._past: Counter[str] = Counter()  # what processes that have ended had counted
        self.watched = Watched("ending TLS", self._keep, self._stopping)

    def listen(self) -> None:
        """Listen. Raises ConfigError if an address is not available."""
        config = self._config
        wanted = [("dimse", config.dimse.host, config.dimse.tls_port)]
        wanted += [("http", config.http.host, config.http.tls_port)] if config.http.enabled else []
        for door, host, port in wanted:
            if not port:
                continue
            try:
                self._listening[door] = sock = listen(host, port, _BACKLOG)
            except OSError as error:
                raise ConfigError(
                    f"cannot listen on {host}:{port}: {error.strerror}",
                    hint=f"stop the program that uses the port, or set [{door}] host and tls_port",
                ) from error
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)

    def start(self) -> None:
        """Start the process, after `listen`; connections are admitted on return. Raises ConfigError if the files do not
        fit together, UnavailableError if it does not start."""
        self._launch()
        self.watched.start()

    def shut(self, door: str) -> None:
        """Admit nobody more to a door; open connections are not affected. Harmless when repeated or never opened."""
        sock = self._listening.get(door)
        if sock is not None:
            _shut(sock)

    def stop(self) -> None:
        """End every connection and the process. Harmless when repeated or never started."""
        self._stopping.set()
        for door in list(self._listening):
            self.shut(door)
        self._quit()
        self.watched.join()
        self._quit()  # one that was being started meanwhile
        if self._control is not None:
            self._control.close()
        for sock in (*self._listening.values(), self.outlet, self._outlet_end):
            sock.close()

    def _quit(self) -> None:
        process, control = self._process, self._control
        if process is not None and control is not None:
            with contextlib.suppress(LineClosed):
                control.send(messages.encode(Quit()))
            end_process(process, _DYING_SECONDS)

    def reload(self, seconds: float) -> None:
        """Have the files read again. Raises ConfigError if the new set is not used, UnavailableError without answer."""
        with self._state:
            self._orders += 1
            number, control = self._orders, self._control
        if control is None or self._stopping.is_set():
            raise UnavailableError("the process that ends TLS is not running", hint="it is started again; see the log")
        try:
            control.send(messages.encode(Reload(number)))
        except LineClosed as error:
            raise UnavailableError("the process that ends TLS has just ended", hint="run the command again") from error
        with self._state:
            self._state.wait_for(lambda: number in self._answers, seconds)
            answer = self._answers.pop(number, None)
        if answer is None:
            raise UnavailableError("the process that ends TLS does not answer", hint="see the server's log")
        if answer.cause:
            raise ConfigError(answer.cause, hint=answer.hint)

    def reasons(self) -> list[str]:
        """Why nobody is admitted; empty when all is well."""
        return [] if self._control is not None else ["the process that ends TLS is not running: it is started again"]

    def pids(self) -> list[int]:
        """The id of the process, if it lives."""
        process = self._process
        return [] if process is None else [process.pid]

    def counted(self) -> Counter[str]:
        """What was counted since the start, ended processes included: `handshake REASON`, `ended REASON`, `reload
        done`, `reload failed`, `lost`."""
        return self._past + _counts(self.pulse)

    # The process

    def _launch(self) -> None:
        process, ours = launch("coffer.server.tls", self._outlet_end, *self._listening.values())
        control = Wire(ours, most_bytes=_LONGEST)
        ours.settimeout(_READY_SECONDS)
        try:
            control.send(messages.encode(Setup(encode_config(self._config), list(self._listening))))
            report = messages.decode_report(control.receive())
            if isinstance(report, Failed):
                raise ConfigError(report.cause, hint=report.hint)
            if not isinstance(report, Ready):
                raise LineClosed
        except BaseException as error:
            end_process(process, 0 if isinstance(error, LineClosed) else _DYING_SECONDS)
            control.close()
            if isinstance(error, LineClosed):
                raise UnavailableError("the process that ends TLS does not start", hint="see the log") from error
            raise
        ours.settimeout(None)
        self._process, self._control = process, control

    def _keep(self) -> None:
        """Keep the process running until the server stops."""
        pause = _RESTART_SECONDS
        while not self._stopping.is_set():
            self.watched.go_on()
            if self._control is None:
                try:
                    self._launch()
                except (ConfigError, UnavailableError) as error:
                    _log.error(
                        "the process that ends TLS cannot be started again", name="tls.start_failed",
                        cause=str(error), remedy=error.hint(),
                    )  # fmt: skip
                    self._stopping.wait(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
                    continue
            pause = _RESTART_SECONDS
            assert self._control is not None
            self._serve(self._control)
            if not self._stopping.is_set():
                self._remove()
                self._stopping.wait(_RESTART_SECONDS)

    def _remove(self) -> None:
        process, control = self._process, self._control
        assert process is not None
        assert control is not None
        self._control = None
        self.deaths += 1
        self._past, self.pulse = self.counted(), None
        end_process(process, _DYING_SECONDS)
        control.close()
        _log.error("the process that ends TLS died and is started again", name="tls.died", exit_code=process.returncode)

    def _serve(self, control: Wire) -> None:
        """Take what it reports until it ends or hangs."""
        while is_readable(control.socket, _SILENT_SECONDS):
            self.watched.go_on()
            try:
                control.fill()
                while (message := control.next()) is not None:
                    self._take(messages.decode_report(message), control)
            except (LineClosed, msgspec.MsgspecError):
                return
        _log.error("the process that ends TLS hangs and is ended", name="tls.hung")

    def _take(self, report: messages.Report, control: Wire) -> None:
        match report:
            case Admitted(door, host, certificate):
                self._admit(door, host, certificate, control)
            case Pulse():
                self.pulse = report
            case Reloaded(number):
                with self._state:
                    for old in sorted(self._answers)[:-_REMEMBERED]:
                        del self._answers[old]
                    self._answers[number] = report
                    self._state.notify_all()
            case _:
                raise LineClosed

    def _admit(self, door: str, host: str, certificate: PeerCertificate | None, control: Wire) -> None:
        fd = control.take_fd()
        if fd is None:  # this process had no descriptor left for it
            _log.error("a connection was lost for want of a file descriptor", name="tls.connection_lost", host=host)
            return
        sock = socket.socket(fileno=fd)
        if self._stopping.is_set():
            sock.close()
            return
        self._doors[door](sock, host, certificate)


def _shut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:  # already
        return


def _counts(pulse: Pulse | None) -> Counter[str]:
    if pulse is None:
        return Counter()
    counts = Counter({"reload done": pulse.reloads, "reload failed": pulse.failed_reloads, "lost": pulse.lost_lines})
    counts.update({f"handshake {outcome}": count for outcome, count in pulse.handshakes.items()})
    counts.update({f"ended {reason}": count for reason, count in pulse.ended.items()})
    return counts
