"""Let the power go at any moment of a run of the log, and see that what was promised is there afterwards.

One run is a few groups of records, checkpoints, full segments and reopenings, made by the real writer through a
recorder; now and then the process is killed in the middle of a call, or a sync fails and it is started again. After
each system call several states of the disk are tried: each is read as a command does before any writer comes, opened by
the real writer (in some of them the power goes again during that, in some the system answers readings short), and held
against what had been acknowledged by then. What a writer found when it opened counts
as acknowledged, for who sends it again is told that it is there.
"""

from __future__ import annotations

import copy
import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, fields
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from coffer.archive.format.entry import Entry
from coffer.archive.format.record import Kind
from coffer.archive.log import LogWriter
from coffer.archive.reader import LogReader
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.checkpoint import Checkpoint, parse_checkpoint, read_checkpoint
from coffer.archive.tree.checkpoint_history import begin, read_entries
from coffer.archive.verify.findings import FindingStore
from coffer.archive.verify.verify import Options, Verifier, VerifyLevel
from coffer.keys.crypto.signing import CheckpointSigner
from coffer.keys.disk.syscalls import Syscalls, SystemCalls
from coffer.keys.errors import UnavailableError
from coffer.keys.memory.secret import Secret
from tests.crash.disk import Disk, Recorder

ORIGIN = "archive.example/crash"
SIGNER = CheckpointSigner(Secret(bytes(range(32))))
_SYSTEM = SystemCalls()


def entry(number: int, size: int) -> Entry:
    """The n-th thing that is ever appended."""
    ids = sha256(b"id%d" % number).digest()
    body = (sha256(b"body%d" % number).digest() * (size // 32 + 1))[:size]
    return Entry(Kind.OBJECT, ids[:16], 0, ids, body)


@dataclass(slots=True)
class Promises:
    """What is in the log or on its way, how much of it was acknowledged, and every checkpoint that anybody was told of.

    `witness` is what the keyring remembers, which is told first; `latest` what was then published.
    """

    tried: list[Entry] = field(default_factory=list)
    acknowledged: int = 0
    shown: list[bytes] = field(default_factory=list)
    witness: Checkpoint | None = None
    latest: Checkpoint | None = None
    signed: dict[int, bytes] = field(default_factory=dict)  # the root for each size that a signature was given for
    made: int = 0  # entries ever; what was cut never comes back under another number

    def group(self, rng: random.Random) -> list[Entry]:
        """Some more entries, on their way from now on."""
        sizes = [rng.choice((0, 40, 300, 700, 2000)) for _ in range(rng.randint(1, 5))]
        group = [entry(self.made + number, size) for number, size in enumerate(sizes)]
        self.made += len(group)
        self.tried += group
        return group

    def sign(self, text: bytes) -> bytes:
        """A signed note, once nothing signed before contradicts it."""
        made = parse_checkpoint(text)
        assert self.signed.setdefault(made.size, made.root) == made.root, "two checkpoints contradict each other"
        return SIGNER.sign_note(ORIGIN, text)

    def remember(self, note: bytes) -> None:
        """The keyring keeps it; from here on anybody may be told."""
        self.witness = parse_checkpoint(note[: note.index(b"\n\n") + 1])
        self.shown.append(note)


@dataclass(slots=True)
class Tally:
    """What a campaign has seen."""

    runs: int = 0
    calls: int = 0
    states: int = 0
    cuts: int = 0
    twice: int = 0
    kills: int = 0
    failures: int = 0
    signed: int = 0
    short: int = 0

    def add(self, other: Tally) -> None:
        for each in fields(Tally):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))


class BrokenPromiseError(AssertionError):
    """A state after which something is missing, wrong, or there that was never stored."""


class Stop(BaseException):
    """The process ends here, with or without the power."""


