"""What the tests of faults share: a server and what it has acknowledged, its health, and strace in front of it."""

import shutil
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from coffer.server.main.demo import encoded, sample_study
from tests.conftest import absent
from tests.peers.coffer_process import CofferProcess
from tests.peers.dicom_client import Item, Reply, find, noisy, store

CT, EXPLICIT_LE = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1"
FULL = 0xA700
SPOOLING = "\n[limits]\nmemory_object_bytes = 65_536\n"


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


class Crowd:
    """Threads that do one thing while the block runs: each calls `work` with its number, until `stop` is set."""

    def __init__(self, count: int, work: Callable[[int], None]) -> None:
        self.stop = threading.Event()
        self._threads = [threading.Thread(target=work, args=(n,)) for n in range(count)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join()


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
def failing(
    coffer: CofferProcess, inject: str, *paths: Path, pid: int = 0, out: Path = Path("/dev/null")
) -> Iterator[None]:
    """Let strace make chosen system calls of the server on some files (none: any) fail, while the block runs.

    `pid` is one of its processes, without one the process that commits; `out` gets the calls that were looked at.
    """
    require_strace()
    assert coffer.process is not None
    pid = pid or coffer.process.pid
    chosen = [word for path in paths for word in ("-P", str(path))]
    command = ["strace", "-f", "-qq", "-o", str(out), *chosen, "-e", f"inject={inject}"]
    with subprocess.Popen([*command, "-p", str(pid)], stderr=subprocess.DEVNULL) as tracer:
        try:
            status = Path(f"/proc/{pid}/status")
            deadline = time.monotonic() + 10
            while f"TracerPid:\t{tracer.pid}\n" not in status.read_text():
                if tracer.poll() is not None or time.monotonic() > deadline:
                    absent("strace cannot attach to a process here")
                time.sleep(0.02)
            yield
        finally:
            tracer.send_signal(signal.SIGINT)
            try:
                tracer.wait(10)
            except subprocess.TimeoutExpired:
                tracer.kill()


def require_strace() -> None:
    if shutil.which("strace") is None:
        absent("strace is not installed: apt install strace")


def wait_until(true: Callable[[], bool]) -> None:
    """Return when it is, within seconds."""
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def large(size: int = 2 << 20, number: int = 1) -> Item:
    """An object of noise, which takes its `size` in each of the files that it is spooled and sealed in."""
    return noisy(number, size, study=77)


def require_empty_spool_and_store(ward: Ward, item: Item) -> None:
    assert list((ward.coffer.archive / "spool").iterdir()) == []
    assert health(ward.coffer)[0] == 200
    assert [r.status for r in ward.store([item])] == [0]
    ward.all_is_there()
