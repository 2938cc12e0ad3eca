"""docs/operations/install.md and upgrade.md, followed to the letter: install, serve, store, upgrade, go back, remove.

In a copy of the root file system, with the packages that pip finds. The container's steps run there, too, without a
container.
"""

import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from coffer.server.main.demo import sample_study
from tests.conftest import ROOT, absent
from tests.operations.machine import Machine, machine
from tests.peers.coffer_process import free_port, run_tool, tool
from tests.server.filled import part10

pytestmark = pytest.mark.timeout(1800)  # pip may have to fetch everything
PAGES = ROOT / "docs" / "operations"
UNITS, CONTAINER = PAGES / "deploy" / "systemd", PAGES / "deploy" / "container"
DATA = ("/srv/coffer", "/var/lib/coffer", "/etc/coffer")


def block(page: str, section: str) -> str:
    """The commands of a section of a page, up to its next heading of the same level."""
    text = (PAGES / page).read_text(encoding="utf-8")
    found = re.search(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, section
    return "\n".join(re.findall(r"^```\n(.*?)^```", found[1], re.MULTILINE | re.DOTALL))


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with the program, and anna's account."""
    for program in ("systemd-analyze", "systemd-sysusers", "systemd-tmpfiles"):
        if shutil.which(program) is None:
            absent(f"{program} is not installed")
    with machine(tmp_path_factory.mktemp("machine")) as made:
        made.run("useradd --create-home anna")
        if made.shell("echo $(id -u anna) > /proc/self/loginuid").returncode:
            absent("the kernel keeps no login uid here")
        made.person = "anna"
        made.follow(block("install.md", "The program"))
        yield made


def use_free_ports(config: Path, *taken: int) -> list[int]:
    """Put ports that nobody uses into a configuration, in the place of these."""
    text, ports = config.read_text(encoding="utf-8"), [free_port() for _ in taken]
    for old, new in zip(taken, ports, strict=True):
        assert text.count(f"port = {old}") == 1
        text = text.replace(f"port = {old}", f"port = {new}")
    config.write_text(text, encoding="utf-8")
    return ports


def state_of(host: Machine, *folders: str) -> dict[str, str]:
    """Every file below these folders: owner, mode and hash."""
    found = {}
    for path in sorted(path for folder in folders for path in host.file(folder).rglob("*")):
        about = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path)] = f"{about.st_uid} {about.st_mode:o} {content}"
    return found


def test_the_wheel_has_coffer_and_its_units_and_runs_what_was_installed(host: Machine) -> None:
    program = 'from importlib.metadata import files; print(*files("coffer-dicom"))'
    names = {Path(name) for name in host.run(f"/opt/coffer/bin/python -I -c {shlex.quote(program)}").split()}
    assert {name.parts[0] for name in names if ".dist-info" not in name.parts[0]} == {"coffer", ".."}
    assert {name.name for name in names if "share" in name.parts} == {path.name for path in UNITS.iterdir()}
    program = "from coffer.archive.codec.choice import why_pure; print(why_pure())"
    assert host.run(f"/opt/coffer/bin/python -I -c {shlex.quote(program)}").strip() == ""  # it has its compiled codec
    host.run("mkdir -p /tmp/traps/keys")  # whatever lies in the current folder, coffer runs what was installed
    for trap in ("server", "archive", "index", "keys/__init__", "coffer", "click"):
        host.file(f"/tmp/traps/{trap}.py").write_text('raise SystemExit("a trap")\n')
    for command in ("coffer", "/opt/coffer/bin/python -I -m coffer"):
        assert "coffer serve" in host.run(f"(cd /tmp/traps && {command} --help)")


