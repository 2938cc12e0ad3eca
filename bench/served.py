"""One Coffer server on an archive folder, as a process of its own, and its cost while it runs."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final, Self

from coffer.keys.disk import durable

_TICK: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
AE_TITLE: Final = "PEER"
_STOP_SECONDS: Final = 30.0


def free_port() -> int:
    """Return a free TCP port."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait_for_port(port: int, seconds: float = 60.0) -> None:
    """Return once somebody listens on a port of this machine. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), seconds).close()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise TimeoutError(f"nobody listens on port {port}") from None
            time.sleep(0.1)
        else:
            return


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat after the name; None for a process that has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None


def tree(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := _stat(int(name))):
            children.setdefault(int(fields[1]), []).append(int(name))
    found, todo = [], [pid]
    while todo:
        each = todo.pop()
        found.append(each)
        todo += children.get(each, [])
    return found


def cpu_seconds(pid: int) -> float:
    """Return the user and system time of a tree, including children that were waited for; resolution 10 ms."""
    return sum(sum(map(int, fields[11:15])) for each in tree(pid) if (fields := _stat(each))) / _TICK


def cpu_seconds_of(pid: int, module: str) -> float:
    """Return the same of those processes of a tree that run a module; resolution 10 ms."""
    return sum(cpu_seconds(each) for each in tree(pid) if module.encode() in _command(each))


def _command(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def memory_bytes(pid: int) -> int:
    """Return the resident memory of a tree in bytes; pages shared by two processes count twice."""
    return sum(int(fields[21]) * _PAGE for each in tree(pid) if (fields := _stat(each)))


class Served:
    """A server on `folder`, which holds `archive` and `coffer.key`, created if absent. It listens once entered."""

    def __init__(self, folder: Path, *, idle_seconds: float = 60.0, coffer: Path | None = None) -> None:
        """`coffer` is the program, this environment's if it is not given."""
        self.folder = folder
        self._coffer = coffer or Path(sys.executable).parent / "coffer"
        self.port = free_port()
        self._idle = idle_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self.started = 0.0

    @property
    def pid(self) -> int:
        """The main process of the server, the parent of the others."""
        assert self._process is not None
        return self._process.pid

    def _configure(self) -> Path:
        path = self.folder / "coffer.toml"
        path.write_text(
            f'archive = "{self.folder}/archive"\n'
            f'[dimse]\nae_title = "{AE_TITLE}"\nhost = "127.0.0.1"\nport = {self.port}\n'
            f"max_associations = 500\nmax_associations_per_peer = 500\nidle_seconds = {self._idle}\n"
            f'[http]\nenabled = false\n[keys]\nkey_file = "{self.folder}/coffer.key"\n[log]\nlevel = "error"\n',
            encoding="utf-8",
        )
        return path

    def launch(self) -> None:
        """Start the process and return immediately; `started` is the time of the start."""
        durable.make_folder(self.folder, 0o700)
        command = [str(self._coffer), "--config", str(self._configure())]
        environment = {**os.environ, "XDG_STATE_HOME": str(self.folder)}  # marks lie here, not in a home folder
        if not (self.folder / "archive").exists():
            out = subprocess.DEVNULL
            subprocess.run([*command, "init"], check=True, env=environment, stdout=out, stderr=out)
        self.started = time.perf_counter()
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen([*command, "serve"], stdout=log, stderr=log, env=environment)

    def wait(self, seconds: float = 120.0) -> None:
        """Wait until it listens. Raises RuntimeError with the end of its log if it does not."""
        assert self._process is not None
        while time.perf_counter() - self.started < seconds:
            if self._process.poll() is not None:
                break
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.01)
        raise RuntimeError("the server does not listen: " + (self.folder / "server.log").read_text()[-800:])

    def __enter__(self) -> Self:
        self.launch()
        try:
            self.wait()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop it as an administrator would; kill what is left after half a minute."""
        if self._process is None:
            return
        below = tree(self.pid)
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            for pid in reversed(below):
                os.kill(pid, signal.SIGKILL)
            self._process.wait()
        self._process = None

    def cpu(self) -> float:
        """Return the CPU seconds until now."""
        return cpu_seconds(self.pid)

    def memory(self) -> int:
        """Return the resident bytes now."""
        return memory_bytes(self.pid)
