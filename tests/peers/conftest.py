"""Fixtures of the peer tests: a running Coffer, a running Orthanc, DCMTK programs, and a look at the wire."""

import csv
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import absent
from tests.peers.coffer_process import COFFER, CofferProcess, Peer, free_port, tool
from tests.peers.orthanc_process import OrthancProcess
from tests.peers.wiretap import WireTap


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here talks to a real peer or a real server process."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.peer)


@pytest.fixture(scope="session")
def dcmtk() -> None:
    """Skip where DCMTK is not installed; .ci/run installs it."""
    missing = [n for n in ("echoscu", "storescu", "dcmsend", "findscu", "movescu", "getscu", "storescp") if not tool(n)]
    if missing:
        absent(f"DCMTK is not installed ({', '.join(missing)}): apt install dcmtk")


@pytest.fixture
def new_coffer(tmp_path: Path) -> Iterator[Callable[..., CofferProcess]]:
    """Make archives with a running server each; at the end every one must stop cleanly and verify without a finding."""
    made: list[CofferProcess] = []

    def make(peers: list[Peer] | None = None, extra: str = "", serve: bool = True, workers: int = 1) -> CofferProcess:
        if not COFFER.exists():
            absent(f"{COFFER} is not installed: make test installs it")
        base = tmp_path / f"coffer{len(made)}"
        base.mkdir()
        coffer = CofferProcess(base, peers or [], workers=workers)
        coffer.write_config(extra)
        coffer.init()
        made.append(coffer)
        return coffer.start() if serve else coffer

    yield make
    for coffer in made:
        coffer.stop()
        coffer.here("verify")


@pytest.fixture
def coffer_server(new_coffer: Callable[..., CofferProcess]) -> CofferProcess:
    """A running Coffer with an empty archive and one move destination, MOVEDST, on a free port."""
    return new_coffer([Peer("MOVEDST", free_port())])


@pytest.fixture
def storescp(dcmtk: None, tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Start DCMTK's storescp as a move destination that keeps what it gets bit by bit; returns its folder."""
    running: list[subprocess.Popen[bytes]] = []

    def start(port: int) -> Path:
        folder = tmp_path / f"moved{len(running)}"
        folder.mkdir()
        running.append(
            subprocess.Popen(
                [
                    str(tool("storescp")),
                    "-q",
                    "+B",
                    "-pm",
                    "+xa",
                    "--fork",
                    "-pdu",
                    "131072",
                    "-aet",
                    "MOVEDST",
                    "-od",
                    str(folder),
                    str(port),
                ],
                env={"TCP_NODELAY": "1"},
            )
        )
        wait_for_port(port)
        return folder

    yield start
    for process in running:
        process.terminate()
        process.wait(10)


@pytest.fixture
def tap() -> Iterator[Callable[[int], WireTap]]:
    """Put a wire tap in front of a port."""
    made: list[WireTap] = []

    def make(target: int) -> WireTap:
        made.append(WireTap(target))
        return made[-1]

    yield make
    for one in made:
        one.__exit__()


@pytest.fixture(scope="session")
def well_formed(shared_data: Path) -> list[Path]:
    """The storable files of real scanners and toolkits, in a fixed order."""
    with (shared_data / "files.csv").open(newline="") as table:
        rows = [r["path"] for r in csv.DictReader(table) if r["storable"] == "yes" and r["path"].startswith("real/")]
    return [shared_data / path for path in sorted(rows)]


@pytest.fixture(scope="session")
def malformed(shared_data: Path) -> list[Path]:
    """The damaged and hostile files, in a fixed order."""
    with (shared_data / "files.csv").open(newline="") as table:
        return [
            shared_data / r["path"]
            for r in sorted(csv.DictReader(table), key=lambda r: r["path"])
            if r["path"].startswith("malformed/")
        ]


@pytest.fixture
def new_orthanc(tmp_path: Path) -> Iterator[Callable[..., OrthancProcess]]:
    """Start Orthanc with one DICOM modality "coffer" at the given port."""
    if OrthancProcess.program() is None:
        absent("Orthanc is not installed: apt install orthanc")
    made: list[OrthancProcess] = []

    def make(coffer_port: int, dicom_port: int) -> OrthancProcess:
        folder = tmp_path / f"orthanc{len(made)}"
        folder.mkdir()
        orthanc = OrthancProcess(folder, dicom_port, free_port(), coffer_port)
        made.append(orthanc)
        orthanc.start()
        return orthanc

    yield make
    for orthanc in made:
        orthanc.stop()


def wait_for_port(port: int, seconds: float = 10) -> None:
    """Return when somebody listens on a loopback port."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with Path("/proc/net/tcp").open() as table:
            if any(line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A" for line in list(table)[1:]):
                return
        with Path("/proc/net/tcp6").open() as table:
            if any(line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A" for line in list(table)[1:]):
                return
        time.sleep(0.02)
    raise AssertionError(f"nobody listens on {port}")
