"""Check the log without any key: every byte of every segment, the chain, the tree and what was signed of it.

Rule: it reports every finding and never stops at the first, changes nothing and needs no lock. Segments are checked
apart from each other (`archive.verify.scan`), in several processes if wanted, and joined in order
(`archive.verify.join`).
"""

import multiprocessing
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from coffer.archive.format.chain import Chain, read_footer, read_segment_header
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.checkpoint import Checkpoint, endorsed, read_checkpoint
from coffer.archive.tree.checkpoint_history import last_checkpoint
from coffer.archive.tree.key_history import read_succession
from coffer.archive.verify.join import Claim, Joined
from coffer.archive.verify.report import (
    Counts,
    Finding,
    Level,
    OpenRecord,
    Report,
    Task,
    gaps,
    missing,
)
from coffer.archive.verify.scan import scan
from coffer.archive.verify.tile_check import check
from coffer.keys.disk import opening
from coffer.keys.errors import InputError, IntegrityError, UnavailableError, UnreadableError

__all__ = ["Finding", "Level", "OpenRecords", "Options", "Summary", "Verifier"]

OpenRecords = Callable[[], AbstractContextManager[OpenRecord]]  # called in each process; for jobs > 1 it must pickle
_SAFE_PATH: Final = "PYTHONSAFEPATH"  # as python -P
_worker_stack = ExitStack()  # held until a worker ends: what it opened must not be closed before
_worker_open: OpenRecord | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """How to verify.

    `since`: only what came behind so many records, whose root is checked too where a checkpoint is given. `sample`:
    the share of bodies that is read, chosen by `seed`; headers, chain and tree are always checked in full. `jobs`:
    processes; segments are shared out among them. Without `beside`, tiles and the history of checkpoints, which lie
    beside the log, are not looked at.
    """

    level: Level = Level.BODIES
    since: Checkpoint | int | None = None
    sample: float = 1.0
    seed: int = 0
    jobs: int = 1
    beside: bool = True


@dataclass(slots=True)
class Summary:
    """What a verification has read so far. `shredded` records have a key that was destroyed on purpose.

    `superseded` ones too, and the log says that the same objects were sealed again under another key.
    """

    segments: int = 0
    records: int = 0
    bodies: int = 0
    bytes: int = 0
    opened: int = 0
    shredded: int = 0
    superseded: int = 0
    signed_records: int = 0
    first_record: int = 0

    def add(self, counts: Counts) -> None:
        """Add what one segment held."""
        self.segments += 1
        self.records += counts.records
        self.bodies += counts.bodies
        self.bytes += counts.bytes
        self.opened += counts.opened


