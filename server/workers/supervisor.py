"""The lanes of one server: started, fed with connections, started again when one dies or hangs, and ended in order."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import msgspec
import structlog

from coffer.keys.crypto import derive
from coffer.keys.errors import UnavailableError
from coffer.server.config.settings import Config
from coffer.server.dimse.places import AssociationPlace
from coffer.server.host import headroom
from coffer.server.host.headroom import CongestedError
from coffer.server.host.sockets import is_readable, is_writable
from coffer.server.host.watched import Watched
from coffer.server.services.engine import Engine
from coffer.server.workers import messages
from coffer.server.workers.coordinator import Desk
from coffer.server.workers.messages import End, Pulse, Quit, Serve, Setup
from coffer.server.workers.transport import LineClosed, Wire
from coffer.server.workers.worker import HARMLESS, encode_config

_log = structlog.get_logger(__name__)

_MOST_BY_DEFAULT: Final = 4
_RESTART_SECONDS: Final = 1.0
_READY_SECONDS: Final = 30.0
_PULSE_SECONDS: Final = 15.0  # a lane that is silent for twice as long hangs; once may be a pause of the whole machine
_LONGEST_PULSE: Final = 1 << 20  # bytes; some twenty for each association
_DYING_SECONDS: Final = 2.0


@dataclass(slots=True, eq=False)
class _Lane:
    process: subprocess.Popen[bytes]
    control: Wire
    lock: threading.Lock = field(default_factory=threading.Lock)
    is_ready: bool = False
    places: dict[int, AssociationPlace] = field(default_factory=dict)
    short_of: str = ""
    lost_lines: int = 0


class Lanes:
    """Serves connections in other processes, from `start` to `stop`: a `server.dimse.listener.Dispatcher`.

    The processes are launched at once, so that they load while the archive is opened.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._count = config.dimse.processes or min(_MOST_BY_DEFAULT, len(os.sched_getaffinity(0)))
        self._setup: Setup | None = None
        self.desk: Desk | None = None
        self.deaths = 0  # of lanes
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._lost_lines = 0  # of lanes that are gone
        self._lanes: list[_Lane | None] = [_launch() for _ in range(self._count)]
        self._keepers = [
            Watched("a receiving process", partial(self._keep, number), self._stopping) for number in range(self._count)
        ]

    def start(self, engine: Engine) -> None:
        """Serve this archive; returns when every process can. Raises UnavailableError where one cannot."""
        self._setup = Setup(
            encode_config(self._config),
            engine.folder.archive_id,
            engine.keyring.archive_key(derive.LOG_ID).reveal(),
            self._count,
        )
        self.desk = desk = Desk(engine)
        desk.start()
        for lane in self._lanes:
            assert lane is not None
            self._open(lane)
        for watched in self._keepers:
            watched.start()

    def _open(self, lane: _Lane) -> None:
        """Wait until a lane is ready, then use it."""
        assert self._setup is not None
        lane.control.socket.settimeout(_READY_SECONDS)
        try:
            lane.control.send(messages.encode(self._setup))
            lane.control.receive()
        except LineClosed as error:
            raise UnavailableError("a receiving process does not start", hint="see the lines above") from error
        lane.control.socket.settimeout(None)
        lane.is_ready = True

    def dispatch(self, connection: socket.socket, place: AssociationPlace, ended: Callable[[], None]) -> None:
        """Hand a connection to the lane with the fewest. `ended` is called once, when its association has ended.

        Raises CongestedError where every lane is short of something, UnavailableError where none is running, OSError:
        then the connection stays the caller's.
        """
        assert self.desk is not None
        with self._lock:
            lane = self._free_lane()
            lane.places[place.number] = place

        def over() -> None:
            with self._lock:
                lane.places.pop(place.number, None)
            ended()

        try:
            line = self.desk.add(over, place.host)
        except BaseException:
            with self._lock:
                lane.places.pop(place.number, None)
            raise
        with connection, line, lane.lock:
            try:
                fds = connection.fileno(), line.fileno()
                lane.control.send(messages.encode(Serve(place.host, place.number)), fds)
            except LineClosed:
                _log.error("a connection was lost with its process", host=place.host)

    def _free_lane(self) -> _Lane:
        ready = [lane for lane in self._lanes if lane is not None and lane.is_ready]
        if not ready:
            raise UnavailableError("no receiving process is running", hint="it is started again; see the log")
        able = [lane for lane in ready if not lane.short_of and _takes_more(lane)]
        if not able:
            raise CongestedError("every receiving process is short of something", hint="see the log")
        return min(able, key=lambda lane: len(lane.places))

    def end(self, place: AssociationPlace) -> None:
        """End the association of a place, unless it has begun to do something."""
        with self._lock:
            found = [lane for lane in self._lanes if lane is not None and place.number in lane.places]
        for lane in found:
            if _takes_more(lane):
                with lane.lock, contextlib.suppress(LineClosed):
                    lane.control.send(messages.encode(End(place.number)))

    def stop(self, grace_seconds: float) -> None:
        """Let operations under way end, for so long at most; returns when no process is left."""
        self._stopping.set()
        with self._lock:
            lanes = [lane for lane in self._lanes if lane is not None]
        for lane in lanes:
            if not lane.is_ready or not _takes_more(lane):
                lane.process.kill()  # it is still loading, and has nothing in hand; or it hangs
                continue
            with lane.lock, contextlib.suppress(LineClosed):
                lane.control.send(messages.encode(Quit(grace_seconds)))
        if self.desk is not None:
            self.desk.end_searches()
        deadline = time.monotonic() + grace_seconds + 1
        for lane in lanes:
            _end_process(lane, max(0.1, deadline - time.monotonic()))
        for watched in self._keepers:
            watched.join()
        for lane in lanes:
            lane.control.close()
        if self.desk is not None:
            self.desk.stop()

    def reasons(self) -> list[str]:
        """Why no association is served; nothing when at least one process serves."""
        if self._setup is None:
            return []
        ready = [lane for lane in list(self._lanes) if lane is not None and lane.is_ready]
        if not ready:
            return ["no receiving process is running: they are started again"]
        if all(lane.short_of for lane in ready):
            return [f"every receiving process is short of {', '.join(sorted(self.short_of()))}"]
        return []

    def concerns(self) -> list[str]:
        """What a human should look at although associations are served."""
        told = [f"a receiving process is short of {what}" for what in sorted(self.short_of())]
        if self._setup is not None and any(lane is None or not lane.is_ready for lane in list(self._lanes)):
            told.append("a receiving process died and is started again")
        return told

    def short_of(self) -> set[str]:
        """What lanes are short of, each one of `headroom.KINDS`."""
        return {lane.short_of for lane in list(self._lanes) if lane is not None} - {""}

    def lost_lines(self) -> int:
        """How many log lines the lanes could not write, those included that are gone."""
        return self._lost_lines + sum(lane.lost_lines for lane in list(self._lanes) if lane is not None)

    def _keep(self, number: int) -> None:
        """Have a lane in its place until the server stops."""
        while not self._stopping.is_set():
            lane = self._lanes[number]
            if lane is None:
                lane = self._launch(number)
                if lane is None:
                    return
            try:
                if not lane.is_ready:
                    self._open(lane)
                self._listen(lane)
            finally:
                if not self._stopping.is_set():
                    self._bury(number, lane)
            self._stopping.wait(_RESTART_SECONDS)

    def _launch(self, number: int) -> _Lane | None:
        lane = _launch()
        with self._lock:
            if not self._stopping.is_set():
                self._lanes[number] = lane
                return lane
        lane.process.kill()
        lane.process.wait()
        lane.control.close()
        return None

    def _listen(self, lane: _Lane) -> None:
        """Take a lane's pulses until it dies or hangs."""
        silent = 0
        while silent < 2:
            if not is_readable(lane.control.socket, _PULSE_SECONDS):
                silent += 1
                continue
            silent = 0
            try:
                lane.control.fill()
                for fd in lane.control.take_fds():  # it has none to send
                    os.close(fd)
                while (message := lane.control.next()) is not None:
                    self._take(lane, messages.decode_pulse(message))
            except (LineClosed, msgspec.MsgspecError):
                return
        _log.error("a receiving process hangs and is ended")

    def _take(self, lane: _Lane, pulse: Pulse) -> None:
        """Believe a lane what concerns itself: it is no more to be trusted than the peers that it serves."""
        now = time.monotonic()
        idle = {number: (seconds, is_used) for number, seconds, is_used in pulse.idle}
        with self._lock:
            lane.short_of = pulse.short_of if pulse.short_of in headroom.KINDS else ""
            lane.lost_lines = max(lane.lost_lines, pulse.lost_lines)
            for number, place in lane.places.items():
                seconds, place.is_used = idle.get(number, (None, place.is_used))
                place.idle_since = None if seconds is None else now - seconds

    def _bury(self, number: int, lane: _Lane) -> None:
        with self._lock:
            lane.is_ready = False
            self._lanes[number] = None
            self._lost_lines += lane.lost_lines
            self.deaths += 1
        _end_process(lane, _DYING_SECONDS)
        lane.control.close()
        _log.error("a receiving process died and is started again", exit_code=lane.process.returncode)


def _takes_more(lane: _Lane) -> bool:
    """Whether a message to it would not have to wait, as it would for one that hangs."""
    try:
        return is_writable(lane.control.socket, 0)
    except (OSError, ValueError):
        return False


def _end_process(lane: _Lane, seconds: float) -> None:
    """Wait for a process to end by itself, at most so long."""
    try:
        lane.process.wait(seconds)
    except subprocess.TimeoutExpired:
        lane.process.kill()
        lane.process.wait()


def _launch() -> _Lane:
    ours, theirs = socket.socketpair()
    # What the group of processes is sent while a lane loads waits until it has said that it ignores it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HARMLESS)
    try:
        with theirs:
            process = subprocess.Popen(  # noqa: S603  # our own code, no words of a stranger
                [sys.executable, "-I", "-m", "coffer.server.workers", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
            )
    except BaseException:
        ours.close()
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return _Lane(process, Wire(ours, most_bytes=_LONGEST_PULSE))
