"""The worker processes of one server: start them, pass them connections, restart one that dies or hangs, stop them."""

import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import msgspec

from coffer.keys.crypto import derive
from coffer.keys.errors import UnavailableError
from coffer.server.access.users import Directory
from coffer.server.access.users_file import StoredUsers, encode
from coffer.server.config.passing import encode_config
from coffer.server.config.settings import Config
from coffer.server.dimse.places import AssociationPlace
from coffer.server.host import headroom
from coffer.server.host.child import end_process, launch
from coffer.server.host.headroom import CongestedError
from coffer.server.host.sockets import is_readable, is_writable
from coffer.server.host.watched import Watched
from coffer.server.identity.admission import Admission, Connected
from coffer.server.identity.withdrawal import WITHDRAWAL_SECONDS
from coffer.server.observe.logs import get_logger
from coffer.server.services.bundle import WriterServices
from coffer.server.workers import messages
from coffer.server.workers.coordinator import Coordinator
from coffer.server.workers.messages import End, Pulse, Quit, Serve, Setup, Users, Withdraw
from coffer.server.workers.transport import LineClosed, Wire

_log = get_logger()

_MOST_BY_DEFAULT: Final = 4
_RESTART_SECONDS: Final = 1.0
_READY_SECONDS: Final = 30.0
_PULSE_SECONDS: Final = 15.0  # silent for twice as long, a worker hangs; once may be a pause of the whole machine
_LONGEST_PULSE: Final = 1 << 20  # bytes; some twenty for each association
_DYING_SECONDS: Final = 2.0
_KERNEL: Final = "use Linux 6.12 or later on x86_64 with Landlock and seccomp (docs/security/hardening.md)"


@dataclass(slots=True, eq=False)
class _WorkerProcess:
    process: subprocess.Popen[bytes]
    control: Wire
    lock: threading.Lock = field(default_factory=threading.Lock)
    is_ready: bool = False
    places: dict[int, AssociationPlace] = field(default_factory=dict)
    short_of: str = ""
    lost_lines: int = 0