class Verifier:
    """One verification. `witness` is what the keyring remembers of the last signed checkpoint, where it is at hand."""

    def __init__(
        self,
        folder: ArchiveFolder,
        options: Options = Options(),
        *,
        open_records: OpenRecords | None = None,
        witness: Checkpoint | None = None,
        instead: Mapping[int, Path] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """`progress` gets numbers of bytes that add up to all. Level DECRYPT needs `open_records`.

        `instead` gives files to read in place of segments, to see what the log would be with them.
        """
        if options.level is Level.DECRYPT and open_records is None:
            raise InputError("decrypting needs keys")
        self._folder = folder
        self._options = options
        self._open_records = open_records
        self._witness = witness
        self._instead = instead or {}
        self._progress = progress or (lambda _: None)
        self.summary = Summary()

    def findings(self) -> Iterator[Finding]:
        """Verify everything, yielding what is wrong as it is found. Iterate once.

        Raises InputError where `since` asks for more than is signed, UnavailableError where a process was killed.
        """
        complaint = self._folder.complaint()
        if complaint is not None:
            yield Finding(0, 0, None, complaint)
        claims: list[Claim] = []
        signed = yield from self._claims(claims)
        self.summary.signed_records = max((c.size for c in claims), default=0)
        numbers = sorted({*self._folder.segment_numbers(), *self._instead})
        for first, last in gaps(numbers):
            yield missing(first, last)
        chain, begin = self._start(numbers)
        self.summary.first_record = chain.next_seq
        joined = Joined(chain, claims)
        yield from joined.compare(numbers[begin] if numbers else 0)
        for number in numbers[:begin]:
            self._progress(self._folder.segment_size(number))
        for report in self._reports(numbers[begin:], claims):
            self.summary.add(report.counts)
            yield from report.findings
            yield from joined.add(report)
        yield from joined.finish(numbers[-1] if numbers else 0)
        if self._options.beside and not self._instead:
            yield from check(self._folder, signed, self._since())
        gone, moved = joined.shredded, joined.superseded - joined.shredded
        self.summary.shredded = sum(joined.waiting[key] for key in joined.unopened if key in gone)
        self.summary.superseded = sum(joined.waiting[key] for key in joined.unopened if key in moved)

    def _since(self) -> int:
        since = self._options.since
        return since.size if isinstance(since, Checkpoint) else since or 0

    def _claims(self, claims: list[Claim]) -> Generator[Finding, None, Checkpoint | None]:
        """Fill `claims`. Returns the last signed checkpoint."""
        since = self._options.since
        try:
            signed = read_checkpoint(self._folder)
        except IntegrityError as error:
            yield Finding(0, 0, None, f"the signed checkpoint: {error}")
            signed = None
        noted, newest = None, None
        with suppress(IntegrityError):  # `check` tells
            noted = last_checkpoint(self._folder) if self._options.beside else None
        try:
            newest = max(endorsed(read_succession(self._folder)), key=lambda made: made.size, default=None)
        except IntegrityError as error:
            yield Finding(0, 0, None, f"the signing keys: {error}")
        for checkpoint, by in (
            (signed, "a signed checkpoint"),
            (newest, "the endorsement of a signing key"),
            (noted, "a signed checkpoint of the history"),
            (self._witness, "the checkpoint that the keyring remembers"),
            (since if isinstance(since, Checkpoint) else None, "the given checkpoint"),
        ):
            if checkpoint is not None and not any(
                (c.size, c.root) == (checkpoint.size, checkpoint.root) for c in claims
            ):
                claims.append(Claim(checkpoint.size, checkpoint.root, by))
        return signed

    def _start(self, numbers: Sequence[int]) -> tuple[Chain, int]:
        """The chain before the first segment to check, and the place of that segment in `numbers`."""
        since, size = self._options.since, self._since()
        if isinstance(since, int) and since > self.summary.signed_records:
            raise InputError(
                f"no checkpoint covers {since} records: nothing proves where they end",
                hint=f"the last one covers {self.summary.signed_records}; start there, or give a signed checkpoint",
            )
        for place in range(len(numbers) - 1, 0, -1):
            first = _first_seq(self._path(numbers[place]))
            if first is not None and first <= size:
                before = _footer_state(self._path(numbers[place - 1]))
                if before is not None and before.next_seq == first:
                    return before, place
        return Chain.start(self._folder.archive_id), 0

    def _path(self, number: int) -> Path:
        return self._instead.get(number) or self._folder.segment_path(number)

    def _reports(self, numbers: Sequence[int], claims: Sequence[Claim]) -> Iterator[Report]:
        options = self._options
        task = partial(
            Task,
            lock=self._folder.lock,
            archive_id=self._folder.archive_id,
            level=options.level,
            cuts=tuple(sorted({c.size for c in claims})),
            from_seq=self._since(),
            sample=options.sample,
            seed=options.seed,
        )
        tasks = [task(self._path(n), number=n, is_last=n == numbers[-1]) for n in numbers]
        if min(options.jobs, len(tasks)) > 1:
            yield from self._shared(tasks)
            return
        with ExitStack() as stack:
            opened = None
            if options.level is Level.DECRYPT and self._open_records is not None:
                opened = stack.enter_context(self._open_records())
            for one in tasks:
                yield scan(one, opened, self._progress)

    def _shared(self, tasks: Sequence[Task]) -> Iterator[Report]:
        open_records = self._open_records if self._options.level is Level.DECRYPT else None
        if open_records is not None:
            with open_records():
                pass  # here a key that does not open is told as what it is; in a worker it would be a broken pool
        with _no_modules_from_here():
            pool = ProcessPoolExecutor(
                min(self._options.jobs, len(tasks)),
                multiprocessing.get_context("spawn"),  # a fork would take locks of other threads along
                _prepare,
                (open_records,),
            )
            try:
                for report in pool.map(_scan, tasks):
                    self._progress(report.size)
                    yield report
            except BrokenProcessPool as error:
                raise UnavailableError("a verifying process was killed", hint="try again with --jobs 1") from error
            finally:
                pool.shutdown(cancel_futures=True)


@contextmanager
def _no_modules_from_here() -> Iterator[None]:
    """Python that is started meanwhile takes no module from the current folder, which may be the archive's.

    `multiprocessing` starts its processes, and one that watches them, with `-c`, and they import before any code of
    ours runs: only the environment reaches them.
    """
    before = os.environ.get(_SAFE_PATH)
    os.environ[_SAFE_PATH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_SAFE_PATH]
        else:
            os.environ[_SAFE_PATH] = before


def _prepare(open_records: OpenRecords | None) -> None:
    global _worker_open  # noqa: PLW0603  a worker's only way to keep what its initializer made
    _worker_open = _worker_stack.enter_context(open_records()) if open_records is not None else None


def _scan(task: Task) -> Report:
    return scan(task, _worker_open)


def _first_seq(path: Path) -> int | None:
    try:
        with opening.opened(path) as file:
            return read_segment_header(file.fileno()).first_seq
    except (IntegrityError, UnreadableError, OSError):
        return None


def _footer_state(path: Path) -> Chain | None:
    try:
        with opening.opened(path) as file:
            found = read_footer(file.fileno(), os.fstat(file.fileno()).st_size)
    except (IntegrityError, UnreadableError, OSError):
        return None
    return Chain.behind(found[0]) if found else None
