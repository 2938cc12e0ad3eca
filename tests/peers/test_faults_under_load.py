"""The n-th write, sync or rename of each kind of file fails in a server that several senders keep busy.

Some of these stop everything that is stored, some only what they are for; in all of them queries go on, and after a
start everything acknowledged is there, bit for bit. The suite draws some by a seed that it prints;
COFFER_FAULT_SEED repeats them, COFFER_EVERY_FAULT=1 takes all.
"""

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.verify.verify import Verifier
from coffer.keys.errors import CofferError
from coffer.keys.keyring.keyring import Keyring
from coffer.keys.providers.key_file import KeyFileProvider
from coffer.server.access.principal import Principal
from coffer.server.config.settings import Config, Http, Keys, Storage
from coffer.server.engine.opening import open_writer
from coffer.server.mailbox import sign_order
from coffer.server.services.retrieve import Retriever
from tests.peers.coffer_process import CofferProcess
from tests.peers.dicom_client import Item, Reply, find, noisy, store, synthetic
from tests.peers.ward import FULL, SPOOLING, Crowd, failing, health, require_strace

# All workers of one run must draw the same.
RUN = os.environ.get("PYTEST_XDIST_TESTRUNUID", "") or f"{random.SystemRandom().randrange(1 << 32):x}"
SEED = int(os.environ.get("COFFER_FAULT_SEED", int(RUN[:8], 16)))
DRAWN = 4
SENDERS = 3
SETTINGS = f"{SPOOLING}\n[storage]\nsegment_bytes = 1_048_576\nreserve_bytes = 0\nscrub_days = 0.00002\n"
LMDB = "pwrite64,pwritev,fdatasync"


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of file: where it is, which calls may fail at it, which of them in a row, and whether stores then stop."""

    name: str
    paths: Callable[[ArchiveFolder], list[Path]]
    calls: tuple[str, ...]
    numbers: tuple[int, ...]
    stops: bool


def _segment(ahead: int, name: str) -> Callable[[ArchiveFolder], list[Path]]:
    return lambda folder: [folder.segments / name.format(folder.segment_files.numbers()[-1] + ahead)]


def _tiles(folder: ArchiveFolder) -> list[Path]:
    """The partial tiles that may be written next: strace is told names, not patterns."""
    level = folder.tiles / "tile" / "0"
    whole = len(list(level.glob("[0-9][0-9][0-9]")))
    return [level / f"{n:03d}.p" / f".{width}.new" for n in range(whole, whole + 4) for width in range(1, 256)]


KINDS = (
    Kind("segment", _segment(0, "{:08d}.seg"), ("writev", "fdatasync"), (1, 2, 9), True),
    Kind("new segment", _segment(1, ".{:08d}.seg.new"), ("writev", "fsync", "rename"), (1,), True),
    Kind("next segment", _segment(1, "{:08d}.seg"), ("writev", "fdatasync"), (1, 3), True),
    Kind("history", lambda folder: [folder.checkpoint_history], ("writev", "fdatasync"), (1, 2), False),
    Kind("latest", lambda folder: [folder.checkpoints / ".latest.new"], ("writev", "fsync", "rename"), (1, 2), False),
    Kind("tiles", _tiles, ("writev", "fsync", "rename"), (1, 2), False),
    Kind("keyring", lambda folder: [folder.keyring / "data.mdb"], ("pwrite64", "fdatasync"), (1, 2), True),
    Kind("index", lambda folder: [folder.index / "data.mdb"], ("pwrite64", "fdatasync"), (1, 3), True),
    Kind("scrub place", lambda folder: [folder.scrub / ".place.json.new"], ("writev", "fsync", "rename"), (1,), False),
    Kind("spool", lambda folder: [], ("pwrite64",), (1,), False),
)

pytestmark = pytest.mark.long
EVERY = [
    (kind, call, number, ("EIO", "ENOSPC")[(at + number) % 2])
    for at, kind in enumerate(KINDS)
    for call in kind.calls
    for number in kind.numbers
]
CHOSEN = EVERY if os.environ.get("COFFER_EVERY_FAULT") else random.Random(SEED).sample(EVERY, DRAWN)


class Load(Crowd):
    """Senders that go on until told to stop; an object in nine is spooled, every tenth begins a new study."""

    def __init__(self, coffer: CofferProcess, sent: dict[str, Item], first: int) -> None:
        super().__init__(SENDERS, self._send)
        self._coffer, self._sent, self._first = coffer, sent, first
        self.replies: list[Reply] = []
        self.acknowledged: set[str] = set()

    def _send(self, sender: int) -> None:
        number = self._first + 1000 * sender
        while not self.stop.is_set():
            some = [self._object(number + n) for n in range(3)]
            number += 3
            for item, reply in zip(some, store(self._coffer.port, some), strict=True):
                self.replies.append(reply)
                if reply.status == 0:
                    self.acknowledged.add(item.sop_instance)

    def _object(self, number: int) -> Item:
        study = number // 10
        item = noisy(number, 150_000, study) if number % 9 == 0 else synthetic(number, 3000, study)
        self._sent[item.sop_instance] = item
        return item


@pytest.fixture(scope="module")
def coffer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CofferProcess]:
    require_strace()
    made = CofferProcess(tmp_path_factory.mktemp("faults"), workers=2)
    made.write_config(SETTINGS)
    made.init()
    yield made
    made.kill()


@pytest.fixture(scope="module")
def sent() -> dict[str, Item]:
    return {}


@contextlib.contextmanager
def signing(coffer: CofferProcess) -> Iterator[None]:
    """Orders to sign, one after the other, while the block runs."""
    folder, stop = ArchiveFolder.open(coffer.archive), threading.Event()
    keyring = Keyring.open(folder.keyring, KeyFileProvider(coffer.key_file))

    def order() -> None:
        while not stop.wait(0.1):
            with contextlib.suppress(CofferError):  # while it cannot be signed
                sign_order.ask(keyring, folder, patience_seconds=2)

    thread = threading.Thread(target=order)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        keyring.close()


@pytest.mark.parametrize(
    ("kind", "call", "number", "error"), CHOSEN, ids=[f"{k.name}-{c}-{n}-{e}" for k, c, n, e in CHOSEN]
)
def test_a_call_that_fails_under_load_costs_nothing_acknowledged(
    coffer: CofferProcess, sent: dict[str, Item], tmp_path: Path, kind: Kind, call: str, number: int, error: str
) -> None:
    print(f"COFFER_FAULT_SEED={SEED}")
    coffer.start()
    try:
        load = meet(coffer, sent, tmp_path / "trace", kind, f"{call}:error={error}:when={number}")
        refused = [reply for reply in load.replies if reply.status != 0]
        assert {reply.status for reply in refused} <= {FULL}
        assert all(reply.comment for reply in refused)
        assert not refused or kind.stops or kind.name == "spool", refused[0]
        if kind.stops:
            status, why = health(coffer)
            assert (status, "stopped" in why) == (503, True)
            assert store(coffer.port, [synthetic(1, 100, 0)]) == [Reply(FULL, refused[-1].comment)]
        else:
            assert health(coffer)[0] == 200
        find(coffer.port, "STUDY", StudyInstanceUID="")
    finally:
        coffer.kill()
    check(coffer, sent, load.acknowledged)


def meet(coffer: CofferProcess, sent: dict[str, Item], trace: Path, kind: Kind, inject: str) -> Load:
    """Keep the server busy until the fault was met, and a little longer."""
    folder = ArchiveFolder.open(coffer.archive)
    with contextlib.ExitStack() as stack:
        load = Load(coffer, sent, 10_000 * (1 + len(sent)))
        if not folder.segment_files.numbers():
            store(coffer.port, [load._object(0)])
        for at, pid in enumerate(coffer.processes()[1:] if kind.name == "spool" else [0]):
            out = trace.with_suffix(f".{at}")
            stack.enter_context(failing(coffer, inject, *kind.paths(folder), pid=pid, out=out))
        stack.enter_context(load)
        stack.enter_context(signing(coffer))
        deadline = time.monotonic() + 60
        while not any("(INJECTED)" in path.read_text() for path in trace.parent.glob("trace.*")):
            assert time.monotonic() < deadline, f"{inject} of {kind.name} was not met"
            time.sleep(0.05)
        while kind.stops and health(coffer)[0] != 503:
            assert time.monotonic() < deadline, "nothing stopped"
            time.sleep(0.05)
        time.sleep(0.3)
    return load


def check(coffer: CofferProcess, sent: dict[str, Item], acknowledged: set[str]) -> None:
    """Open the archive: what was acknowledged is there, nothing else than what was sent, and all of it verifies."""
    config = Config(
        archive=coffer.archive, http=Http(enabled=False), keys=Keys(key_file=coffer.key_file),
        storage=Storage(segment_bytes=1 << 20, reserve_bytes=0),
    )  # fmt: skip
    with open_writer(config) as engine:
        caller = Principal.peer("TESTER")
        for name in acknowledged:
            (found,) = Retriever(engine).instances({0x00080018: (name,)}, caller)
            assert b"".join(found.open()) == sent[name].data
        assert engine.stats().objects <= len(sent)
    assert list(Verifier(ArchiveFolder.open(coffer.archive)).findings()) == []
