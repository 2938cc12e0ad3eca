"""The real `coffer serve` as a child process, with its own archive, ports and config file in one folder.

It starts and stops the product exactly as an admin would and reaches into nothing; what it knows of the inside is the
config file's documented keys.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.server import filled
from tests.server.filled import free_port

ROOT = Path(__file__).resolve().parents[2]
COFFER = Path(os.environ.get("COFFER_PROGRAM", Path(sys.executable).with_name("coffer")))
START_SECONDS = 30


@dataclass(slots=True)
class Peer:
    """A move destination as the config file names it."""

    ae_title: str
    port: int


@dataclass(slots=True)
class CofferProcess:
    """One archive folder with its config, and the server process that is running on it or not."""

    base: Path
    peers: list[Peer] = field(default_factory=list)
    ae_title: str = "COFFER"
    port: int = field(default_factory=free_port)
    http: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    workers: int = 1  # each costs a second of CPU to start

    @property
    def archive(self) -> Path:
        """The archive folder."""
        return self.base / "archive"

    @property
    def key_file(self) -> Path:
        """The key file, which stands beside the archive and never in it."""
        return self.base / "keys" / "coffer.key"

    @property
    def config(self) -> Path:
        """The config file."""
        return self.base / "coffer.toml"

    @property
    def log(self) -> Path:
        """Standard output and error of every start, appended."""
        return self.base / "server.log"

    def write_config(self, extra: str = "") -> None:
        """Write coffer.toml; `extra` is more TOML for the end of it."""
        self.key_file.parent.mkdir(exist_ok=True, mode=0o700)
        lines = [
            f'archive = "{self.archive}"',
            "",
            "[dimse]",
            f'ae_title = "{self.ae_title}"',
            f"processes = {self.workers}",
            'host = "127.0.0.1"',
            f"port = {self.port}",
            "",
            "[http]",
            'host = "127.0.0.1"',
            f"port = {self.http}",
            "",
            "[keys]",
            'provider = "file"',
            f'key_file = "{self.key_file}"',
            "",
        ]
        for peer in self.peers:
            lines += ["[[peers]]", f'ae_title = "{peer.ae_title}"', 'host = "127.0.0.1"', f"port = {peer.port}", ""]
        self.config.write_text("\n".join(lines) + extra)

    def run(self, *args: str, check: bool = True, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Run one `coffer` command on this archive, in the archive's base folder, with a temp folder of its own."""
        done = subprocess.run(
            [str(COFFER), "--config", str(self.config), *args],
            capture_output=True,
            text=True,
            cwd=self.base,
            env=self.environment(),
            timeout=timeout,
        )
        if check and done.returncode:
            raise AssertionError(f"coffer {' '.join(args)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def here(self, *args: str) -> None:
        """As `run`, in this process, for what comes before and after a test: no second interpreter loads Coffer."""
        with contextlib.chdir(self.base):
            filled.run("--config", str(self.config), *args)

    def json(self, *args: str, check: bool = True, timeout: float = 300) -> object:
        """Run a command with --json and return what it printed: one value, or a list of one value per line."""
        out = self.run(*args, "--json", check=check, timeout=timeout).stdout
        try:
            return json.loads(out)
        except json.JSONDecodeError:
            return [json.loads(line) for line in out.splitlines() if line.strip()]

    def environment(self) -> dict[str, str]:
        """The environment of every command: no settings of the caller, temp files where the tests can search them."""
        temp = self.base / "tmp"
        temp.mkdir(exist_ok=True)
        keep = {k: v for k, v in os.environ.items() if not k.startswith("COFFER_")}
        return {**keep, "TMPDIR": str(temp), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}

    def init(self) -> None:
        """Create the archive."""
        if not self.config.exists():
            self.write_config()
        self.here("init", "--yes-same-disk")

    def start(self, stderr: int | None = None, until: Callable[[], bool] | None = None) -> "CofferProcess":
        """Start `coffer serve` and return when it says it is ready, or else `until` holds; `stderr` is a descriptor
        instead of `log`."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(COFFER), "--config", str(self.config), "serve"],
                cwd=self.base,
                stdout=log,
                stderr=log if stderr is None else stderr,
                stdin=subprocess.DEVNULL,
                env=self.environment(),
            )
        deadline = time.monotonic() + START_SECONDS
        while not (until or self.ready)():
            if self.process.poll() is not None or time.monotonic() > deadline:
                state = "is not ready" if self.process.poll() is None else f"ended with {self.process.returncode}"
                self.kill()
                raise AssertionError(f"coffer serve {state}\n{self.log.read_text()[-4000:]}")
            time.sleep(0.02)
        return self

    def ready(self) -> bool:
        """Whether /readyz answers 200."""
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/readyz", timeout=2) as answer:
                    return bool(answer.status == 200)
            except urllib.error.HTTPError as answer:
                if answer.code != 429:  # it says nothing about the server: a test asks more often than a scraper may
                    return False
                time.sleep(int(answer.headers["retry-after"]))
            except OSError:
                return False

    def answers(self) -> bool:
        """Whether somebody answers at the HTTP port, ready or not."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/healthz", timeout=2):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False

    def metrics(self) -> str:
        """The text of /metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}/metrics", timeout=10) as answer:
            return bytes(answer.read()).decode()

    def kill(self) -> None:
        """kill -9, at once."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def stop(self) -> None:
        """Stop as a service manager does, and insist on a clean end."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            code = self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"coffer serve did not stop on SIGTERM\n{self.log.read_text()[-4000:]}") from None
        self.process = None
        if code not in (0, -signal.SIGTERM):
            raise AssertionError(f"coffer serve ended with {code}\n{self.log.read_text()[-4000:]}")

    def processes(self) -> list[int]:
        """The server's processes: the one that commits, then its workers."""
        assert self.process is not None
        workers = [pid for pid, fields in _stats() if int(fields[1]) == self.process.pid]
        return [self.process.pid, *workers]

    def resident_bytes(self) -> int:
        """Memory of all the server's processes together that no other process shares."""
        total = 0
        for pid in self.processes():
            total += sum(_resident(pid))
        return total

    def cpu_seconds(self) -> float:
        """CPU time of all the server's processes so far, user and system."""
        mine = set(self.processes())
        ticks = sum(int(fields[11]) + int(fields[12]) for pid, fields in _stats() if pid in mine)
        return ticks / os.sysconf("SC_CLK_TCK")


