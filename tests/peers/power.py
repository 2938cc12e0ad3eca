"""Cut the power under the real server: log, keyring and index, LMDB's files with them, as the kernel writes them.

    python -m tests.peers.power --cuts 200 --states 50 --seed 1

The archive lies on a file system that notes every change (`tests.crash.fuse`). While objects come in and keys are
rotated, the power is cut after some change, again and again: what is then on the disk, in several of the states it may
be in, is opened by the product and held against what had been acknowledged by that moment.
"""

from __future__ import annotations

import argparse
import pickle
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from coffer.archive.format.record import Kind
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.verify.verify import Options, Verifier, VerifyLevel
from coffer.index.keyless_check import check_index
from coffer.server.access.principal import Principal
from coffer.server.config.integrity import Integrity
from coffer.server.config.settings import Config, Http, Keys, Logging, Storage
from coffer.server.engine.opening import open_writer
from coffer.server.maintenance.deep_check import open_records
from coffer.server.observe import logs
from coffer.server.services.retrieve import Retriever
from tests.crash.disk import Disk
from tests.peers.coffer_process import ROOT, CofferProcess
from tests.peers.dicom_client import Item, associate, store_one, synthetic

_MOST_CHANGES = 80  # until the next cut: several commits
_PER_STUDY = 6
_SENDERS = 2
_LOOKER = Principal.peer("TESTER")


@dataclass(slots=True)
class Sent:
    """What was sent, and when it was acknowledged, in seconds of the monotonic clock."""

    items: dict[str, Item] = field(default_factory=dict)
    acknowledged: dict[str, float] = field(default_factory=dict)

    def by(self, moment: float) -> set[str]:
        """What had been acknowledged before a moment."""
        return {name for name, when in list(self.acknowledged.items()) if when < moment}


@dataclass(frozen=True, slots=True)
class Cut:
    """The disk as the power left it, and when that was."""

    moment: float
    disk: Disk


class PowerSupply:
    """The file system under an archive, which can say what a power cut would leave."""

    def __init__(self, mountpoint: Path, folder: Path) -> None:
        self._mountpoint = mountpoint
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.fuse", str(mountpoint), str(folder)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 10
        while not mountpoint.is_mount():
            assert self._process.poll() is None, "the file system did not start"
            assert time.monotonic() < deadline, "the file system is not there"
            time.sleep(0.02)

    def cut(self, changes: int, out: Path) -> Cut:
        """Let the power go after so many more changes; returns what it left. The running server notices nothing."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"cut {changes} {out}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline().strip() == str(out)
        moment, disk = pickle.loads(out.read_bytes())
        out.unlink()
        return Cut(moment, disk)

    def end(self) -> None:
        """Unmount."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(20) == 0


@contextmanager
def powered(coffer: CofferProcess) -> Iterator[PowerSupply]:
    """Move an archive onto the file system, and serve from there while the block runs."""
    folder = coffer.base / "disk"
    coffer.archive.rename(folder)
    coffer.archive.mkdir()
    supply = PowerSupply(coffer.archive, folder)
    try:
        coffer.start()
        yield supply
    finally:
        coffer.kill()
        supply.end()
        coffer.archive.rmdir()
        folder.rename(coffer.archive)


