"""Let the power go while files beside the log are written: key file, shares, findings and place of the scrub, deeds
done by hand, objects that are handed out.

As in the campaign over the log, the product's own code runs through a recorder, processes are killed in a call and
syncs fail, then it is started again. After each call some states of the disk are looked at: what a call had returned is
there, whole, and what one was in the middle of is there whole or not at all.
"""

from __future__ import annotations

import random
import shutil
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from coffer.archive.events.repairs import SegmentRepaired
from coffer.archive.repair.deferred_events import DeferredEvent, defer, discard_deferred, read_deferred
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.checkpoint_history import begin
from coffer.archive.verify.findings import FindingStore
from coffer.archive.verify.report import Finding
from coffer.archive.verify.scrub import Scrub
from coffer.keys.crypto.shamir import Group, split
from coffer.keys.disk import durable
from coffer.keys.disk.syscalls import Syscalls, SystemCalls
from coffer.keys.errors import UnavailableError
from coffer.keys.memory.secret import Secret
from coffer.keys.providers.key_file import CHEAPEST_FOR_TESTS, KeyFileProvider, generate_keyfile
from coffer.keys.shares.text import file_name, render
from coffer.server.keyops.share_files import write_shares
from tests.archive.events.samples import sample
from tests.crash.campaign import ORIGIN, SIGNER, BrokenPromiseError, Stop, Tally, Watched, entry, open_log
from tests.crash.disk import Disk

CONTEXT = b"context"
KEK = Secret(bytes(range(32)))
SHARES = split(KEK, Group(bytes(8), bytes(16), bytes(16), 1, 1, 2, 3), lambda count: bytes(range(count)))
SHARE_FILES = {file_name(share): render(share).encode() for share in SHARES}


class Life(ABC):
    """Somebody who writes files of one kind below a folder; `promises` is copied at every call."""

    promises: Any

    def __init__(self, root: Path, calls: Watched) -> None:
        self.root, self.calls = root, calls

    @abstractmethod
    def act(self, rng: random.Random) -> None:
        """Do the next thing, or again what was stopped."""

    @staticmethod
    @abstractmethod
    def check(root: Path, promises: Any) -> None:
        """Raise where a promise is broken."""

    @staticmethod
    def prepare(root: Path) -> None:
        """Make what is there before; most begin with nothing."""
        assert not any(root.iterdir())


@dataclass(slots=True)
class Epochs:
    """Epochs with their wrapped KEKs, those of them that are being destroyed, and those that were."""

    made: dict[int, bytes] = field(default_factory=dict)
    ending: set[int] = field(default_factory=set)
    gone: set[int] = field(default_factory=set)
    has_file: bool = False


class KeyFileLife(Life):
    """A key file is made, gets an epoch with each rotation, and loses old ones."""

    def __init__(self, root: Path, calls: Watched) -> None:
        super().__init__(root, calls)
        self.promises = Epochs()

    def act(self, rng: random.Random) -> None:
        path, told = self.root / "key", self.promises
        if not told.has_file:
            if not path.exists():
                generate_keyfile(path, cost=CHEAPEST_FOR_TESTS, calls=self.calls)
            else:
                durable.resync(path, calls=self.calls)
            told.has_file = True
            return
        provider = KeyFileProvider(path, calls=self.calls)
        old = [epoch for epoch in told.made if epoch not in told.gone]
        if told.ending - told.gone or (len(old) > 1 and rng.random() < 0.4):
            (epoch,) = told.ending - told.gone or {old[0]}
            told.ending.add(epoch)
            provider.destroy_epoch(epoch)
            told.gone.add(epoch)
        else:
            epoch = max(told.made, default=0) + 1
            told.made[epoch] = provider.adopt_epoch(epoch, KEK, CONTEXT)

    @staticmethod
    def check(root: Path, promises: Epochs) -> None:
        path = root / "key"
        if not promises.has_file and not path.exists():
            return
        provider = KeyFileProvider(path)
        provider.health()
        for epoch in promises.made.keys() - promises.ending:
            assert provider.unwrap(promises.made[epoch], CONTEXT).matches(KEK), f"epoch {epoch} does not open"
        assert not promises.gone & set(provider.describe().epochs), "an epoch that was destroyed is back"


