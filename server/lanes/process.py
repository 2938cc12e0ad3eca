"""A lane: a process that serves associations handed to it, and keeps nothing of its own.

Rule: it opens the log for reading only, has no key but those it asks for, and ends when the process that started it
does: then nothing that was not acknowledged ever will be. Of the keyring it reads the change counter, so that a key
that anybody takes away is not used here any more. Started as `python -P -m server.lanes FD`; -P, because a
folder named `archive` where the server was started is not our package.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from archive.allocator import keep_blocks, keep_objects
from archive.folder import ArchiveFolder
from archive.reader import LogReader
from archive.room import Room
from keys import guard, rows, selftest
from keys.errors import CofferError
from keys.secret import Secret
from keys.store import RowStore
from server import logs
from server.config import Config
from server.dimse.acceptor import Acceptor
from server.dimse.associations import Associations
from server.dimse.connection import Connection
from server.intake import Intake
from server.lanes import messages
from server.lanes.messages import Quit, Ready, Serve, Setup
from server.lanes.proxy import Line, RemoteServices
from server.lanes.wire import LineClosed, Wire
from server.vault import policy_of

_log = structlog.get_logger(__name__)
_LOOK_SECONDS: Final = 0.5


def encode_config(config: Config) -> bytes:
    """A configuration for another process of this Coffer."""
    return msgspec.json.encode(config, enc_hook=str)


def _decode_config(data: bytes) -> Config:
    def path(kind: type, value: Any) -> Any:
        return kind(value) if issubclass(kind, Path) else value

    return msgspec.json.decode(data, type=Config, dec_hook=path)


class Lane:
    """One lane's state."""

    def __init__(self, setup: Setup) -> None:
        self._config = config = _decode_config(setup.config)
        logs.configure(config.log)
        selftest.require()
        logs.use_id_key(Secret(setup.log_id_key))
        folder = ArchiveFolder.open(config.archive)
        self._archive_id = setup.archive_id
        room = Room(folder.spool, config.storage.reserve_bytes)
        self._intake = Intake(config.limits, setup.archive_id, room, share=setup.share)
        self._reader = LogReader(folder)
        self._changes = partial(RowStore(folder.keyring, readonly=True).get, rows.CHANGES_KEY)
        self._services: set[RemoteServices] = set()
        self._policy = policy_of(config)
        self._associations = Associations()
        threading.Thread(target=self._forget_keys, name="forget keys", daemon=True).start()

    def serve(self, host: str, connection: socket.socket, line: socket.socket) -> None:
        """Serve one association in a thread of its own."""
        settings = self._config.dimse
        end = Line(Wire(line))
        services = RemoteServices(end, self._intake, self._policy, self._archive_id, self._reader, self._changes)
        self._services.add(services)
        pdus = Connection(connection, max_pdu=settings.max_pdu, gap_seconds=settings.gap_seconds)
        acceptor = Acceptor(pdus, host, self._config, services, services.observer)

        def over() -> None:
            self._services.discard(services)
            end.close()

        self._associations.begin(acceptor, over)

    def _forget_keys(self) -> None:
        """Drop the keys of associations that are idle, too, when a key was taken away."""
        seen = self._changes()
        while True:
            time.sleep(_LOOK_SECONDS)
            with contextlib.suppress(CofferError):  # whoever needs a key meets it
                changes = self._changes()
                if changes != seen:
                    seen = changes
                    for services in list(self._services):
                        services.forget_keys()

    def quit(self, grace_seconds: float) -> None:
        """Let operations end."""
        self._associations.stop(grace_seconds)


def run(control: Wire) -> None:
    """Take orders until told to quit. Raises LineClosed when the committing process is gone."""
    lane: Lane | None = None
    while True:
        order = messages.decode_order(control.receive())
        match order:
            case Setup():
                lane = Lane(order)
                keep_objects()
                control.send(messages.encode(Ready()))
            case Serve(host) if lane is not None:
                connection, line = (socket.socket(fileno=fd) for fd in control.take_fds()[:2])
                lane.serve(host, connection, line)
            case Quit(grace_seconds):
                if lane is not None:
                    lane.quit(grace_seconds)
                return
            case _:
                raise LineClosed


def main() -> None:
    """Run a lane on the control socket whose descriptor is the first argument."""
    # Ctrl-C and systemd signal the whole group: the committing process decides when a lane ends.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    guard.forbid_dumps()
    keep_blocks()
    control = Wire(socket.socket(fileno=int(sys.argv[1])))
    try:
        run(control)
    except CofferError as error:
        _log.error("this receiving process ends", cause=str(error), way_out=error.hint())
        os._exit(1)
    except LineClosed:
        os._exit(1)  # without a word to any peer: what was not acknowledged must look like that