class Watched(Recorder):
    """A recorder that keeps the disk as it is after each call, and that the process may die in, or a sync fail."""

    def __init__(self, root: Path, disk: Disk, rng: random.Random, promises: object = None) -> None:
        super().__init__(root, disk, rng)
        self.moments: list[tuple[Disk, Any]] = []
        self.promises = promises
        self.dies_in = self.fails_in = 0  # calls from now; 0 is never
        self._dies_next = self._is_whole = False

    def _taken(self, data: bytes) -> int:
        return self._rng.randint(0, len(data)) if self.dies_in == 1 and not self._is_whole else len(data)

    def _fails(self) -> bool:
        fails = self.fails_in == 1
        self.fails_in -= self.fails_in > 0
        return fails

    def _done(self) -> None:
        super()._done()
        if self.promises is not None:
            self.moments.append((copy.deepcopy(self.disk), copy.deepcopy(self.promises)))
        self.dies_in -= self.dies_in > 0
        if self.dies_in == 0 and self._dies_next:
            self._dies_next = False
            raise Stop

    def die_in(self, calls: int, *, whole: bool = False) -> None:
        """Let the process be killed in a call from now; a write then is cut anywhere, or `whole`."""
        self.dies_in, self._dies_next, self._is_whole = calls, True, whole

    def spare(self) -> None:
        """Whatever was to happen does not."""
        self.dies_in, self.fails_in, self._dies_next = 0, 0, False


def one_run(seed: int, base: Path, tally: Tally, states_a_call: int) -> None:
    """Make one run and try its crash states. Raises BrokenPromiseError, naming seed, call and state."""
    rng = random.Random(seed)
    live = base / "live"
    ArchiveFolder.prepare(live)
    empty = ArchiveFolder(live, bytes(range(16)), ORIGIN, SIGNER.vkey(ORIGIN))
    begin(empty, partial(SIGNER.sign_note, ORIGIN))
    empty.commit()
    calls = Watched(live, Disk.of(live), random.Random(f"{seed}/calls"), Promises())
    _Life(rng, ArchiveFolder.open(live), calls, tally).live()
    tally.runs += 1
    tally.calls += calls.calls
    for number, (disk, promises) in enumerate(calls.moments):
        for state in range(states_a_call):
            where = f"seed {seed}, call {number}, state {state}"
            _try(random.Random(f"{seed}/{number}/{state}"), disk, promises, base / "state", where, tally)
    shutil.rmtree(live)


class _Life:
    """What a server does, in small: groups of records, segments that fill up, checkpoints, restarts, sudden ends."""

    def __init__(self, rng: random.Random, folder: ArchiveFolder, calls: Watched, tally: Tally) -> None:
        assert isinstance(calls.promises, Promises)
        self._rng, self._folder, self._calls, self._tally = rng, folder, calls, tally
        self._promises = calls.promises
        self._segment_bytes = rng.choice((1500, 3000, 8000, 1 << 20))

    def live(self) -> None:
        self._start()
        for _ in range(self._rng.randint(4, 12)):
            self._tempt_fate()
            try:
                self._do()
            except (Stop, UnavailableError):
                self._start()
            self._calls.spare()
        self._log.close()

    def _start(self) -> None:
        """Open, again when the process dies in that; what is found then is there for good."""
        while True:
            self._calls.release()
            try:
                self._log = open_log(self._folder, self._calls, self._promises.witness, self._segment_bytes)
                break
            except (Stop, UnavailableError):
                self._calls.spare()
        promises = self._promises
        assert promises.acknowledged <= self._log.next_seq <= len(promises.tried), "a restart loses what was there"
        del promises.tried[self._log.next_seq :]
        promises.acknowledged = self._log.next_seq

    def _tempt_fate(self) -> None:
        what = self._rng.random()
        if what < 0.15:
            self._tally.kills += 1
            self._calls.die_in(self._rng.randint(1, 12))
        elif what < 0.25:
            self._tally.failures += 1
            self._calls.fails_in = self._rng.randint(1, 6)

    def _do(self) -> None:
        promises, what = self._promises, self._rng.random()
        if what < 0.7:
            self._log.append(promises.group(self._rng))
            promises.acknowledged = len(promises.tried)
            if self._rng.random() < 0.6:  # the minute is over
                self._sign()
        elif what < 0.85:  # on demand, perhaps with nothing new
            self._sign()
        else:
            if self._rng.random() < 0.5:
                self._sign()
            self._log.close()
            self._start()

    def _sign(self) -> None:
        try:
            made = self._log.checkpoint(self._promises.sign, self._promises.remember)
        except UnavailableError:
            if self._rng.random() < 0.3:
                raise
            return  # the server tells it, and signs again a minute later
        self._promises.latest = made or self._promises.latest
        self._tally.signed += made is not None