class SharesLife(Life):
    """Shares are written into new folders."""

    def __init__(self, root: Path, calls: Watched) -> None:
        super().__init__(root, calls)
        self.promises: set[int] = set()
        self._made = 0

    def act(self, rng: random.Random) -> None:
        self._made += (self.root / f"shares{self._made}").exists()
        folder = self.root / f"shares{self._made}"
        fresh = folder.with_name(f".{folder.name}.new")
        durable.discard_folder(fresh, calls=self.calls)
        durable.make_folder(fresh, 0o700, calls=self.calls)
        write_shares(SHARES, fresh, folder, calls=self.calls)
        self.promises.add(self._made)

    @staticmethod
    def check(root: Path, promises: set[int]) -> None:
        for folder in root.glob("shares*"):
            assert {path.name: path.read_bytes() for path in folder.iterdir()} == SHARE_FILES, "some of the shares"
        assert {f"shares{number}" for number in promises} <= {path.name for path in root.iterdir()}, "shares are gone"


@dataclass(slots=True)
class ScrubStep:
    """Findings that were told, by their name, and how often the scrub has saved that it came further."""

    told: dict[str, bool] = field(default_factory=dict)  # whether it is known to be acknowledged
    changing: set[str] = field(default_factory=set)
    place: tuple[int, int, int] = (0, 0, 0)


