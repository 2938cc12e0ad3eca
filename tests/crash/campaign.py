"""Let the power go at any moment of a run of the log, and see that what was promised is there afterwards.

One run is a few groups of records, checkpoints, full segments and reopenings, made by the real writer through a
recorder. After each of its system calls several states of the disk are tried: each is opened by the real writer (and in
some of them the power goes again during that), and held against what had been acknowledged by then.
"""

from __future__ import annotations

import copy
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from archive.checkpoint import Checkpoint, read_checkpoint
from archive.folder import ArchiveFolder
from archive.log import Entry, LogWriter
from archive.reader import LogReader
from archive.record import Kind
from archive.verify import Verifier
from keys.durable import Syscalls, SystemCalls
from keys.secret import Secret
from keys.signing import CheckpointSigner
from tests.crash.disk import Disk, Recorder

ORIGIN = "archive.example/crash"
SIGNER = CheckpointSigner(Secret(bytes(range(32))))


def entry(number: int, size: int) -> Entry:
    """The n-th thing that is ever appended."""
    ids = sha256(b"id%d" % number).digest()
    body = (sha256(b"body%d" % number).digest() * (size // 32 + 1))[:size]
    return Entry(Kind.OBJECT, ids[:16], 0, ids, body, number)


@dataclass(slots=True)
class Promises:
    """What was appended so far, how much of it was acknowledged, and the last checkpoint that was shown."""

    tried: list[Entry] = field(default_factory=list)
    acknowledged: int = 0
    shown: Checkpoint | None = None


@dataclass(slots=True)
class Tally:
    """What a campaign has seen."""

    runs: int = 0
    calls: int = 0
    states: int = 0
    cuts: int = 0
    twice: int = 0

    def add(self, other: Tally) -> None:
        for name in ("runs", "calls", "states", "cuts", "twice"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


class BrokenPromiseError(AssertionError):
    """A state after which something is missing, wrong, or there that was never stored."""


class _Stop(Exception):
    """The power goes."""


class _UntilCall(Recorder):
    """A recorder whose power goes after so many calls; `at_call` sees the disk after each."""

    def __init__(self, root: Path, disk: Disk, stop_at: int = -1) -> None:
        super().__init__(root, disk)
        self._stop_at = stop_at
        self.moments: list[tuple[Disk, Promises]] | None = None
        self.promises = Promises()

    def _done(self) -> None:
        super()._done()
        if self.moments is not None:
            self.moments.append((copy.deepcopy(self.disk), copy.deepcopy(self.promises)))
        if self.calls == self._stop_at:
            raise _Stop


def one_run(seed: int, base: Path, tally: Tally, states_a_call: int) -> None:
    """Make one run and try its crash states. Raises BrokenPromiseError, naming seed, call and state."""
    rng = random.Random(seed)
    live = base / "live"
    ArchiveFolder.prepare(live)
    ArchiveFolder(live, bytes(range(16)), ORIGIN, SIGNER.vkey(ORIGIN)).commit()
    calls = _UntilCall(live, Disk.of(live))
    calls.moments = []
    _work(rng, ArchiveFolder.open(live), calls)
    tally.runs += 1
    tally.calls += calls.calls
    for number, (disk, promises) in enumerate(calls.moments):
        for state in range(states_a_call):
            where = f"seed {seed}, call {number}, state {state}"
            _try(random.Random(f"{seed}/{number}/{state}"), disk, promises, base / "state", where, tally)
    shutil.rmtree(live)


def _work(rng: random.Random, folder: ArchiveFolder, calls: _UntilCall) -> None:
    """What a server does, in small: groups of records, segments that fill up, checkpoints, restarts."""
    segment_bytes = rng.choice((1500, 3000, 8000, 1 << 20))
    promises = calls.promises
    log = _open(folder, calls, segment_bytes)
    for _ in range(rng.randint(2, 8)):
        what = rng.random()
        if what < 0.65:
            group = [
                entry(len(promises.tried) + n, rng.choice((0, 40, 300, 700, 2000))) for n in range(rng.randint(1, 5))
            ]
            promises.tried += group
            log.append(group)
            promises.acknowledged = len(promises.tried)
        elif what < 0.85:
            made = log.checkpoint(lambda text: SIGNER.sign_note(ORIGIN, text))
            promises.shown = made or promises.shown
        else:
            log.close()
            log = _open(folder, calls, segment_bytes)
    log.close()


def _open(folder: ArchiveFolder, calls: Syscalls, segment_bytes: int = 3000) -> LogWriter:
    return LogWriter(folder, now_ms=lambda: 1, segment_bytes=segment_bytes, calls=calls)


def _try(rng: random.Random, disk: Disk, promises: Promises, root: Path, where: str, tally: Tally) -> None:
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    disk.materialise(root, rng)
    tally.states += 1
    if rng.random() < 0.2:  # the power goes again while it recovers
        tally.twice += 1
        again = _UntilCall(root, Disk.of(root), stop_at=rng.randint(1, 12))
        try:
            _open(ArchiveFolder.open(root), again).close()
        except _Stop:
            shutil.rmtree(root)
            root.mkdir()
            again.disk.materialise(root, rng)
    try:
        _check(root, promises, tally)
    except Exception as error:
        raise BrokenPromiseError(f"{where}: {type(error).__name__}: {error}") from error


def _check(root: Path, promises: Promises, tally: Tally) -> None:
    folder = ArchiveFolder.open(root)
    log = _open(folder, SystemCalls())
    tally.cuts += log.cut_bytes > 0
    count = log.next_seq
    log.close()
    before = _content(root)
    log = _open(folder, SystemCalls())
    assert log.cut_bytes == 0, "the second opening cuts again"
    log.close()
    assert _content(root) == before, "the second opening changes something"
    assert promises.acknowledged <= count <= len(promises.tried), f"{count} records, {promises.acknowledged} promised"
    reader = LogReader(folder)
    for (position, header), want in zip(reader.records(), promises.tried, strict=False):
        assert (header.study_key_id, header.content_id) == (want.study_key_id, want.content_id), "another record"
        assert reader.read_body(position) == want.body, "another body"
    reader.close()
    findings = list(Verifier(folder).findings())
    assert not findings, findings[0].what
    signed = read_checkpoint(folder)
    assert promises.shown is None or (signed is not None and signed.size >= promises.shown.size), "a checkpoint is lost"
    log = _open(folder, SystemCalls())
    log.append([entry(1_000_000, 40)])  # and it goes on
    log.close()


def _content(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in _files(root)}


def _files(root: Path) -> Iterator[Path]:
    return (p for p in sorted(root.rglob("*")) if p.is_file())