class Workers:
    """Serves connections in other processes, from `start` to `stop`: a `server.dimse.listener.Dispatcher`."""

    def __init__(self, config: Config, outlet: socket.socket | None = None) -> None:
        """`outlet` is where receiving processes order connections with TLS (`server.dimse.outlet`)."""
        self._config = config
        self._outlet = outlet
        self._count = config.dimse.processes or min(_MOST_BY_DEFAULT, len(os.sched_getaffinity(0)))
        self._setup: Setup | None = None
        self._coordinator: Coordinator | None = None
        self.deaths = 0  # of workers
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._lost_lines = 0  # of workers that have ended
        self._unconfined: tuple[str, ...] = ()  # what the kernel could not forbid the latest worker
        self._workers: list[_WorkerProcess | None] = []
        self._keepers = [
            Watched("a worker process", partial(self._keep, number), self._stopping) for number in range(self._count)
        ]

    def launch(self) -> None:
        """Launch the processes, so that they load while the archive is opened. Raises OSError."""
        for _ in range(self._count):
            self._workers.append(_launch())

    def start(self, services: WriterServices, admission: Admission) -> Watched:
        """Serve this archive to whom `admission` lets in, after `launch`; returns once every process is ready, with the
        thread that commits what they receive. Raises UnavailableError if one cannot start."""
        self._setup = Setup(
            encode_config(self._config),
            _encoded(services.archive.policy.directory),
            services.archive.folder.archive_id,
            services.archive.keyring.archive_key(derive.LOG_ID).reveal(),
            self._count,
        )
        self._coordinator = coordinator = Coordinator(services, admission)
        coordinator.start()
        for worker in self._workers:
            assert worker is not None
            self._open(worker)
        for watched in self._keepers:
            watched.start()
        return coordinator.watched

    def use(self, users: Directory) -> None:
        """Let every process know that the users have changed; it has been told on return."""
        assert self._setup is not None
        self._setup = msgspec.structs.replace(self._setup, users=_encoded(users))
        for worker in [each for each in self._workers if each is not None and each.is_ready]:
            with worker.lock, contextlib.suppress(LineClosed):  # the next one is started with them
                worker.control.send(messages.encode(Users(self._setup.users)))

    def _open(self, worker: _WorkerProcess) -> None:
        """Wait until a worker is ready, then use it."""
        assert self._setup is not None
        worker.control.socket.settimeout(_READY_SECONDS)
        try:
            outlet = () if self._outlet is None else (self._outlet.fileno(),)
            worker.control.send(messages.encode(self._setup), outlet)
            ready = messages.decode_ready(worker.control.receive())
        except (LineClosed, msgspec.MsgspecError) as error:
            raise UnavailableError("a worker process does not start", hint="see the log lines above") from error
        worker.control.socket.settimeout(None)
        self._note_unconfined(ready.unconfined)
        worker.is_ready = True

    def _note_unconfined(self, what: tuple[str, ...]) -> None:
        """Log once what the kernel cannot forbid the workers."""
        with self._lock:
            is_new, self._unconfined = what != self._unconfined, what
        if is_new and what:
            _log.warning(
                "worker processes are not fully confined", name="worker.unconfined", missing=list(what), remedy=_KERNEL
            )

    def dispatch(self, connection: socket.socket, place: AssociationPlace, ended: Callable[[], None]) -> None:
        """Pass a connection to the worker with the fewest. `ended` is called once, when its association has ended.

        Raises CongestedError if every worker is short of something, UnavailableError if none is running, OSError: then
        the caller keeps the connection.
        """
        assert self._coordinator is not None
        with self._lock:
            worker = self._free_worker()
            worker.places[place.number] = place

        def over() -> None:
            with self._lock:
                worker.places.pop(place.number, None)
            ended()

        def withdraw() -> None:
            place.is_withdrawn = True

        try:
            by = Connected(place.host, place.certificate, place.is_encrypted)
            line = self._coordinator.add(over, by, withdraw)
        except BaseException:
            with self._lock:
                worker.places.pop(place.number, None)
            raise
        with connection, line, worker.lock:
            try:
                fds = connection.fileno(), line.fileno()
                worker.control.send(messages.encode(Serve(place.host, place.number)), fds)
            except LineClosed:
                _log.error("a connection was lost with its worker process", name="connection.lost", host=place.host)

    def _free_worker(self) -> _WorkerProcess:
        ready = [worker for worker in self._workers if worker is not None and worker.is_ready]
        if not ready:
            raise UnavailableError("no worker process is running", hint="they are started again; see the log")
        able = [worker for worker in ready if not worker.short_of and _takes_more(worker)]
        if not able:
            raise CongestedError("every worker process is short of something", hint="see the log")
        return min(able, key=lambda worker: len(worker.places))

    def end(self, place: AssociationPlace) -> None:
        """End the association of a place, unless it has become busy."""
        with self._lock:
            found = [worker for worker in self._workers if worker is not None and place.number in worker.places]
        for worker in found:
            if _takes_more(worker):
                with worker.lock, contextlib.suppress(LineClosed):
                    worker.control.send(messages.encode(End(place.number)))

    def stop(self, grace_seconds: float) -> None:
        """Let running operations finish, for at most this long; returns once no process is left. Harmless when repeated
        or never launched."""
        self._stopping.set()
        with self._lock:
            workers = [worker for worker in self._workers if worker is not None]
        for worker in workers:
            if not worker.is_ready or not _takes_more(worker):
                worker.process.kill()  # it is still loading and serves nothing, or it hangs
                continue
            with worker.lock, contextlib.suppress(LineClosed):
                worker.control.send(messages.encode(Quit(grace_seconds)))
        if self._coordinator is not None:
            self._coordinator.end_searches()
        deadline = time.monotonic() + grace_seconds + 1
        for worker in workers:
            end_process(worker.process, max(0.1, deadline - time.monotonic()))
        for watched in self._keepers:
            watched.join()
        for worker in workers:
            worker.control.close()
        if self._coordinator is not None:
            self._coordinator.stop()
            self._coordinator = None

    def reasons(self) -> list[str]:
        """Why no association is served; empty while at least one process serves."""
        if self._setup is None:
            return []
        ready = [worker for worker in list(self._workers) if worker is not None and worker.is_ready]
        if not ready:
            return ["no worker process is running: they are started again"]
        if all(worker.short_of for worker in ready):
            return [f"every worker process is short of {', '.join(sorted(self.short_of()))}"]
        return []

    def concerns(self) -> list[str]:
        """What an administrator should look at although associations are served."""
        found = [f"a worker process is short of {what}" for what in sorted(self.short_of())]
        if self._setup is not None and any(worker is None or not worker.is_ready for worker in list(self._workers)):
            found.append("a worker process died and is started again")
        if self._unconfined:
            found.append(f"worker processes are not confined as to {', '.join(self._unconfined)}: {_KERNEL}")
        return found

    def short_of(self) -> set[str]:
        """What workers are short of, each one of `headroom.KINDS`."""
        return {worker.short_of for worker in list(self._workers) if worker is not None} - {""}

    def pids(self) -> list[int]:
        """The ids of the processes that live."""
        return [worker.process.pid for worker in list(self._workers) if worker is not None]

    def lost_lines(self) -> int:
        """How many log lines the workers could not write, including workers that have ended."""
        return self._lost_lines + sum(worker.lost_lines for worker in list(self._workers) if worker is not None)

    def _keep(self, number: int) -> None:
        """Keep a worker running in this position until the server stops."""
        while not self._stopping.is_set():
            worker = self._workers[number]
            if worker is None:
                worker = self._launch(number)
                if worker is None:
                    return
            try:
                if not worker.is_ready:
                    self._open(worker)
                self._listen(worker)
            finally:
                if not self._stopping.is_set():
                    self._remove(number, worker)
            self._stopping.wait(_RESTART_SECONDS)

    def _launch(self, number: int) -> _WorkerProcess | None:
        worker = _launch()
        with self._lock:
            if not self._stopping.is_set():
                self._workers[number] = worker
                return worker
        worker.process.kill()
        worker.process.wait()
        worker.control.close()
        return None

    def _listen(self, worker: _WorkerProcess) -> None:
        """Read a worker's pulses until it dies or hangs."""
        silent = 0
        while silent < 2:
            if not is_readable(worker.control.socket, _PULSE_SECONDS):
                silent += 1
                continue
            silent = 0
            try:
                worker.control.fill()
                for fd in worker.control.take_fds():  # an honest worker sends none
                    os.close(fd)
                while (message := worker.control.next()) is not None:
                    self._take(worker, messages.decode_pulse(message))
                self._withdraw(worker)
            except (LineClosed, msgspec.MsgspecError):
                return
        _log.error("a worker process hangs and is ended", name="worker.hung")

    def _take(self, worker: _WorkerProcess, pulse: Pulse) -> None:
        """Apply a pulse to this worker's own state only: a worker is no more trusted than the peers that it serves."""
        now = time.monotonic()
        idle = {number: (seconds, is_used) for number, seconds, is_used in pulse.idle}
        with self._lock:
            worker.short_of = pulse.short_of if pulse.short_of in headroom.KINDS else ""
            worker.lost_lines = max(worker.lost_lines, pulse.lost_lines)
            for number, place in worker.places.items():
                seconds, place.is_used = idle.get(number, (None, place.is_used))
                place.idle_since = None if seconds is None else now - seconds

    def _withdraw(self, worker: _WorkerProcess) -> None:
        """Tell a worker which associations have to end; by the thread that listens to it, at each pulse."""
        with self._lock:
            withdrawn = [place for place in worker.places.values() if place.is_withdrawn]
        for place in withdrawn:
            if _takes_more(worker):
                place.is_withdrawn = False
                with worker.lock, contextlib.suppress(LineClosed):
                    worker.control.send(messages.encode(Withdraw(place.number, WITHDRAWAL_SECONDS)))

    def _remove(self, number: int, worker: _WorkerProcess) -> None:
        with self._lock:
            worker.is_ready = False
            self._workers[number] = None
            self._lost_lines += worker.lost_lines
            self.deaths += 1
        end_process(worker.process, _DYING_SECONDS)
        worker.control.close()
        _log.error(
            "a worker process died and is started again", name="worker.died", exit_code=worker.process.returncode
        )


def _encoded(users: Directory) -> bytes:
    """The users without their passwords: a worker refuses early by them, and learns no secret."""
    return b"" if users.is_open else encode(StoredUsers(users))


def _takes_more(worker: _WorkerProcess) -> bool:
    """Whether a message to it would be sent without waiting; false for one that hangs."""
    try:
        return is_writable(worker.control.socket, 0)
    except (OSError, ValueError):
        return False


def _launch() -> _WorkerProcess:
    process, control = launch("coffer.server.workers")
    return _WorkerProcess(process, Wire(control, most_bytes=_LONGEST_PULSE))
