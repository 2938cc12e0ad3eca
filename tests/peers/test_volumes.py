"""Volumes under the real server: one that fills up, one that turns read-only under load.

Each time: the sender is told (A700, with the cause), the probe turns red where nothing can be stored, what was stored
can still be queried and retrieved, and nothing that was ever acknowledged is lost.
"""

import os
import shutil
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import absent, volume_of
from tests.peers.coffer_process import CofferProcess, Peer, free_port
from tests.peers.dicom_client import Reply, find, get, move, store, synthetic
from tests.peers.ward import (
    CT,
    EXPLICIT_LE,
    FULL,
    SPOOLING,
    Ward,
    health,
    large,
    objects,
    require_empty_spool_and_store,
)

RESERVE = 6_000_000


def test_a_spool_on_a_volume_that_fills_up(new_coffer: Callable[..., CofferProcess]) -> None:
    ward, item = Ward(new_coffer(extra=f"{SPOOLING}[storage]\nreserve_bytes = 0\n")), large()
    spool = ward.coffer.archive / "spool"
    for size in ("64k", "1m"):  # at its beginning, and in the middle
        ward.coffer.stop()
        with volume_of(size, spool), started_again(ward):  # a worker may write to the spool that was there at its start
            (refused,) = ward.store([item])
            assert ward.store([synthetic(2, 1000, study=77)]) == [Reply(0)]
            assert list(spool.iterdir()) == []
        assert (refused.status, refused.comment) == (FULL, "the archive's volume is full up to its reserve")
    ward.coffer.start()
    require_empty_spool_and_store(ward, item)


@contextmanager
def started_again(ward: Ward) -> Iterator[None]:
    """The server, for the time of the block."""
    ward.coffer.start()
    try:
        yield
    finally:
        ward.coffer.stop()


@pytest.fixture
def small_volume(tmp_path: Path) -> Iterator[Path]:
    """A volume of 24 MiB."""
    with volume_of("24m", tmp_path / "volume") as volume:
        yield volume


@contextmanager
def served_from(volume: Path, extra: str = "") -> Iterator[Ward]:
    """A server whose archive lies on a small volume, with a reserve of 6 MB."""
    coffer = CofferProcess(volume)
    coffer.write_config(f"{extra}\n[storage]\nreserve_bytes = {RESERVE}\n")
    coffer.init()
    try:
        yield Ward(coffer.start())
    finally:
        coffer.stop()
    coffer.run("verify")


@pytest.fixture
def on_small_volume(small_volume: Path) -> Iterator[Ward]:
    with served_from(small_volume) as ward:
        yield ward


def free_bytes(ward: Ward) -> int:
    volume = os.statvfs(ward.coffer.base)
    return volume.f_bavail * volume.f_frsize


@pytest.mark.parametrize("extra", ["", SPOOLING])  # held in memory, and in files
def test_an_object_larger_than_the_room_that_is_left_is_refused_and_stops_nothing(
    small_volume: Path, extra: str
) -> None:
    with served_from(small_volume, extra) as ward:
        ballast = ward.coffer.base / "ballast"
        ballast.write_bytes(bytes(free_bytes(ward) - RESERVE - 3_000_000))
        item = large(4_000_000)
        assert ward.store([item]) == [Reply(FULL, "the archive's volume is full up to its reserve")]
        assert list((ward.coffer.archive / "spool").iterdir()) == []
        assert health(ward.coffer)[0] == 200
        assert {reply.status for reply in ward.store(objects(1))} == {0}
        ballast.unlink()
        assert [reply.status for reply in ward.store([item])] == [0]
        ward.all_is_there()


@pytest.mark.parametrize("left", [RESERVE // 2, 60_000])  # in the reserve, and not even that
def test_holds_and_shreds_on_a_full_volume_and_a_server_that_starts(small_volume: Path, left: int) -> None:
    with served_from(small_volume) as ward:
        coffer = ward.coffer
        assert {reply.status for reply in ward.store(objects(1) + objects(2))} == {0}
        coffer.stop()
        ballast = coffer.base / "ballast"
        ballast.write_bytes(bytes(free_bytes(ward) - left))
        held = coffer.run("hold", "add", "1.2.3.1", "--reason", "r", check=False)
        is_signed = left > 1 << 16
        assert (held.returncode == 0, "is not signed yet" in held.stderr) == (is_signed, not is_signed)
        coffer.start(until=lambda: coffer.log.read_text().count("server.serving") == 2)
        code, why = health(coffer)
        assert (code, "full up to its reserve" in why) == (503, True)
        assert [reply.status for reply in ward.store(objects(3))] == [FULL] * len(objects(3))
        rows = find(coffer.port, "STUDY", StudyInstanceUID="")
        assert {row.StudyInstanceUID for row in rows} == {"1.2.3.1", "1.2.3.2"}
        ballast.unlink()
        ward.all_is_there()
        assert health(coffer)[0] == 200
        coffer.run("shred", "1.2.3.1", "--reason", "r", "--yes", check=False)
        coffer.run("shred", "1.2.3.2", "--reason", "r", "--yes")
        assert {row.StudyInstanceUID for row in find(coffer.port, "STUDY", StudyInstanceUID="")} == {"1.2.3.1"}


def test_large_objects_on_their_way_leave_the_reserve_to_keys_and_index(small_volume: Path) -> None:
    """Each would fit alone; together they would fill the volume, and keyring and index would stop for good."""
    with served_from(small_volume, SPOOLING) as ward:
        replies: list[Reply] = []
        senders = [
            threading.Thread(target=lambda n=n: replies.extend(store(ward.coffer.port, [large(4_500_000, n)])))
            for n in range(1, 7)
        ]
        for sender in senders:
            sender.start()
        least, study = free_bytes(ward), 10
        while any(sender.is_alive() for sender in senders):
            least = min(least, free_bytes(ward))
            ward.store(objects(study, 1))
            study += 1
        for sender in senders:
            sender.join()
        assert {reply.status for reply in replies} <= {0, FULL}
        assert FULL in {reply.status for reply in replies}
        assert least > RESERVE - 3_000_000, "the reserve was not kept"
        assert health(ward.coffer)[0] == 200 or "reserve" in health(ward.coffer)[1]
        ward.all_is_there()


def test_a_full_disk_is_refused_before_it_is_full_and_goes_on_when_there_is_room(on_small_volume: Ward) -> None:
    ward = on_small_volume
    ward.store(objects(1))
    ballast = ward.coffer.base / "ballast"
    ballast.write_bytes(bytes(free_bytes(ward) - 7_000_000))
    study, replies = 10, list[Reply]()
    while not replies or replies[-1].status == 0:
        replies = ward.store(objects(study))
        study += 1
        assert study < 60, "the reserve is not kept"
    assert replies[-1].status == FULL
    assert "full" in replies[-1].comment
    assert free_bytes(ward) > 4_000_000
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
        absent("an ext4 file system is made and mounted: needs root and e2fsprogs")
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
        absent(f"no loop device can be mounted here: {done.stderr}")


def turn_read_only(volume: Path) -> None:
    """Let ext4 meet an error: it stops writing at once, whatever is open."""
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    device = next(Path(source).name for source, target, *_ in mounts if target == str(volume))
    trigger = Path("/sys/fs/ext4") / device / "trigger_fs_error"
    if not os.access(trigger, os.W_OK):
        absent(f"{trigger} cannot be written here: no error can be made")
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
    # The second is what LMDB makes of it where it was its meta page.
    assert "Read-only file system" in why or "Input/output error" in why
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