class Box:
    """What compose.yaml and Containerfile say, without a container: account, volumes, read-only file system."""

    def __init__(self, host: Machine) -> None:
        self.host = host
        self.services = yaml.safe_load((CONTAINER / "compose.yaml").read_text(encoding="utf-8"))["services"]
        self.image = (CONTAINER / "Containerfile").read_text(encoding="utf-8")
        self.log = host.file("/run/box.log")
        host.run("install -d /srv/coffer /var/lib/coffer /etc/coffer /box/etc")
        host.run("install -d -o 10001 -g 10001 -m 0700 /box/archive /box/state")
        host.file("/box/passwd").write_text("coffer:x:10001:10001::/var/lib/coffer:/usr/sbin/nologin\n")
        shutil.copy(CONTAINER / "coffer.toml", host.file("/box/etc/coffer.toml"))

    def words(self, instruction: str, behind: str = "FROM") -> list[str]:
        """The words of an instruction in the Containerfile, the first behind another one."""
        lines = re.findall(rf"^ *{instruction} (\[.*\])$", self.image.partition(behind)[2], re.MULTILINE)
        found: list[str] = json.loads(lines[0])
        return found

    def start(self, command: list[str]) -> subprocess.Popen[bytes]:
        """Run a command in the container, as `first-start` does or `podman exec`."""
        given = ("PATH=/opt/coffer/bin:/usr/bin:/bin", "COFFER_HOST=localhost", "COFFER_PEERS=CT1")
        program = shlex.join(["env", *given, *command])
        service = {"User": "10001", "Group": "10001", "ProtectSystem": "strict", "ExecStart": program}
        volumes = {"/etc/coffer": "/box/etc", "/etc/passwd": "/box/passwd"}
        for volume in self.services["coffer"]["volumes"]:
            name, _, place = volume.partition(":")
            volumes[place] = f"/box/{name}"
        return self.host.units.launch(service, self.log, volumes)

    def run(self, command: list[str]) -> None:
        """As `start`, until it has ended well."""
        assert self.start(command).wait(120) == 0, self.log.read_text(encoding="utf-8")


def test_a_container_s_first_start_makes_what_its_server_needs_and_changes_nothing_later(host: Machine) -> None:
    box = Box(host)
    port, http = use_free_ports(host.file("/box/etc/coffer.toml"), 2762, 11180)
    first = box.services["first-start"]
    first_start = [*first["entrypoint"], *(each.replace("$$", "$") for each in first["command"])]
    box.run(first_start)
    made = state_of(host, "/box/archive", "/box/state")
    host.file("/box/archive/archive.json").rename(host.file("/box/archive.json"))
    box.run(first_start)  # an archive that is gone is not made anew
    assert not host.file("/box/archive/archive.json").exists()
    host.file("/box/archive.json").rename(host.file("/box/archive/archive.json"))
    assert state_of(host, "/box/archive", "/box/state") == made
    ct1 = "coffer users add ct1 --role modality --ae-title CT1 --certificate /var/lib/coffer/tls/CT1.pem"
    box.run(ct1.split(" "))
    server = box.start(box.words("ENTRYPOINT") + box.words("CMD", behind="ENTRYPOINT"))
    try:
        health = shlex.join(each.replace("11180", str(http)) for each in box.words("CMD", behind="HEALTHCHECK"))
        while host.shell(health).returncode:
            assert server.poll() is None, box.log.read_text(encoding="utf-8")
        tls = host.file("/box/state/tls")
        files = ("+tls", tls / "CT1.key", tls / "CT1.pem", "+cf", tls / "ca.pem")
        dicom("echoscu", *map(str, files), "-aet", "CT1", "localhost", str(port))
    finally:
        server.terminate()
        assert server.wait(60) == 0, box.log.read_text(encoding="utf-8")
    box.run(["coffer", "verify"])


def dicom(program: str, *arguments: str) -> None:
    """A program of DCMTK, which must succeed."""
    if tool(program) is None:
        absent("dcmtk is not installed")
    done = run_tool(program, "-aec", "COFFER", *arguments)
    assert done.returncode == 0, done.stderr


