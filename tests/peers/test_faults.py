"""Faults of the system under the real server: writes and syncs that fail, a disk that turns read-only, one that fills.

Each time: the sender is told (A700, with the cause), the probe turns red, what was stored can still be queried and
retrieved, and after a restart everything that was ever acknowledged is there, bit for bit.
"""

import os
import shutil
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from server.demo import encoded, sample_study
from tests.peers.coffer_process import CofferProcess, Peer, free_port
from tests.peers.dicom_client import Item, Reply, find, get, move, store, synthetic

CT, EXPLICIT_LE = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
FULL = 0xA700


def objects(study: int, count: int = 3, first: int = 0) -> list[Item]:
    """Some slices of a study of their own."""
    out = []
    for number in range(first, first + count):
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
def failing(coffer: CofferProcess, inject: str, path: Path | None, pid: int = 0) -> Iterator[None]:
    """Let strace make chosen system calls of the server on one file (None: any) fail, while the block runs.

    `pid` is one of its processes, without one the process that commits.
    """
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed: apt install strace")
    assert coffer.process is not None
    pid = pid or coffer.process.pid
    command = ["strace", "-f", "-qq", "-o", "/dev/null", *(["-P", str(path)] if path else []), "-e", f"inject={inject}"]
    with subprocess.Popen([*command, "-p", str(pid)], stderr=subprocess.DEVNULL) as tracer:
        try:
            status = Path(f"/proc/{pid}/status")
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


def large() -> Item:
    """An object that is spooled and sealed in files, about 2 MiB in each."""
    small = synthetic(1, 100, study=77)
    noise = os.urandom(2 << 20)
    element = b"\x23\x00\x10\x00LO\x06\x00TESTER" + b"\x23\x00\x01\x10OB\0\0" + len(noise).to_bytes(4, "little")
    return Item(small.sop_class, small.sop_instance, small.transfer_syntax, small.data + element + noise)


def test_a_spool_that_cannot_be_written_costs_the_large_object_only(new_coffer: Callable[..., CofferProcess]) -> None:
    """Received and sealed in the processes in front; what needs no file goes on meanwhile."""
    ward, item = Ward(new_coffer(extra="\n[limits]\nmemory_object_bytes = 65_536\n")), large()
    with ExitStack() as stack:
        for lane in ward.coffer.processes()[1:]:
            stack.enter_context(failing(ward.coffer, "pwrite64:error=EIO:when=1+", None, lane))
        (refused,) = ward.store([item])
        assert ward.store([synthetic(2, 1000, study=77)]) == [Reply(0)]
    assert (refused.status, refused.comment) == (FULL, "cannot spool an object: Input/output error")
    require_empty_spool_and_store(ward, item)


def test_a_spool_on_a_volume_that_fills_up(new_coffer: Callable[..., CofferProcess]) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    ward, item = Ward(new_coffer(extra="\n[limits]\nmemory_object_bytes = 65_536\n")), large()
    spool = ward.coffer.archive / "spool"
    for size in ("64k", "1m"):  # at its beginning, and in the middle
        if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(spool)], check=False).returncode:
            pytest.skip("no tmpfs can be mounted here")
        try:
            (refused,) = ward.store([item])
            assert ward.store([synthetic(2, 1000, study=77)]) == [Reply(0)]
            assert list(spool.iterdir()) == []
        finally:
            subprocess.run(["umount", str(spool)], check=True)
        assert refused.status == FULL
        assert "No space left on device" in refused.comment
    require_empty_spool_and_store(ward, item)


def require_empty_spool_and_store(ward: Ward, item: Item) -> None:
    assert list((ward.coffer.archive / "spool").iterdir()) == []
    assert health(ward.coffer)[0] == 200
    assert [r.status for r in ward.store([item])] == [0]
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


class OnVolume(CofferProcess):
    """A server whose archive lies on a volume of its own."""

    @property
    def volume(self) -> Path:
        """Where the volume is mounted."""
        return self.base / "volume"

    @property
    def archive(self) -> Path:
        """Beside ext4's own lost+found."""
        return self.volume / "archive"


