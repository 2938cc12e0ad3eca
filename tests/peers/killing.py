"""A command that gets kill -9 as it enters one of its system calls.

A process that has loaded Coffer and done nothing yet is forked for each run, strace is attached to the fork, and the
fork goes: what dies is a real process in a real call, without the second that a fresh interpreter takes.
"""

import ctypes
import os
import re
import shutil
import subprocess
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.conftest import absent

_BY_NAME = frozenset(
    ("rename", "renameat", "renameat2", "link", "linkat", "symlink", "unlink", "unlinkat", "mkdir", "mkdirat", "rmdir",
     "openat")
)  # fmt: skip
_BY_FILE = frozenset(
    ("write", "pwrite64", "writev", "pwritev", "pwritev2", "fsync", "fdatasync", "msync", "ftruncate", "fallocate")
)
CALLS = ",".join(f"?{name}" for name in sorted(_BY_NAME | _BY_FILE))  # ?: not every machine has them all
_LINE = re.compile(r"(\d+) +(\w+)\((.*)")
_QUOTED = re.compile(r'"([^"]*)"')
_OF_FILE = re.compile(r"\d+<([^>]*)>")
_ANY_TRACER = 0x59616D61, ctypes.c_ulong(-1)  # PR_SET_PTRACER, PR_SET_PTRACER_ANY
KILLED = "killed"
_WARM = get_context("forkserver")


def load_first(*modules: str) -> None:
    """What every fork finds loaded: these, and what commands load when they run."""
    late = (
        "engine.erasure_state erasure.approvals erasure.finish keyops.check keyops.epochs keyops.rekey_order"
        " keyops.share_recovery main.service services.bundle services.exporting services.importing services.media"
    )
    _WARM.set_forkserver_preload(
        [
            *modules,
            "click.testing",
            "numpy.random",
            "coffer.server.maintenance.deep_check",
            *(f"coffer.server.{name}" for name in late.split()),
        ]
    )


@dataclass(frozen=True, slots=True)
class Point:
    """The `number`th time that a thread enters `call`; it then means the file `path`, relative to the base folder."""

    call: str
    number: int
    path: str

    def is_in(self, folder: str) -> bool:
        """Whether the file lies in a folder of the base folder."""
        return self.path.startswith(folder + "/")

    def __str__(self) -> str:
        return f"{self.call} {self.number} on {self.path}"


class Fork:
    """A function that waits in a process of its own, in the folder `base`, until `finish` lets it go."""

    def __init__(self, base: Path, function: Callable[..., object], *args: object) -> None:
        self.base = base
        self._ours, theirs = _WARM.Pipe()
        self._strace: subprocess.Popen[str] | None = None
        self.process = _WARM.Process(target=_wait_and_do, args=(theirs, base, function, args))
        self.process.start()
        theirs.close()

    def attach(self, *options: str) -> None:
        """Let strace follow it."""
        command = ["strace", "-f", "-s", "0", "-y", "-p", str(self.process.pid), *options]
        self._strace = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self._strace.stderr is not None
        said = self._strace.stderr.readline()
        if "attached" not in said:
            self.process.kill()
            absent(f"strace cannot be attached here: {said}")

    def go(self) -> None:
        """Let it run."""
        self._ours.send(None)

    def finish(self, seconds: float = 60) -> Any:
        """Wait for its end; what the function returned, or KILLED."""
        try:
            failed, answer = self._ours.recv() if self._ours.poll(seconds) else (True, "it hangs")
        except (EOFError, ConnectionResetError):
            failed, answer = False, KILLED
        if failed:
            self.process.kill()
        self.process.join(seconds)
        if self._strace is not None:
            self._strace.communicate(timeout=seconds)
        assert not failed, answer
        assert self.process.exitcode == (-9 if answer == KILLED else 0)
        return answer


def _wait_and_do(theirs: Connection, base: Path, function: Callable[..., object], args: tuple[object, ...]) -> None:
    os.chdir(base)
    os.environ["SOFTHSM2_CONF"] = str(base / "hsm" / "softhsm2.conf")
    if hasattr(libc := ctypes.CDLL(None), "prctl"):
        libc.prctl(*_ANY_TRACER)
    theirs.recv()
    try:
        theirs.send((False, function(*args)))
    except BaseException:  # noqa: BLE001  told in the process that waits
        theirs.send((True, traceback.format_exc()))


def done(base: Path, function: Callable[..., object], *args: object) -> Any:
    """What a function returns, run in a process of its own."""
    fork = Fork(base, function, *args)
    fork.go()
    answer = fork.finish()
    assert answer != KILLED
    return answer


def points(fork: Fork, trace: Path) -> tuple[list[Point], Any]:
    """Let it run to its end; every call that changed something under its folder, in order, and what it returned."""
    attach_tracer(fork, trace)
    fork.go()
    answer = fork.finish()
    return list(read_trace(trace, fork.base)), answer


def attach_tracer(fork: Fork, trace: Path) -> None:
    """From now on its calls are written to a file."""
    fork.attach("-o", str(trace), "-e", f"trace={CALLS}")


def read_trace(trace: Path, base: Path) -> Iterator[Point]:
    """The calls in a trace that change something under `base`."""
    counted: Counter[tuple[str, str]] = Counter()
    for line in trace.read_text().splitlines():
        if (found := _LINE.match(line)) is None:
            continue
        thread, call, rest = found.groups()
        counted[thread, call] += 1
        if call == "openat" and "O_CREAT" not in rest and "O_TRUNC" not in rest:
            continue
        path = (_QUOTED if call in _BY_NAME else _OF_FILE).search(rest)
        full = base / path[1] if path is not None else Path("/")
        if full.is_relative_to(base) and "[" not in full.name:  # not a pipe or a socket
            yield Point(call, counted[thread, call], str(full.relative_to(base)))


def attach_killer(fork: Fork, point: Point) -> None:
    """From now on it dies there."""
    fork.attach(
        "-o", "/dev/null", "-e", f"trace={point.call}", "-e", f"inject={point.call}:signal=KILL:when={point.number}"
    )


@contextmanager
def folder_in_memory(name: str, otherwise: Path) -> Iterator[Path]:
    """A folder whose syncs cost nothing, where there is one: a killed process loses nothing that it wrote."""
    memory = Path("/dev/shm")
    base = (memory if os.access(memory, os.W_OK) else otherwise) / f"coffer-{name}-{os.getpid()}"
    base.mkdir()
    try:
        yield base
    finally:
        shutil.rmtree(base)
