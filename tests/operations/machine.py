"""A copy of this machine's root file system to install things in, and what systemd does with the units in it.

The copy is an overlay in memory: commands of a page run in it as they stand, as root or as whoever `sudo` makes of it,
and nothing of it is left afterwards. There is no systemd in it; `Units` starts what a unit names, under the unit's
account, limits and read-only file system, without capabilities, and listens at the notify socket.
"""

import configparser
import contextlib
import os
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import ROOT, absent, volume_of

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# prctl(2), PR_SET_MDWE: what MemoryDenyWriteExecute= stands for, from Linux 6.3 on
_DENY_WRITE_EXECUTE = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(65, 1, 0, 0, 0); os.execvp(sys.argv[1], sys.argv[1:])"
)
_RIGHTS = "--clear-groups --bounding-set=-all --inh-caps=-all --ambient-caps=-all --no-new-privs"
_WATCH_USEC = 3_000_000  # instead of the unit's minutes: a ping within a second


def environment() -> dict[str, str]:
    """That of a login: nothing of the test's own Python or archive, but how pip reaches its packages."""
    foreign = ("COFFER_", "PYTHON", "VIRTUAL_ENV", "XDG_", "PYTEST_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**kept, "PATH": PATH, "HOME": str(Path("~root").expanduser()), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


@dataclass(slots=True)
class Machine:
    """`root` is where its file system is; a command with `sudo` is run by the account `person`, who logged in."""

    root: Path
    person: str = ""
    cwd: str = str(ROOT)
    units: "Units" = field(init=False)

    def __post_init__(self) -> None:
        self.units = Units(self)

    def follow(self, block: str) -> None:
        """Run the lines of a page, one after the other."""
        for line in filter(None, block.splitlines()):
            self.run(line)

    def run(self, line: str) -> str:
        """Run one line, which must end with 0; what it printed."""
        words = shlex.split(line, comments=True)
        if words[0] == "cd":
            self.cwd = words[1]
            return ""
        if words[0] == "systemctl":
            return self.units.order(*words[1:])
        done = self.shell(f"cd {self.cwd} && {self._as_person(line)}")
        assert done.returncode == 0, f"{line}\nended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def _as_person(self, line: str) -> str:
        """What sudo does: another account, and the kernel still knows who logged in."""
        if not line.startswith("sudo -u "):
            return line
        _, _, account, command = line.split(" ", 3)
        login = f"echo $(id -u {self.person}) > /proc/self/loginuid && " if self.person else ""
        return f"{login}exec runuser -u {account} -- {command}"

    def shell(self, script: str) -> subprocess.CompletedProcess[str]:
        """Run a script as root."""
        command = ["chroot", str(self.root), "bash", "-c", script]
        return subprocess.run(command, capture_output=True, text=True, env=environment(), stdin=subprocess.DEVNULL)

    def file(self, path: str) -> Path:
        """A file of the machine, seen from here."""
        return self.root / path.removeprefix("/")


@contextlib.contextmanager
def machine(base: Path) -> Iterator[Machine]:
    """A machine that is gone when the block is left."""
    with volume_of("3g", base / "memory") as memory, contextlib.ExitStack() as last_first:
        root = memory / "root"
        mounts = [
            ("", _overlay("/", memory / "root-writes")),
            ("proc", ["-t", "proc", "none"]),
            ("tmp", ["-t", "tmpfs", "none"]),
            ("run", ["-t", "tmpfs", "none"]),
            ("dev", ["--bind", "/dev"]),
            (str(ROOT)[1:], _overlay(str(ROOT), memory / "repository-writes")),  # it may be on another volume
        ]
        for name, how in mounts:
            (root / name).mkdir(parents=True, exist_ok=True)
            if subprocess.run(["mount", *how, str(root / name)]).returncode:
                absent("no copy of the root file system can be mounted here")
            last_first.callback(subprocess.run, ["umount", "-l", str(root / name)], check=True)
        made = Machine(root)
        last_first.callback(made.units.end)
        yield made


def _overlay(below: str, above: Path) -> list[str]:
    """How to mount a folder so that what is written goes elsewhere."""
    for name in ("upper", "work"):
        (above / name).mkdir(parents=True)
    return ["-t", "overlay", "none", "-o", f"lowerdir={below},upperdir={above}/upper,workdir={above}/work"]


class Units:
    """Stands for systemd, as far as that can be: units that are started, and what they have told."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._address = f"coffer-tests/{os.getpid()}/{id(self)}"
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(f"\0{self._address}")
        self.told: list[str] = []
        self._listening = threading.Thread(target=self._listen, daemon=True)
        self._listening.start()
        self.enabled: set[str] = set()

    def order(self, verb: str, *words: str) -> str:
        """What `systemctl VERB NAME...` orders, as far as the pages need it; what it prints."""
        names = [word for word in words if word != "--now"]
        is_now = verb in {"start", "stop"} or "--now" in words
        match verb:
            case "daemon-reload":
                self._verify()
            case "status":
                return next(line for line in reversed(self.told) if line.startswith("STATUS="))
            case "enable":
                self.enabled |= set(names)
            case "disable":
                self.enabled -= set(names)
        for name in names if is_now else ():
            if verb in {"stop", "disable"}:
                self._stop(name)
            elif name.endswith(".service"):
                self._start(name)
        return ""

    def _verify(self) -> None:
        """Let systemd itself read the units: it knows every line, and finds every program."""
        units = sorted(self._machine.file("/etc/systemd/system").glob("coffer*"))
        names = " ".join(f"/etc/systemd/system/{path.name}" for path in units)
        done = self._machine.shell(f"systemd-analyze verify --man=no {names}" if names else "true")
        found = [line for line in (done.stdout + done.stderr).splitlines() if "coffer" in line]
        assert (found, done.returncode) == ([], 0), done.stderr

    def service(self, name: str) -> Mapping[str, str]:
        """The section `[Service]` of an installed unit."""
        parser = configparser.RawConfigParser(interpolation=None, comment_prefixes=("#",))
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read_string(self._machine.file(f"/etc/systemd/system/{name}").read_text(encoding="utf-8"))
        return parser["Service"]

    def log(self, name: str) -> Path:
        """What a unit writes to standard error."""
        return self._machine.file(f"/run/{name}.log")

    def _start(self, name: str) -> None:
        """Start a service and return when it is ready."""
        self.told.clear()
        self._running[name] = process = self.launch(self.service(name), self.log(name))
        self._until(lambda: "STATUS=serving" in self.told or process.poll() is not None)
        assert "READY=1" in self.told, self.log(name).read_text(encoding="utf-8")

    def _stop(self, name: str) -> None:
        """Stop a service in order; it says so and ends with 0. Harmless where it does not run."""
        process = self._running.pop(name, None)
        if process is not None:
            process.terminate()
            assert process.wait(60) == 0, self.log(name).read_text(encoding="utf-8")
            self._until(lambda: "STOPPING=1" in self.told)

    def end(self) -> None:
        """Kill whatever still runs."""
        for process in self._running.values():
            process.kill()
            process.wait()
        self._notify.shutdown(socket.SHUT_RDWR)
        self._listening.join()
        self._notify.close()

    def _listen(self) -> None:
        """Take what services tell, at once: a socket holds ten messages, and a service waits for no reader."""
        while message := self._notify.recv(4096):
            self.told += message.decode().split("\n")

    @staticmethod
    def _until(holds: Callable[[], bool]) -> None:
        while not holds():
            time.sleep(0.02)

    def until_told(self, line: str) -> None:
        """Return when this is told once more."""
        before = self.told.count(line)
        self._until(lambda: self.told.count(line) > before)

    def launch(
        self, service: Mapping[str, str], log: Path, volumes: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start what a unit names as systemd.exec(5) says. `volumes` are folders to put in the place of others, and
        all that it may write then, by the name of the place."""
        root = self._machine.root
        assert service["ProtectSystem"] == "strict"
        if volumes is None:
            volumes = {each: each for each in (service["ReadWritePaths"], f"/var/lib/{service['StateDirectory']}")}
        mounts = [f"mount -o remount,bind,ro {root}", f"mount -t tmpfs none {root}/tmp"]
        for name, source in volumes.items():
            mounts += [f"mount --bind {root}{source} {root}{name}", f"mount -o remount,bind,rw {root}{name}"]
        account = f"--reuid={service['User']} --regid={service['Group']}"
        limits = "--core=0 --memlock=8388608 --nofile=8192"
        confined = f"chroot {root} setpriv {account} {_RIGHTS} {service['ExecStart']}"
        start = f"exec {sys.executable} -c '{_DENY_WRITE_EXECUTE}' prlimit {limits} {confined}"
        script = ["set -eu", *mounts, "umask 077", "export WATCHDOG_PID=$$", start]
        given = {"PATH": PATH, "LANG": "C.UTF-8"}
        if "WatchdogSec" in service:
            given |= {"NOTIFY_SOCKET": f"@{self._address}", "WATCHDOG_USEC": str(_WATCH_USEC)}
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", "\n".join(script)]
        with log.open("ab") as out:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd="/", env=given)
