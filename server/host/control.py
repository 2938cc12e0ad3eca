"""The control socket of a running server: orders from commands on this host, and how they ended.

Rule: a socket in Linux's abstract namespace, named after the archive folder, so that it needs no file and goes with its
process. The kernel says who is at the other end: orders come from this account and root only, and a command believes
only a server of the same. It carries the name of an order and its outcome, never data.
"""

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from coffer.keys import errors
from coffer.keys.errors import CofferError, UnavailableError
from coffer.server.host.watched import Watched
from coffer.server.observe.logs import get_logger

__all__ = ["ControlSocket", "give_order", "objection"]

_log = get_logger()
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid: unix(7), SO_PEERCRED
_LONGEST: Final = 4096
_SECONDS: Final = 5.0  # to send an order
_PATIENCE_SECONDS: Final = 30.0  # for its outcome
_UNKNOWN: Final = "this server knows no such order"
_NO_SERVER: Final = "no server of this archive runs on this host"


class _Outcome(msgspec.Struct, frozen=True):
    """How an order ended: the class of the error, cause and remedy, or nothing."""

    kind: str = ""
    cause: str = ""
    hint: str = ""


class ControlSocket:
    """The server's end, from `start` to `stop`. Orders are carried out one after the other in a thread of its own."""

    def __init__(self, archive: Path, orders: Mapping[str, Callable[[], None]]) -> None:
        """`orders` are called by name; what they raise of CofferError is their outcome."""
        self._archive = archive
        self._orders = orders
        self._socket: socket.socket | None = None
        self._stopping = threading.Event()
        self._watched = Watched("taking orders from commands", self._serve, self._stopping)

    def start(self) -> None:
        """Listen. Without the socket the server does its work all the same, so a failure is only logged."""
        try:
            self._socket = sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.bind(_address(self._archive))
            sock.listen()
        except OSError as error:
            _log.error("no orders can be given to this server", name="control.failed", cause=error.strerror)
            return
        self._watched.start()

    def stop(self) -> None:
        """Take no more orders. Harmless when repeated or never started."""
        self._stopping.set()
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._watched.join()
            self._socket.close()

    def _serve(self) -> None:
        assert self._socket is not None
        while not self._stopping.is_set():
            try:
                caller, _ = self._socket.accept()
            except OSError:
                if self._stopping.wait(1.0):
                    return
                continue
            with caller, contextlib.suppress(OSError):
                caller.settimeout(_SECONDS)
                if _uid(caller) in {os.geteuid(), 0}:
                    caller.sendall(msgspec.json.encode(self._outcome(caller.recv(_LONGEST).decode("utf-8", "replace"))))

    def _outcome(self, name: str) -> _Outcome:
        order = self._orders.get(name)
        if order is None:
            return _Outcome("InputError", _UNKNOWN, "it is of another version: restart it")
        try:
            order()
        except CofferError as error:
            return _Outcome(type(error).__name__, str(error), error.hint())
        return _Outcome()


def give_order(archive: Path, name: str) -> None:
    """Give an order to the server of an archive and wait for its outcome. Raises the error that it ended with,
    UnavailableError if no server of this account runs here, or it does not answer."""
    outcome = _outcome_of(archive, name)
    if outcome.kind:
        raise _error(outcome)


def objection(archive: Path, name: str) -> CofferError | None:
    """The error that an order to the server of an archive ended with; None also where no server knows that order, or
    none of this account runs here and answers."""
    try:
        outcome = _outcome_of(archive, name)
    except UnavailableError:
        return None
    return _error(outcome) if outcome.kind and outcome.cause != _UNKNOWN else None


def _error(outcome: _Outcome) -> CofferError:
    kind: type[CofferError] = getattr(errors, outcome.kind, UnavailableError)
    return kind(outcome.cause, hint=outcome.hint)


def _outcome_of(archive: Path, name: str) -> _Outcome:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(_PATIENCE_SECONDS)
        try:
            sock.connect(_address(archive))
            if _uid(sock) not in {os.geteuid(), 0} and os.geteuid():
                raise UnavailableError(_NO_SERVER, hint="run the command as the account that runs the server")
            answer = _asked(sock, name)
        except (ConnectionRefusedError, FileNotFoundError) as error:
            raise UnavailableError(_NO_SERVER, hint="a server reads all of its files when it starts") from error
        except OSError as error:
            raise UnavailableError("the server does not answer", hint="see its log") from error
    try:
        return msgspec.json.decode(answer, type=_Outcome)
    except msgspec.MsgspecError as error:  # nothing: it takes no order of this account, or has just ended
        raise UnavailableError("the server takes no orders from this account", hint="run it as its account") from error


def _asked(sock: socket.socket, name: str) -> bytes:
    """What the server answers; nothing where it hangs up."""
    try:
        sock.sendall(name.encode())
        return sock.recv(_LONGEST)
    except (ConnectionResetError, BrokenPipeError):
        return b""


def _address(archive: Path) -> str:
    try:
        found = archive.stat()
    except OSError as error:
        raise UnavailableError(f"the archive {archive} cannot be seen: {error.strerror}") from error
    return f"\0coffer/{found.st_dev:x}/{found.st_ino:x}"


def _uid(sock: socket.socket) -> int:
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(raw)[1])
