"""A worker: a process that serves the associations passed to it, and keeps no state of its own.

Rule: it opens the log for reading only, has only the keys that it requests, and ends with the process that started it:
what was not acknowledged by then never will be. It is confined (`server.confine`) before it serves anybody. Of the
keyring it reads the feed of removed keys, so that none of them is used here any longer. Started by `server.host.child`
as the module `coffer.server.workers`.
"""

import contextlib
import errno
import os
import socket
import sys
import threading
import time
from typing import Final

from coffer.archive.body.allocator import keep_blocks, keep_objects
from coffer.archive.reader import LogReader
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.free_space import FreeSpace
from coffer.keys.crypto import selftest
from coffer.keys.errors import CofferError
from coffer.keys.inspect.view import KeyringView
from coffer.keys.memory import hardening
from coffer.keys.memory.heap import sweep
from coffer.keys.memory.secret import Secret
from coffer.server.access.decision import policy_of
from coffer.server.access.users import NOBODY
from coffer.server.access.users_file import decode as decode_users
from coffer.server.config.passing import decode_config
from coffer.server.config.settings import Config
from coffer.server.confine.confine import confine
from coffer.server.confine.needs import Needs, is_name, python_files
from coffer.server.dimse.acceptor import Acceptor
from coffer.server.dimse.associations import Associations
from coffer.server.dimse.outlet import Outlet
from coffer.server.dimse.protocol.connection import Connection
from coffer.server.dimse.protocol.negotiation import CONGESTED
from coffer.server.dimse.refusal import refuse_at_once
from coffer.server.engine.sealing import Intake, rules_of
from coffer.server.host.child import ignore_signals
from coffer.server.host.headroom import Shortage, lacks_descriptors, what_ran_out
from coffer.server.host.rate import Rates
from coffer.server.host.watched import Watched
from coffer.server.observe import logs
from coffer.server.workers import messages
from coffer.server.workers.checks import body_limits
from coffer.server.workers.messages import (
    End,
    Pulse,
    Quit,
    Ready,
    Serve,
    Setup,
    Users,
    Withdraw,
)
from coffer.server.workers.proxy import Line, RemoteServices
from coffer.server.workers.transport import LineClosed, Wire

_log = logs.get_logger()
_LOOK_SECONDS: Final = 0.5
_IDLE_SECONDS: Final = 1.0


def needs_of(config: Config, folder: ArchiveFolder) -> Needs:
    """What a worker of this archive needs of the kernel once it has the keyring's feed open: Python, the segments to
    read, the spool to write, the ports of the C-MOVE destinations without TLS (the others: `server.dimse.outlet`)."""
    plain = [peer for peer in config.peers if not peer.tls]
    return Needs(
        read=(*python_files(), folder.segments),
        write=(folder.spool,),
        ports=frozenset(peer.port for peer in plain),
        resolves=any(is_name(peer.host) for peer in plain),
        file_bytes=body_limits(config.limits)[1],
    )