@pytest.fixture
def ext4(dcmtk: None, tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """An ext4 file system of 64 MiB on a loop device that turns read-only at its first error; image and mount point.

    `mount -o remount,ro` is no way to the same: the kernel refuses it while a file is open for writing, on any file
    system. It turns one read-only under its writers only when an error of the file system makes it.
    """
    image, volume = tmp_path / "disk.img", tmp_path / "volume"
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        pytest.skip("an ext4 file system is made and mounted: needs root and e2fsprogs")
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", str(image)], check=True)
    volume.mkdir()
    mount_disk(image, volume)
    yield image, volume
    subprocess.run(["umount", "-l", str(volume)], check=False)


def mount_disk(image: Path, volume: Path) -> None:
    command = ["mount", "-o", "loop,errors=remount-ro", str(image), str(volume)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no loop device can be mounted here: {done.stderr}")


def turn_read_only(volume: Path) -> None:
    """Let ext4 meet an error: it stops writing at once, whatever is open."""
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    device = next(Path(source).name for source, target, *_ in mounts if target == str(volume))
    trigger = Path("/sys/fs/ext4") / device / "trigger_fs_error"
    if not os.access(trigger, os.W_OK):
        pytest.skip(f"{trigger} cannot be written here: no error can be made")
    trigger.write_text("a test\n")


@pytest.mark.parametrize("new_studies", [False, True])
def test_a_disk_that_turns_read_only_under_load(
    ext4: tuple[Path, Path], tmp_path: Path, storescp: Callable[[int], Path], new_studies: bool
) -> None:
    """Slices of a known study need the log alone; each new study needs a key before."""
    image, volume = ext4
    destination = Peer("MOVEDST", free_port())
    coffer = OnVolume(tmp_path, [destination])
    coffer.write_config("\n[storage]\nreserve_bytes = 1_000_000\n")
    coffer.init()
    ward, moved = Ward(coffer.start()), storescp(destination.port)
    replies: list[Reply] = []

    def keep_storing() -> None:
        for number in range(2, 2000):
            more = objects(number) if new_studies else objects(1, first=3 * number)
            replies.extend(ward.store(more))
            if replies[-1].status != 0:
                break

    ward.store(objects(1))
    sender = threading.Thread(target=keep_storing)
    sender.start()
    while len(ward.acknowledged) < 30:
        time.sleep(0.01)
    subprocess.run(["sync", "-f", str(volume)], check=True)  # what is mapped must be asked for again to be written
    turn_read_only(volume)
    sender.join(60)
    assert not sender.is_alive(), "it goes on as if nothing had happened"
    replies += ward.store(objects(5000))
    refused = [reply for reply in replies if reply.status != 0]
    assert {reply.status for reply in refused} == {FULL}
    assert len(refused) >= 4
    assert all(reply.comment for reply in refused)
    status, why = health(coffer)
    assert status == 503
    assert "stopped" in why
    assert "Read-only file system" in why
    stored = Counter(uid.rsplit(".", 2)[0] for uid in ward.acknowledged)
    assert stored.keys() <= {row.StudyInstanceUID for row in find(coffer.port, "STUDY", StudyInstanceUID="")}
    for study, count in stored.items():
        answered = get(coffer.port, [(CT, EXPLICIT_LE)], StudyInstanceUID=study)
        assert (answered.Status, answered.NumberOfCompletedSuboperations) == (0, count)
        assert move(coffer.port, "MOVEDST", StudyInstanceUID=study).NumberOfCompletedSuboperations == count
    got = [path.read_bytes() for path in moved.iterdir()]
    assert all(any(content.endswith(data) for content in got) for data in ward.acknowledged.values())
    coffer.run("verify")
    coffer.stop()
    subprocess.run(["umount", str(volume)], check=True)
    subprocess.run(["e2fsck", "-p", str(image)], check=False, capture_output=True)
    mount_disk(image, volume)
    coffer.start()
    ward.all_is_there()
    assert {reply.status for reply in ward.store(objects(5001))} == {0}
    coffer.stop()
    coffer.run("verify")
