"""Faults of the system under the real server: writes and syncs that fail, a disk that turns read-only, one that fills.

Each time: the sender is told (A700, with the cause), the probe turns red, what was stored can still be queried and
retrieved, and after a restart everything that was ever acknowledged is there, bit for bit.
"""

import os
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from server.demo import encoded, sample_study
from tests.peers.coffer_process import CofferProcess
from tests.peers.dicom_client import Item, Reply, find, store

CT, EXPLICIT_LE = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
FULL = 0xA700


def objects(study: int, count: int = 3) -> list[Item]:
    """Some slices of a study of their own."""
    out = []
    for number in range(count):
        ds = sample_study()[number % 3]
        ds.StudyInstanceUID = f"1.2.3.{study}"
        ds.SeriesInstanceUID = f"1.2.3.{study}.1"
        ds.SOPInstanceUID = f"1.2.3.{study}.1.{number}"
        out.append(Item(CT, ds.SOPInstanceUID, EXPLICIT_LE, encoded(ds)))
    return out


class Ward:
    """A server and what it has acknowledged."""

    def __init__(self, coffer: CofferProcess) -> None:
        self.coffer = coffer
        self.acknowledged: dict[str, bytes] = {}

    def store(self, items: list[Item]) -> list[Reply]:
        replies = store(self.coffer.port, items)
        for item, reply in zip(items, replies, strict=True):
            if reply.status == 0:
                self.acknowledged[item.sop_instance] = item.data
        return replies

    def all_is_there(self) -> None:
        """Everything acknowledged is found and comes back as it was."""
        studies = {uid.rsplit(".", 2)[0] for uid in self.acknowledged}
        rows = find(self.coffer.port, "STUDY", StudyInstanceUID="")
        assert studies <= {row.StudyInstanceUID for row in rows}
        out = self.coffer.base / "out"
        shutil.rmtree(out, ignore_errors=True)
        for study in sorted(studies):
            self.coffer.run("get", "--study", study, "--out", str(out))
        came = {path.read_bytes() for path in out.rglob("*.dcm")}
        for data in self.acknowledged.values():
            assert any(content.endswith(data) for content in came)


def health(coffer: CofferProcess) -> tuple[int, str]:
    """/readyz: its status and what it says."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{coffer.http}/readyz", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@contextmanager
def failing(coffer: CofferProcess, inject: str, path: Path) -> Iterator[None]:
    """Let strace make chosen system calls of the server on one file fail, while the block runs."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed: apt install strace")
    assert coffer.process is not None
    command = ["strace", "-f", "-qq", "-o", "/dev/null", "-P", str(path), "-e", f"inject={inject}"]
    with subprocess.Popen([*command, "-p", str(coffer.process.pid)], stderr=subprocess.DEVNULL) as tracer:
        try:
            status = Path(f"/proc/{coffer.process.pid}/status")
            deadline = time.monotonic() + 10
            while f"TracerPid:\t{tracer.pid}\n" not in status.read_text():
                if tracer.poll() is not None or time.monotonic() > deadline:
                    pytest.skip("strace cannot attach to a process here")
                time.sleep(0.02)
            yield
        finally:
            tracer.send_signal(signal.SIGINT)
            try:
                tracer.wait(10)
            except subprocess.TimeoutExpired:
                tracer.kill()


LOG, KEYRING, INDEX = "segments/00000001.seg", "keyring/data.mdb", "index/data.mdb"