def test_the_pages_are_followed_and_data_stays_untouched(host: Machine, tmp_path: Path) -> None:
    units = host.units
    prepare, init, rest = block("install.md", "The service").partition("sudo -u coffer coffer init")
    host.follow(prepare)
    port, _ = use_free_ports(host.file("/etc/coffer/coffer.toml"), 11112, 11180)
    host.follow(init + rest.partition("journalctl")[0])
    assert units.enabled == {"coffer.service", "coffer-scrub.timer"}
    assert units.order("status", "coffer.service") == "STATUS=serving"
    units.until_told("WATCHDOG=1")
    host.run("sudo -u coffer coffer users add ct1 --role modality --ae-title CT1 --address 127.0.0.1")
    host.run("sudo -u coffer coffer reload")
    for number, ds in enumerate(sample_study()):
        (tmp_path / f"{number}.dcm").write_bytes(part10(ds))
    store = ("storescu", "-aet", "CT1", "127.0.0.1", str(port))
    dicom(*store, str(tmp_path / "0.dcm"))
    scrub = units.launch(units.service("coffer-scrub.service"), units.log("coffer-scrub.service"))
    assert scrub.wait(60) == 0, units.log("coffer-scrub.service").read_text(encoding="utf-8")

    backed_up_by_its_unit(host, lambda: dicom(*store, str(tmp_path / "0.dcm")))
    next_version(host)
    host.cwd = str(ROOT)
    host.follow(block("upgrade.md", "Upgrade"))
    assert host.run("coffer --version") == "coffer 0.1.1\n"
    dicom(*store, str(tmp_path / "1.dcm"))
    host.follow(block("upgrade.md", "Go back"))
    assert host.run("coffer --version") == "coffer 0.1.0\n"
    dicom(*store, str(tmp_path / "2.dcm"))
    assert json.loads(host.run("sudo -u coffer coffer status --json"))["objects"] == 3

    units.order("stop", "coffer.service")
    host.run("sudo -u coffer coffer verify")
    data = state_of(host, *DATA)
    host.follow(block("install.md", "Remove it"))
    assert state_of(host, *DATA) == data
    assert host.shell("command -v coffer").returncode == 1
    assert list(host.file("/etc/systemd/system").glob("coffer*")) == []
    assert units.enabled == set()


def backed_up_by_its_unit(host: Machine, store: Callable[[], None]) -> None:
    """Two nights of the backup's unit beside the server, each a moment after something was stored."""
    host.run("install -d -o coffer -g coffer -m 0700 /mnt/backup /mnt/vault")
    with host.file("/etc/coffer/coffer.toml").open("a", encoding="utf-8") as config:
        config.write('\n[backup]\ntarget = "/mnt/backup"\nkeys = "/mnt/vault"\n')
    unit, log = host.units.service("coffer-backup.service"), host.units.log("coffer-backup.service")
    writable = (unit["ReadWritePaths"], f"/var/lib/{unit['StateDirectory']}", "/mnt/backup", "/mnt/vault")
    for _ in range(2):
        store()
        for step in ("ExecStart", "ExecStartPost"):
            done = host.units.launch({**unit, "ExecStart": unit[step]}, log, {each: each for each in writable})
            assert done.wait(120) == 0, log.read_text(encoding="utf-8")
    assert "left out" not in log.read_text(encoding="utf-8")
    made = json.loads(host.run("sudo -u coffer coffer backup list --json"))["snapshots"]
    assert [each["findings"] for each in made] == [0, 0]
    host.run("sudo -u coffer coffer backup verify --all --keys /mnt/vault")


def next_version(host: Machine) -> None:
    """The sources of version 0.1.1, as in a clone of it."""
    path = host.file(f"{ROOT}/pyproject.toml")
    then = path.stat()
    text = path.read_text(encoding="utf-8").replace('version = "0.1.0"', 'version = "0.1.1"', 1)
    path.write_text(text, encoding="utf-8")
    os.utime(path, ns=(then.st_atime_ns, then.st_mtime_ns))  # make installs nothing anew


@pytest.mark.parametrize("name", ["coffer.service", "coffer-scrub.service", "coffer-backup.service"])
def test_systemd_finds_little_that_a_unit_leaves_open(name: str) -> None:
    if shutil.which("systemd-analyze") is None:
        absent("systemd-analyze is not installed")
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", str(UNITS / name)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