class Worker:
    """One worker's state. `unconfined` lists what the kernel could not forbid it."""

    def __init__(self, setup: Setup, outlet: socket.socket | None) -> None:
        self._config = config = decode_config(setup.config)
        logs.configure(config.log)
        folder = ArchiveFolder.open(config.archive)
        self._feed = KeyringView(folder.keyring).changes  # its folder cannot be opened any more afterwards
        self.unconfined = confine(needs_of(config, folder))  # before the first thread, and before the first stranger
        logs.run_in_background()
        selftest.require()
        logs.use_id_key(Secret(setup.log_id_key))
        self._archive_id = setup.archive_id
        room = FreeSpace(folder.spool, config.storage.reserve_bytes)
        self._intake = Intake(config.limits, setup.archive_id, room, share=setup.share)
        self._reader = LogReader(folder)
        self._services: set[RemoteServices] = set()
        self._has_dropped = False  # keys, since the heap was swept
        self.use(setup.users)
        self._rules = rules_of(config)
        self._associations = Associations()
        self._acceptors: dict[int, Acceptor] = {}
        self._shortage = Shortage()
        self._rates = Rates(config.dimse.requests_per_second)
        self._dial = Outlet(outlet, config.tls)
        self._quitting = threading.Event()

    def use(self, users: bytes) -> None:
        """Judge the associations that begin from now on by these users, as in `Setup`."""
        self._policy = policy_of(self._config, decode_users(users).directory if users else NOBODY)

    def serve(self, order: Serve, fds: list[int]) -> None:
        """Serve one association in its own thread, or refuse it if a resource that it needs has run out.

        `fds` are its connection and its line, or fewer if this process had no descriptors left.
        """
        sockets = [socket.socket(fileno=fd) for fd in fds]
        try:
            if len(fds) < 2 or lacks_descriptors():
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            self._begin(order, *sockets)
        except Exception as error:  # noqa: BLE001  # one association must not end the process
            what = what_ran_out(error)
            if what:
                self._shortage.note(what)
            else:
                _log.error(
                    "an association did not begin: internal error", name="association.begin_failed", exc_info=error
                )
            if sockets:
                refuse_at_once(sockets[0], CONGESTED)
            for each in sockets:
                each.close()

    def _begin(self, order: Serve, connection: socket.socket, line: socket.socket) -> None:
        settings, number = self._config.dimse, order.number
        end = Line(Wire(line))
        services = RemoteServices(
            end, self._intake, self._policy, self._rules, self._archive_id, self._reader, self._feed
        )
        pdus = Connection(connection, max_pdu=settings.max_pdu, gap_seconds=settings.gap_seconds)
        acceptor = Acceptor(
            pdus, order.host, self._config, self._policy, services, services.observer, services, self._dial, self._rates
        )

        def over() -> None:
            self._services.discard(services)
            services.end()
            self._has_dropped = True
            self._acceptors.pop(number, None)
            end.close()

        self._services.add(services)
        self._acceptors[number] = acceptor
        try:
            self._associations.begin(acceptor, over)
        except BaseException:
            self._services.discard(services)
            del self._acceptors[number]
            raise

    def end(self, number: int) -> None:
        """End an association that is idle."""
        acceptor = self._acceptors.get(number)
        if acceptor is not None and acceptor.is_idle:
            acceptor.abort()

    def withdraw(self, number: int, seconds: float) -> None:
        """End an association at once, or after the operation under way, which has so many seconds."""
        acceptor = self._acceptors.get(number)
        if acceptor is not None:
            acceptor.withdraw(seconds)

    def pulse(self, control: Wire) -> None:
        """Start the thread that reports twice a second on this process: without it the process counts as hung."""
        Watched("the pulse of a worker process", lambda: self._pulse(control), self._quitting).start()

    def _pulse(self, control: Wire) -> None:
        while not self._quitting.wait(_LOOK_SECONDS):
            self._drop_keys()
            now, idle = time.monotonic(), []
            for number, acceptor in list(self._acceptors.items()):
                acceptor.end_overdue()
                since = acceptor.idle_since
                if since is not None and now - since >= _IDLE_SECONDS:
                    idle.append((number, now - since, acceptor.is_used))
            with contextlib.suppress(LineClosed):  # the main thread notices it too
                control.send(messages.encode(Pulse(self._shortage.now(), logs.lost(), idle)))

    def _drop_keys(self) -> None:
        """Drop the keys that no association may use any more, those of idle ones included, and what is left of any in
        the heap."""
        with contextlib.suppress(CofferError):  # the next request for a key raises it
            for services in list(self._services):
                self._has_dropped |= services.drop_keys()
        if self._has_dropped:
            self._has_dropped = False
            sweep()

    def quit(self, grace_seconds: float) -> None:
        """Let running operations finish, for at most `grace_seconds`."""
        self._associations.stop(grace_seconds)


def run(control: Wire) -> None:
    """Execute orders until `Quit`. Raises LineClosed if the committing process has ended."""
    worker: Worker | None = None
    while True:
        order = messages.decode_order(control.receive())
        match order:
            case Setup():
                fd = control.take_fd()
                worker = Worker(order, None if fd is None else socket.socket(fileno=fd))
                keep_objects()
                control.send(messages.encode(Ready(worker.unconfined)))
                worker.pulse(control)
            case Users(users) if worker is not None:
                worker.use(users)
            case Serve() if worker is not None:
                worker.serve(order, control.take_fds())
            case End(number) if worker is not None:
                worker.end(number)
            case Withdraw(number, seconds) if worker is not None:
                worker.withdraw(number, seconds)
            case Quit(grace_seconds):
                if worker is not None:
                    worker.quit(grace_seconds)
                return
            case _:
                raise LineClosed


def main() -> None:
    """Run a worker on the control socket whose descriptor is the first argument."""
    ignore_signals()
    hardening.forbid_dumps()
    keep_blocks()
    control = Wire(socket.socket(fileno=int(sys.argv[1])))
    try:
        run(control)
    except CofferError as error:
        _log.error("this worker process ends", name="worker.failed", cause=str(error), remedy=error.hint())
        logs.drain()
        os._exit(1)
    except LineClosed:
        os._exit(1)  # send nothing to any peer: what was not acknowledged must look so
