"""What a running server is short of for a while: descriptors, threads, memory, a listening socket that works.

Several senders go on meanwhile. Whatever they were told is stored comes back, nobody restarts anything, and as soon as
the shortage is over the server serves as before; while it lasts, `/readyz` or the metrics tell of it.
"""

import contextlib
import os
import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.verify.verify import Verifier
from coffer.keys.errors import UnavailableError
from coffer.server.access.principal import Principal
from coffer.server.config.settings import Config, Http, Keys, Storage
from coffer.server.dimse.protocol.connection import ConnectionClosed
from coffer.server.dimse.protocol.negotiation import Offer
from coffer.server.dimse.protocol.requestor import Requestor
from coffer.server.engine.opening import open_writer
from coffer.server.services.retrieve import Retriever
from tests.conftest import absent
from tests.peers.coffer_process import CofferProcess
from tests.peers.dicom_client import Item, noisy, synthetic
from tests.peers.ward import SPOOLING, Crowd, failing, health, wait_until

SETTINGS = f"{SPOOLING}\n[storage]\nsegment_bytes = 1_048_576\nreserve_bytes = 0\n"
SENDERS = 3
LASTS = 2.0
PIDS = Path("/sys/fs/cgroup/pids")
Shortage = Callable[[CofferProcess], contextlib.AbstractContextManager[object]]


class Senders(Crowd):
    """Associations that store what they can, and remember what was acknowledged."""

    def __init__(self, port: int, first: int = 0) -> None:
        super().__init__(SENDERS, self._send)
        self._port, self._first = port, first
        self.acknowledged: dict[str, bytes] = {}
        self.refused = 0

    def _send(self, sender: int) -> None:
        number = 100_000 * (sender + 1) + 2_000_000 * self._first
        while not self.stop.is_set():
            items = [self._item(number + n) for n in range(4)]
            number += 4
            try:
                self._send_all(items)
            except (UnavailableError, ConnectionClosed, OSError):
                self.refused += 1
                time.sleep(0.05)

    def _send_all(self, items: list[Item]) -> None:
        with connect(self._port, items[0]) as peer:
            for item in items:
                if peer.store(peer.contexts[1], item.sop_instance, [item.data]) == 0:
                    self.acknowledged[item.sop_instance] = item.data
                else:
                    self.refused += 1

    @staticmethod
    def _item(number: int) -> Item:
        return noisy(number, 150_000, number // 10) if number % 7 == 0 else synthetic(number, 3000, number // 10)


def connect(port: int, item: Item) -> Requestor:
    return Requestor("127.0.0.1", port, "TESTER", "COFFER", [Offer(1, item.sop_class, (item.transfer_syntax,))], 20.0)


@contextlib.contextmanager
def limited(pids: list[int], what: int, limit: Callable[[int], int]) -> Iterator[None]:
    """Lower a limit of running processes while the block runs."""
    before = {pid: resource.prlimit(pid, what) for pid in pids}
    for pid in pids:
        resource.prlimit(pid, what, (limit(pid), before[pid][1]))
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # it may die of this one, and be started again
                resource.prlimit(pid, what, before[pid])


def few_descriptors(pids: list[int]) -> contextlib.AbstractContextManager[object]:
    return limited(pids, resource.RLIMIT_NOFILE, lambda pid: len(list(Path(f"/proc/{pid}/fd").iterdir())) + 3)


def little_memory(pids: list[int]) -> contextlib.AbstractContextManager[object]:
    def now(pid: int) -> int:
        (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmSize"))
        return (int(line.split()[1]) << 10) + (1 << 18)

    return limited(pids, resource.RLIMIT_AS, now)


@contextlib.contextmanager
def no_more_threads(coffer: CofferProcess) -> Iterator[None]:
    """Let a group of processes that may not have one thread more hold the server's."""
    group = PIDS / f"coffer-{os.getpid()}"
    try:
        group.mkdir()
        for pid in coffer.processes():
            (group / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        absent(f"no group of processes can be made here: {error}")
    try:
        (group / "pids.max").write_text((group / "pids.current").read_text())
        yield
        (group / "pids.max").write_text("max")
    finally:
        for pid in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(OSError):
                (PIDS / "cgroup.procs").write_text(pid)
        wait_until(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


SHORTAGES: dict[str, Shortage] = {
    "descriptors of the process that commits": lambda coffer: few_descriptors(coffer.processes()[:1]),
    "descriptors of the worker processes": lambda coffer: few_descriptors(coffer.processes()[1:]),
    "threads": no_more_threads,
    "memory of the process that commits": lambda coffer: little_memory(coffer.processes()[:1]),
    "memory of the worker processes": lambda coffer: little_memory(coffer.processes()[1:]),
    "a listening socket that works": lambda coffer: failing(coffer, "accept4:error=EBADF"),
    "descriptors of the whole machine": lambda coffer: failing(coffer, "accept4:error=ENFILE"),
}


@pytest.fixture(scope="module")
def coffer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CofferProcess]:
    made = CofferProcess(tmp_path_factory.mktemp("shortages"), workers=2)
    made.write_config(SETTINGS)
    made.init()
    yield made
    made.kill()


@pytest.mark.parametrize("name", SHORTAGES)
def test_a_shortage_passes_without_a_restart_and_costs_nothing_acknowledged(coffer: CofferProcess, name: str) -> None:
    coffer.start()
    assert coffer.process is not None
    with Senders(coffer.port, len(list(coffer.archive.rglob("*.seg")))) as senders:
        wait_until(lambda: len(senders.acknowledged) > 20)
        with SHORTAGES[name](coffer):
            time.sleep(LASTS)
            assert coffer.process.poll() is None
        stored = len(senders.acknowledged)
        wait_until(lambda: len(senders.acknowledged) > stored + 20)
    wait_until(lambda: health(coffer)[0] == 200)
    for number in range(4):  # one for each worker process, and more
        item = synthetic(number, 1000)
        with connect(coffer.port, item) as peer:
            assert peer.store(peer.contexts[1], item.sop_instance, [item.data]) == 0
    coffer.stop()
    check(coffer, senders.acknowledged)


def check(coffer: CofferProcess, acknowledged: dict[str, bytes]) -> None:
    """Everything acknowledged is there bit for bit, and all of the archive verifies."""
    config = Config(
        archive=coffer.archive, http=Http(enabled=False), keys=Keys(key_file=coffer.key_file),
        storage=Storage(segment_bytes=1 << 20, reserve_bytes=0),
    )  # fmt: skip
    with open_writer(config) as engine:
        for name, data in acknowledged.items():
            (found,) = Retriever(engine).instances({0x00080018: (name,)}, Principal.peer("TESTER"))
            assert b"".join(found.open()) == data
    assert list(Verifier(ArchiveFolder.open(coffer.archive)).findings()) == []