def open_log(
    folder: ArchiveFolder, calls: Syscalls = _SYSTEM, witness: Checkpoint | None = None, segment_bytes: int = 3000
) -> LogWriter:
    """The real writer, over these calls."""
    sign = SIGNER.sign_statement
    return LogWriter(folder, sign=sign, now_ms=lambda: 1, segment_bytes=segment_bytes, calls=calls, remembered=witness)


def _try(rng: random.Random, disk: Disk, promises: Promises, root: Path, where: str, tally: Tally) -> None:
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    disk.materialise(root, rng)
    tally.states += 1
    if rng.random() < 0.2:  # the power goes again while it recovers
        tally.twice += 1
        again = Watched(root, Disk.of(root), rng)
        again.die_in(rng.randint(1, 12))
        try:
            open_log(ArchiveFolder.open(root), again, promises.witness).close()
        except Stop:
            again.release()
            shutil.rmtree(root)
            root.mkdir()
            again.disk.materialise(root, rng)
    is_short = rng.random() < 0.25
    tally.short += is_short
    try:
        with _short_reads(rng) if is_short else nullcontext():
            _read(root, promises)
            _check(root, promises, tally)
        if rng.random() < 0.3:
            _go_on(root, promises)
    except Exception as error:
        raise BrokenPromiseError(f"{where}: {type(error).__name__}: {error}") from error


@contextmanager
def _short_reads(rng: random.Random) -> Iterator[None]:
    """One reading in ten answers with a part of what there is."""
    real = os.pread

    def pread(fd: int, length: int, offset: int) -> bytes:
        return real(fd, rng.randint(1, length) if length and rng.random() < 0.1 else length, offset)

    os.pread = pread
    try:
        yield
    finally:
        os.pread = real


def _read(root: Path, promises: Promises) -> None:
    """What a command gives that comes before any writer."""
    reader, found = LogReader(ArchiveFolder.open(root)), 0
    for (position, header), want in zip(reader.records(), promises.tried[: promises.acknowledged], strict=False):
        assert header.content_id == want.content_id, "another record, before a writer came"
        assert reader.read_body(position) == want.body, "another body, before a writer came"
        found += 1
    reader.close()
    assert found == promises.acknowledged, f"{found} records, {promises.acknowledged} promised, before a writer came"


def _check(root: Path, promises: Promises, tally: Tally) -> None:
    folder = ArchiveFolder.open(root)
    log = open_log(folder, SystemCalls(), promises.witness)
    tally.cuts += log.cut_bytes > 0
    assert log.cut_records == 0 or FindingStore(folder.scrub).open_entries(), "records are cut in silence"
    count = log.next_seq
    log.close()
    before = _content(root)
    log = open_log(folder, SystemCalls(), promises.witness)
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
    require_notes(folder, promises)


def _go_on(root: Path, promises: Promises) -> None:
    """What is stored and signed now joins on to what was there."""
    folder = ArchiveFolder.open(root)
    log = open_log(folder, SystemCalls(), promises.witness)
    log.append([entry(1_000_000, 40)])
    log.checkpoint(partial(SIGNER.sign_note, ORIGIN))
    log.close()
    require_notes(folder, promises)
    findings = list(Verifier(folder, Options(VerifyLevel.HEADERS)).findings())
    assert not findings, findings[0].what


def require_notes(folder: ArchiveFolder, promises: Promises) -> None:
    """Every checkpoint that anybody was told of is in the history, and nobody is shown an older one than before."""
    notes = [noted.note for noted in read_entries(folder)]
    assert all(note in notes for note in promises.shown), "a checkpoint is lost from the history"
    assert len(set(notes)) == len(notes), "a checkpoint stands twice in the history"
    signed, before = read_checkpoint(folder), promises.latest
    assert before is None or (signed is not None and signed.size >= before.size), "the last checkpoint is an older one"


def _content(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in _files(root)}


def _files(root: Path) -> Iterator[Path]:
    return (p for p in sorted(root.rglob("*")) if p.is_file())