def _resident(pid: int) -> Iterator[int]:
    """Bytes of a process that are its own; where only root may read its pages' state, what it says of itself."""
    try:
        lines, wanted = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines(), ("Private_", "Pss_Shmem")
    except PermissionError:  # the server lets nobody look into its memory
        lines, wanted = Path(f"/proc/{pid}/status").read_text().splitlines(), ("RssAnon", "RssShmem")
    return (int(line.split()[1]) << 10 for line in lines if line.startswith(wanted))


def _stats() -> Iterator[tuple[int, list[str]]]:
    """Every process with the fields of its /proc/PID/stat behind the name: state, parent and so on."""
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with contextlib.suppress(OSError):
                yield int(path.name), (path / "stat").read_text().rsplit(")", 1)[1].split()


def tool(name: str) -> str | None:
    """The absolute path of a DCMTK program; pynetdicom installs scripts of the same names in the environment."""
    return shutil.which(name, path="/usr/bin:/usr/local/bin:/opt/homebrew/bin")


def run_tool(name: str, *args: str, timeout: float = 120, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a DCMTK program without waiting for Nagle's delayed acknowledgements."""
    path = tool(name)
    assert path is not None
    command: Sequence[str] = [path, *args]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
        cwd=cwd,
        env={**os.environ, "TCP_NODELAY": "1"},
    )