@pytest.mark.parametrize(
    ("inject", "where"),
    [
        ("fdatasync:error=EIO:when=2+", LOG),
        ("writev:error=EIO:when=2+", LOG),
        ("writev:error=ENOSPC:when=1", LOG),
        ("writev,fdatasync:error=EROFS:when=1+", LOG),
        ("pwrite64,pwritev,fdatasync,fsync,msync:error=EIO:when=1+", KEYRING),
        ("pwrite64,pwritev,fdatasync,fsync,msync:error=ENOSPC:when=1+", KEYRING),
    ],
)
def test_a_failing_disk_loses_nothing_that_was_acknowledged(
    new_coffer: Callable[..., CofferProcess], inject: str, where: str
) -> None:
    ward = Ward(new_coffer())
    assert {r.status for r in ward.store(objects(1))} == {0}
    with failing(ward.coffer, inject, ward.coffer.archive / where):
        replies = [reply for study in (2, 3) for reply in ward.store(objects(study))]
    refused = [reply for reply in replies if reply.status != 0]
    assert refused
    assert {reply.status for reply in refused} == {FULL}
    assert all(reply.comment for reply in refused)
    ward_rows = find(ward.coffer.port, "STUDY", StudyInstanceUID="1.2.3.1")
    assert len(ward_rows) == 1, "reads go on"
    if where == LOG:
        status, why = health(ward.coffer)
        assert status == 503
        assert "stopped" in why
    ward.coffer.kill()
    ward.coffer.start()
    ward.all_is_there()
    assert {r.status for r in ward.store(objects(4))} == {0}


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_an_index_that_cannot_write_costs_no_object(new_coffer: Callable[..., CofferProcess], error: str) -> None:
    ward = Ward(new_coffer())
    ward.store(objects(1))
    calls = "pwrite64,pwritev,fdatasync,fsync,msync"
    with failing(ward.coffer, f"{calls}:error={error}:when=1+", ward.coffer.archive / INDEX):
        for study in (2, 3, 4):
            ward.store(objects(study))
            time.sleep(0.3)
    ward.coffer.kill()
    ward.coffer.start()
    ward.all_is_there()


def test_a_checkpoint_that_cannot_be_written_is_signed_later(new_coffer: Callable[..., CofferProcess]) -> None:
    ward = Ward(new_coffer())
    ward.store(objects(1))
    with failing(ward.coffer, "rename:error=EIO:when=1+", ward.coffer.archive / "checkpoints" / ".latest.new"):
        ward.coffer.stop()
    ward.coffer.start()
    ward.all_is_there()
    ward.coffer.stop()
    assert ward.coffer.json("verify")["signed_records"] == 4
    ward.coffer.start()


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Path]:
    """A volume of 24 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    volume = tmp_path / "volume"
    volume.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(volume)], check=False).returncode:
        pytest.skip("no tmpfs can be mounted here")
    yield volume
    subprocess.run(["umount", "-l", str(volume)], check=True)


@pytest.fixture
def on_small_volume(small_volume: Path) -> Iterator[Ward]:
    coffer = CofferProcess(small_volume)
    coffer.write_config("\n[storage]\nreserve_bytes = 6_000_000\n")
    coffer.init()
    yield Ward(coffer.start())
    coffer.stop()
    coffer.run("verify")


def test_a_full_disk_is_refused_before_it_is_full_and_goes_on_when_there_is_room(on_small_volume: Ward) -> None:
    ward = on_small_volume
    ward.store(objects(1))
    volume = os.statvfs(ward.coffer.base)
    ballast = ward.coffer.base / "ballast"
    ballast.write_bytes(bytes(volume.f_bavail * volume.f_frsize - 7_000_000))
    study, replies = 10, list[Reply]()
    while not replies or replies[-1].status == 0:
        replies = ward.store(objects(study))
        study += 1
        assert study < 60, "the reserve is not kept"
    assert replies[-1].status == FULL
    assert "full" in replies[-1].comment
    volume = os.statvfs(ward.coffer.base)
    assert volume.f_bavail * volume.f_frsize > 4_000_000
    assert health(ward.coffer)[0] == 503
    ward.all_is_there()
    ballast.unlink()
    assert {r.status for r in ward.store(objects(99))} == {0}
    assert health(ward.coffer)[0] == 200
    ward.all_is_there()