class ScrubLife(Life):
    """The scrub goes through a small archive, tells of damage, and somebody answers."""

    def __init__(self, root: Path, calls: Watched) -> None:
        super().__init__(root, calls)
        self.promises = ScrubStep()
        self._findings = 0

    @staticmethod
    def prepare(root: Path) -> None:
        ArchiveFolder.prepare(root)
        empty = ArchiveFolder(root, bytes(range(16)), ORIGIN, SIGNER.vkey(ORIGIN))
        begin(empty, partial(SIGNER.sign_note, ORIGIN))
        empty.commit()
        log = open_log(ArchiveFolder.open(root), segment_bytes=1500)
        for number in range(6):
            log.append([entry(number, 700)])
        log.close()

    def act(self, rng: random.Random) -> None:
        told, ledger = self.promises, FindingStore(self.root / "scrub", self.calls, key=KEK)
        what = rng.random()
        if what < 0.3:
            finding = Finding(1, self._findings // 2, None, "damage")  # half of them for a second time
            entry = ledger.add(finding, 1)
            name = next(e.name for e in ledger.entries() if e.offset == finding.offset) if entry is None else entry.name
            told.told.setdefault(name, False)
            self._findings += 1
        elif what < 0.5 and told.told:
            name = rng.choice(sorted(told.told))
            told.changing.add(name)
            ledger.acknowledge([name], 2)
            told.told[name] = True
        else:
            scrub = self._scrub(self.root, self.calls)
            scrub.segment()
            told.place = (scrub.position.passes, scrub.position.segment, scrub.position.offset)

    @staticmethod
    def _scrub(root: Path, calls: Syscalls) -> Scrub:
        return Scrub(
            ArchiveFolder.open(root), remembered=lambda: None, now_ms=lambda: 1, pace=lambda _: None,
            on_finding=lambda _: None, calls=calls,
        )  # fmt: skip

    @staticmethod
    def check(root: Path, promises: ScrubStep) -> None:
        found = {entry.name: entry for entry in FindingStore(root / "scrub").entries()}
        for name, is_answered in promises.told.items():
            assert name in found, "a finding is forgotten"
            assert bool(found[name].acknowledged_ms) or not is_answered, "an answer is forgotten"
            assert not found[name].acknowledged_ms or name in promises.changing, "nobody answered"
        place = ScrubLife._scrub(root, SystemCalls()).position
        assert (place.passes, place.segment, place.offset) >= promises.place, "the scrub went back"


class PendingLife(Life):
    """Deeds are announced one after the other, and forgotten together once they are recorded."""

    def __init__(self, root: Path, calls: Watched) -> None:
        super().__init__(root, calls)
        self.promises: list[list[str]] = [[]]  # what may be there
        self._made = 0

    @staticmethod
    def prepare(root: Path) -> None:
        ArchiveFolder.prepare(root)
        empty = ArchiveFolder(root, bytes(range(16)), ORIGIN, SIGNER.vkey(ORIGIN))
        begin(empty, partial(SIGNER.sign_note, ORIGIN))
        empty.commit()

    def act(self, rng: random.Random) -> None:
        folder, told = ArchiveFolder.open(self.root), self.promises
        now = [deed.proof for deed in read_deferred(folder)]
        if rng.random() < 0.6:
            proof = f"note:{sha256(b'%d' % self._made).hexdigest()}"
            self._made += 1
            told += [now, [*now, proof]]
            defer(folder, [DeferredEvent(sample(SegmentRepaired), proof)], self.calls)
            told[:] = [[*now, proof]]
        else:
            told += [now, []]
            discard_deferred(folder, self.calls)
            told[:] = [[]]

    @staticmethod
    def check(root: Path, promises: list[list[str]]) -> None:
        assert [deed.proof for deed in read_deferred(ArchiveFolder.open(root))] in promises, "other deeds"


class HandedOutLife(Life):
    """Objects are written into folders, as `server.services.exporting` does; a name that is there is left alone."""

    def __init__(self, root: Path, calls: Watched) -> None:
        super().__init__(root, calls)
        self.promises: set[str] = set()
        self._made = 0

    @staticmethod
    def content(name: str) -> bytes:
        return sha256(name.encode()).digest() * 60

    def act(self, rng: random.Random) -> None:
        folder = self.root / str(self._made // 3)
        path = folder / str(self._made)
        durable.make_folders(folder, self.root, calls=self.calls)
        if not path.exists():
            data = self.content(path.name)
            durable.place(durable.stage(path, [data[:700], data[700:]], calls=self.calls), path, calls=self.calls)
            self.promises.add(path.name)
        self._made += 1

    @staticmethod
    def check(root: Path, promises: set[str]) -> None:
        there = {path.name: path.read_bytes() for path in root.rglob("[0-9]*") if path.is_file()}
        assert all(data == HandedOutLife.content(name) for name, data in there.items()), "half an object"
        assert promises <= there.keys(), "an object is gone"


LIVES = (KeyFileLife, SharesLife, ScrubLife, PendingLife, HandedOutLife)


def one_run(kind: type[Life], seed: int, base: Path, tally: Tally, states_a_call: int) -> None:
    """Live one life and look at its crash states. Raises BrokenPromiseError, naming kind, seed, call and state."""
    rng, live, state = random.Random(f"{kind.__name__}/{seed}"), base / "live", base / "state"
    live.mkdir()
    kind.prepare(live)
    calls = Watched(live, Disk.of(live), random.Random(f"{seed}/calls"))
    life = kind(live, calls)
    calls.promises = life.promises
    for _ in range(rng.randint(4, 12)):
        fate = rng.random()
        if fate < 0.2:
            tally.kills += 1
            calls.die_in(rng.randint(1, 12))
        elif fate < 0.4:
            tally.failures += 1
            calls.fails_in = rng.randint(1, 6)
        try:
            life.act(rng)
        except (Stop, UnavailableError):
            calls.release()
        calls.spare()
    tally.runs += 1
    tally.calls += calls.calls
    for number, (disk, promises) in enumerate(calls.moments):
        for attempt in range(states_a_call):
            tally.states += 1
            shutil.rmtree(state, ignore_errors=True)
            state.mkdir()
            disk.materialise(state, random.Random(f"{seed}/{number}/{attempt}"))
            try:
                kind.check(state, promises)
            except Exception as error:
                where = f"{kind.__name__}, seed {seed}, call {number}, state {attempt}"
                raise BrokenPromiseError(f"{where}: {type(error).__name__}: {error}") from error
    shutil.rmtree(live)