@contextmanager
def load(coffer: CofferProcess, senders: int = _SENDERS) -> Iterator[Sent]:
    """Objects come in all the time, a few for each study, and keys are rotated now and then."""
    sent, stop = Sent(), threading.Event()
    threads = [threading.Thread(target=_send, args=(coffer.port, number, sent, stop)) for number in range(senders)]
    threads.append(threading.Thread(target=_rotate, args=(coffer, stop)))
    for thread in threads:
        thread.start()
    try:
        yield sent
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _send(port: int, sender: int, sent: Sent, stop: threading.Event) -> None:
    first = synthetic(0)
    association = associate(port, [(first.sop_class, [first.transfer_syntax])])
    number = 0
    while not stop.is_set():
        item = synthetic(number, 500 * (number % 40), study=1000 * sender + number // _PER_STUDY)
        sent.items[item.sop_instance] = item
        if store_one(association, item, number).status == 0:
            sent.acknowledged[item.sop_instance] = time.monotonic()
        number += 1
    association.release()


def _rotate(coffer: CofferProcess, stop: threading.Event) -> None:
    while not stop.wait(1.5):
        coffer.run("keys", "rotate")


def check(folder: Path, key_file: Path, sent: Sent, moment: float) -> int:
    """Open the archive in `folder` and hold it against what was promised; returns how many objects it has."""
    config = Config(
        archive=folder, http=Http(enabled=False), keys=Keys(key_file=key_file), storage=Storage(reserve_bytes=0),
        integrity=Integrity(mark=folder.with_name("no mark")),  # it would be of a later moment
    )  # fmt: skip
    found = _open(config)
    assert _open(config) == found, "a second opening finds something else"
    uids = {uid for uid, _ in found}
    assert len(uids) == len(found), "an object is there twice"
    missing = sent.by(moment) - uids
    assert not missing, f"{len(missing)} acknowledged objects are gone"
    for uid, data in found:
        assert data == sent.items[uid].data, "an object has other bytes, or was never sent"
    archive = ArchiveFolder.open(folder)
    options = Options(VerifyLevel.DECRYPT)
    findings = list(Verifier(archive, options, open_records=partial(open_records, config)).findings())
    assert not findings, findings[0].what
    complaint = check_index(archive.index, archive.archive_id)
    assert complaint is None, f"the index: {complaint}"
    return len(found)


def _open(config: Config) -> list[tuple[str, bytes]]:
    """Every object the index knows, after recovery: those of the log. No key is there for nothing, but for what was on
    its way."""
    with open_writer(config) as engine:
        studies = tuple({row[0x0020000D][0] for row in engine.index.query("STUDY", {0x0020000D: ()}, "study")})
        objects = [
            each for study in studies for each in Retriever(engine).instances({0x0020000D: (str(study),)}, _LOOKER)
        ]
        headers = [header for _, header in engine.reader.records() if header.kind == Kind.OBJECT]
        indexed = [version for each in objects for version in each.located.versions]
        assert sorted(version.seq for version in indexed) == [header.seq for header in headers], "the index is another"
        used = {header.study_key_id for header in headers}
        made = set(engine.keyring.study_key_ids())
        assert used <= made, "a record has no key"
        assert len(made - used) <= _SENDERS, f"{len(made - used)} keys are there for nothing"
        return sorted((str(each.located.sop_instance), b"".join(each.open())) for each in objects)


def try_states(cut: Cut, states: int, seed: int, key_file: Path, sent: Sent) -> None:
    """Check several of the states that a power cut may leave. Raises AssertionError naming the seed."""
    for number in range(states):
        with tempfile.TemporaryDirectory(dir=_memory()) as folder:
            root = Path(folder) / "archive"
            root.mkdir()
            cut.disk.materialise(root, random.Random(f"{seed}/{number}"))
            copy = Path(folder) / "coffer.key"
            shutil.copy(key_file, copy)
            try:
                check(root, copy, sent, cut.moment)
            except Exception as error:
                raise AssertionError(f"cut {seed}, state {number}: {type(error).__name__}: {error}") from error


def _memory() -> Path | None:
    """A folder without a disk behind it, where there is one: syncs cost nothing there."""
    return Path("/dev/shm") if Path("/dev/shm").is_dir() else None


def campaign(coffer: CofferProcess, cuts: int, states: int, seed: int, told: Callable[[str], None]) -> int:
    """Cut the power so often under one server, and try so many states of each cut. Returns the states tried."""
    rng = random.Random(seed)
    taken: list[Cut] = []
    with powered(coffer) as supply:
        with load(coffer) as sent:
            for number in range(cuts):
                time.sleep(rng.random() * 0.05)
                taken.append(supply.cut(rng.randint(1, _MOST_CHANGES), coffer.base / f"cut{number}"))
        told(f"{len(sent.acknowledged)} objects acknowledged")
    for number, cut in enumerate(taken):
        try_states(cut, states, seed * 1000 + number, coffer.key_file, sent)
    return cuts * states


def main() -> None:
    """A long campaign: a fresh archive for every ten cuts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=200)
    parser.add_argument("--states", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    logs.configure(Logging(level="error"))
    started, states = time.monotonic(), 0
    for seed in range(args.seed, args.seed + -(-args.cuts // 10)):
        with tempfile.TemporaryDirectory() as folder:
            coffer = CofferProcess(Path(folder))
            coffer.init()
            states += campaign(coffer, 10, args.states, seed, lambda line: print(line, flush=True))
        print(f"{states} states, {time.monotonic() - started:.0f} s: every promise held", flush=True)


if __name__ == "__main__":
    main()
