"""A child process of the server: another module of Coffer with a socket to the process that started it.

Rule: it never outlives its use: it ends by itself when the socket closes, and is killed where it does not end in time.
Signals to the process group are not for it: the parent decides when it ends.
"""

import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

__all__ = ["end_process", "ignore_signals", "inherited", "launch"]

_HARMLESS: Final = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2})


def launch(module: str, *inherited: socket.socket) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start `python -I -m MODULE FD...` and return it with our end of its control socket.

    Its arguments are the descriptor of its end, then those of `inherited`, which stay open here. -I, because a folder
    named `archive` where the server was started is not our package. Raises OSError.
    """
    ours, theirs = socket.socketpair()
    # A signal to the process group while a child loads stays pending until the child ignores it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HARMLESS)
    try:
        with theirs:
            descriptors = [each.fileno() for each in (theirs, *inherited)]
            process = subprocess.Popen(  # noqa: S603  # our own code, no foreign input
                [sys.executable, "-I", "-m", module, *map(str, descriptors)],
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
            )
    except BaseException:
        ours.close()
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process, ours


def ignore_signals() -> None:
    """In a child: ignore what Ctrl-C, a closed terminal and systemd send to the whole group, from its start on."""
    for number in _HARMLESS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HARMLESS)  # blocked by `launch` until now


def inherited(descriptors: Sequence[str]) -> list[socket.socket]:
    """In a child: the sockets whose descriptors are its arguments."""
    return [socket.socket(fileno=int(each)) for each in descriptors]


def end_process(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait for a process to end by itself, then kill it after `seconds`."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
