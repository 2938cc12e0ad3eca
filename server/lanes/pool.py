"""The lanes of one server: started, fed with connections, started again when one dies, and ended in order."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import structlog

from keys import derive
from keys.errors import UnavailableError
from server.config import Config
from server.engine import Engine
from server.lanes import messages
from server.lanes.desk import Desk
from server.lanes.messages import Quit, Serve, Setup
from server.lanes.process import encode_config
from server.lanes.wire import LineClosed, Wire

_log = structlog.get_logger(__name__)

_MOST_BY_DEFAULT: Final = 4
_RESTART_SECONDS: Final = 1.0
_READY_SECONDS: Final = 30.0


@dataclass(slots=True, eq=False)
class _Lane:
    process: subprocess.Popen[bytes]
    control: Wire
    lock: threading.Lock = field(default_factory=threading.Lock)
    is_ready: bool = False
    open: int = 0


class Lanes:
    """Serves connections in other processes, from `start` to `stop`: a `server.dimse.listener.Dispatcher`.

    The processes are launched at once, so that they load while the archive is opened.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._count = config.dimse.processes or min(_MOST_BY_DEFAULT, len(os.sched_getaffinity(0)))
        self._setup: Setup | None = None
        self._desk: Desk | None = None
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._lanes = [_launch() for _ in range(self._count)]

    def start(self, engine: Engine) -> None:
        """Serve this archive; returns when every process can. Raises UnavailableError where one cannot."""
        self._setup = Setup(
            encode_config(self._config),
            engine.folder.archive_id,
            engine.keyring.archive_key(derive.LOG_ID).reveal(),
            self._count,
        )
        self._desk = Desk(engine)
        self._desk.start()
        for lane in list(self._lanes):
            self._open(lane)

    def _open(self, lane: _Lane) -> None:
        """Wait until a lane is ready, then use it and watch it."""
        assert self._setup is not None
        lane.control.socket.settimeout(_READY_SECONDS)
        try:
            lane.control.send(messages.encode(self._setup))
            lane.control.receive()
        except LineClosed as error:
            raise UnavailableError("a receiving process does not start", hint="see the lines above") from error
        lane.control.socket.settimeout(None)
        lane.is_ready = True
        threading.Thread(target=self._watch, args=(lane,), name="lane-watch", daemon=True).start()

    def dispatch(self, connection: socket.socket, host: str, ended: Callable[[], None]) -> None:
        """Hand a connection to the lane with the fewest. `ended` is called once, when its association has ended."""
        with self._lock:
            ready = [one for one in self._lanes if one.is_ready]
            lane = min(ready, key=lambda one: one.open, default=None)
            if lane is not None:
                lane.open += 1
        if lane is None:
            connection.close()
            ended()
            return

        def over() -> None:
            with self._lock:
                lane.open -= 1
            ended()

        assert self._desk is not None
        with connection, self._desk.add(over) as line, lane.lock:
            try:
                lane.control.send(messages.encode(Serve(host)), (connection.fileno(), line.fileno()))
            except LineClosed:
                _log.error("a connection was lost with its process", host=host)

    def stop(self, grace_seconds: float) -> None:
        """Let operations under way end, for so long at most; returns when no process is left."""
        with self._lock:
            self._stopping.set()
            lanes = list(self._lanes)
        for lane in lanes:
            with lane.lock, contextlib.suppress(LineClosed):
                lane.control.send(messages.encode(Quit(grace_seconds)))
        deadline = time.monotonic() + grace_seconds + 2
        for lane in lanes:
            try:
                lane.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                lane.process.kill()
                lane.process.wait()
            lane.control.close()
        if self._desk is not None:
            self._desk.stop()

    def _watch(self, lane: _Lane) -> None:
        code = lane.process.wait()
        with self._lock:
            if self._stopping.is_set():
                return
            self._lanes.remove(lane)
        lane.control.close()
        _log.error("a receiving process died and is started again", exit_code=code)
        if not self._stopping.wait(_RESTART_SECONDS):
            self._restart()

    def _restart(self) -> None:
        with self._lock:
            if self._stopping.is_set():
                return
            lane = _launch()
            self._lanes.append(lane)
        try:
            self._open(lane)
        except UnavailableError as error:
            _log.error("a receiving process does not come back", cause=str(error))


def _launch() -> _Lane:
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(  # noqa: S603  # our own code, no words of a stranger
            [sys.executable, "-P", "-m", "server.lanes", str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
        )
    return _Lane(process, Wire(ours))
