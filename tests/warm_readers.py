"""The two readers without a key, `python -I -m MODULE`, as forks of one process that has loaded them already.

What runs is the same: their own code, in a process of its own with its own standard streams, that damaged pages may
kill. Only the interpreter's start is saved, which is most of what a reader costs. A real `coffer verify`, as in
`tests/peers`, starts the real readers.
"""

import contextlib
import os
import runpy
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Final, NoReturn

from coffer.index import keyless_check
from coffer.keys.inspect import remembered

READERS: Final = (keyless_check, remembered)
_CODE: Final = struct.Struct("<i")


class WarmReaders:
    """Stands where a reader's module has `subprocess`: `run` is answered by a fork. Started by its first use."""

    TimeoutExpired = subprocess.TimeoutExpired

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._turn = threading.Lock()
        self._account = os.geteuid()

    def run(self, command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        """As `subprocess.run(command, capture_output=True)`; `input` as there."""
        if os.geteuid() != self._account:  # the fork would have the rights that the caller gave away
            return subprocess.run(command, **options)
        module, *words = command[3:]
        assert command[:3] == [sys.executable, "-I", "-m"]
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            given.write(options.get("input", b""))
            given.seek(0)
            with self._turn:
                code = self._ask([str(Path.cwd()), module, *words], (given, out, err))
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(command, code, out.read(), err.read())

    def _ask(self, words: Sequence[str], streams: Sequence[IO[bytes]]) -> int:
        if self._process is None:
            self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                start = [sys.executable, "-I", __file__, str(theirs.fileno())]
                self._process = subprocess.Popen(start, pass_fds=[theirs.fileno()])
        descriptors = [each.fileno() for each in streams]
        socket.send_fds(self._ours, ["\0".join(words).encode()], descriptors)
        (code,) = _CODE.unpack(self._ours.recv(_CODE.size))
        return int(code)

    def close(self) -> None:
        """End the process that has them loaded."""
        if self._process is not None:
            self._ours.close()
            self._process.wait(30)


def _serve(control: socket.socket) -> None:
    """Fork for every request, until the socket is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        words, descriptors, _, _ = socket.recv_fds(control, 1 << 16, 3)
        if not words:
            return
        child = os.fork()
        if child == 0:
            control.close()
            folder, *argv = words.decode().split("\0")
            _read(folder, argv, descriptors)
        for each in descriptors:
            os.close(each)
        _, status = os.waitpid(child, 0)
        control.send(_CODE.pack(os.waitstatus_to_exitcode(status)))


def _read(folder: str, words: Sequence[str], descriptors: Sequence[int]) -> NoReturn:
    """In the fork: be the reader, in the caller's folder, and end."""
    for number, each in enumerate(descriptors):
        os.dup2(each, number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(folder)
    sys.argv = list(words)
    code = 1
    with contextlib.suppress(BaseException):
        runpy.run_module(words[0], run_name="__main__")
        sys.stdout.flush()
        code = 0
    os._exit(code)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
