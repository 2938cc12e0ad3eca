"""Check the log without any key: every byte of every segment, the chain, the tree and what was signed of it.

Rule: it reports every finding and never stops at the first, changes nothing and needs no lock. Segments are checked
independently (`archive.verify.scan`), in several processes if wanted, and joined in order (`archive.verify.join`).
"""

import multiprocessing
import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

from coffer.archive.format.chain import Chain, read_footer, read_segment_header
from coffer.archive.format.group import GroupEnd
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.segment_store import LOG, SealedSegment
from coffer.archive.store.source import Source
from coffer.archive.tree.checkpoint import Checkpoint, endorsed_checkpoints, read_checkpoint
from coffer.archive.tree.checkpoint_history import last_checkpoint
from coffer.archive.tree.key_history import read_key_history
from coffer.archive.tree.mark import Mark
from coffer.archive.verify.join import Claim, JoinedLog
from coffer.archive.verify.report import (
    Comparison,
    Counts,
    Finding,
    OpenRecord,
    Report,
    Task,
    VerifyLevel,
    gaps,
    missing,
)
from coffer.archive.verify.scan import scan
from coffer.archive.verify.tile_check import check, history
from coffer.keys.errors import InputError, IntegrityError, NotFoundError, UnavailableError, UnreadableError

__all__ = ["Finding", "OpenRecords", "Options", "Verifier", "VerifyLevel", "VerifySummary"]

OpenRecords = Callable[[], AbstractContextManager[OpenRecord]]  # called in each process; for jobs > 1 it must pickle
_SAFE_PATH: Final = "PYTHONSAFEPATH"  # as python -P
_worker_stack = ExitStack()  # closed when a worker process ends: what it opened is needed until then
_worker_open: OpenRecord | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """How to verify.

    `since`: check only what follows this many records, or this checkpoint, whose root is then checked too. `sample`:
    the share of bodies that is read, chosen by `seed`; headers, chain and tree are always checked in full. `jobs`: the
    number of processes that share the segments; with `threads` they are threads of this process, which begin at once
    and share one interpreter: for bodies that are large. Without `beside`, what lies beside the log (tiles and the
    history of checkpoints) is not checked. Without `tiles`, as where there are none, the history is compared while the
    log is read, and not after it.
    """

    level: VerifyLevel = VerifyLevel.BODIES
    since: Checkpoint | int | None = None
    sample: float = 1.0
    seed: int = 0
    jobs: int = 1
    threads: bool = False
    beside: bool = True
    tiles: bool = True


@dataclass(slots=True)
class VerifySummary:
    """What a verification has read so far. `shredded` counts records whose key was destroyed on purpose; `superseded`
    those whose objects were, by the log, sealed again under another key. `tagged_records`: how many the newest
    checkpoint or, behind it, the tag of the newest group covers.
    """

    segments: int = 0
    records: int = 0
    bodies: int = 0
    bytes: int = 0
    opened: int = 0
    shredded: int = 0
    superseded: int = 0
    signed_records: int = 0
    tagged_records: int = 0
    first_record: int = 0

    def add(self, counts: Counts) -> None:
        """Add the counts of one segment."""
        self.segments += 1
        self.records += counts.records
        self.bodies += counts.bodies
        self.bytes += counts.bytes
        self.opened += counts.opened


class Verifier:
    """One verification."""

    def __init__(
        self,
        folder: ArchiveFolder,
        options: Options = Options(),
        *,
        open_records: OpenRecords | None = None,
        remembered: Checkpoint | None = None,
        outside: Mark | None = None,
        outside_now: Callable[[], Mark | None] | None = None,
        comparison: Comparison | None = None,
        replacements: Mapping[int, SealedSegment] | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """`remembered` is the last signed checkpoint that the keyring remembers, if a keyring is available, `outside`
        the mark outside the folder, if the archive must have come as far; `outside_now` reads it again, because a
        writer that opens meanwhile raises it. `progress` is called with numbers of bytes that add up to the whole log.
        VerifyLevel.DECRYPT needs `open_records`, and gives what that returns to `comparison`, unless only a share of
        the bodies is read.

        `replacements` are read in place of segments, to verify the log as it would be with them.
        """
        if options.level is VerifyLevel.DECRYPT and open_records is None:
            raise InputError("decrypting needs keys")
        if options.level is VerifyLevel.DECRYPT and options.threads:
            raise InputError("decrypting is shared by processes")
        self._folder = folder
        self._options = options
        self._open_records = open_records
        self._comparison = comparison if options.sample >= 1 else None
        self._remembered = remembered
        self._outside = outside
        self._outside_now = outside_now or (lambda: outside)
        self._replacements = replacements or {}
        self._progress = progress or (lambda _: None)
        self.summary = VerifySummary()

    def findings(self) -> Iterator[Finding]:
        """Verify everything and yield each finding as it is made. Iterate once.

        Raises InputError if `since` is more than is signed, UnavailableError if a process was killed.
        """
        complaint = self._folder.complaint()
        if complaint is not None:
            yield Finding(0, 0, None, complaint)
        claims: list[Claim] = []
        signed = yield from self._claims(claims)
        self.summary.signed_records = max((c.size for c in claims), default=0)
        sizes = dict(self._folder.segment_store().segments(LOG))
        numbers = sorted({*sizes, *self._replacements})
        for first, last in gaps(numbers):
            yield missing(first, last)
        chain, begin = self._start(numbers)
        self.summary.first_record = chain.next_seq
        joined = JoinedLog(chain, claims, epoch=0 if numbers[begin : begin + 1] == [1] else None, mark=self._outside)
        yield from joined.compare(numbers[begin] if numbers else 0)
        for number in numbers[:begin]:
            self._progress(sizes.get(number, 0))
        tagged = None
        for report in self._reports(numbers[begin:], claims):
            self.summary.add(report.counts)
            tagged = report.tagged or tagged
            yield from report.findings
            yield from joined.add(report)
            if self._comparison is not None:
                self._comparison.add(report.told, report.lost)
        yield from joined.finish(numbers[-1] if numbers else 0)
        yield from self._untagged(tagged, joined.chain.next_seq, numbers[-1] if numbers else 0)
        if self._comparison is not None:
            yield from self._comparison.findings(is_whole=not self._since())
        if self._options.beside and self._options.tiles and not self._replacements:
            yield from check(self._folder, signed, self._since())
        gone, moved = joined.shredded, joined.superseded - joined.shredded
        self.summary.shredded = sum(joined.waiting[key] for key in joined.unopened if key in gone)
        self.summary.superseded = sum(joined.waiting[key] for key in joined.unopened if key in moved)

    def _untagged(self, tagged: tuple[GroupEnd, bytes] | None, size: int, last: int) -> Iterator[Finding]:
        """Whether the archive's key made the tag of the newest group, which vouches for what no checkpoint covers."""
        signed, mark = self.summary.signed_records, self._outside
        covered = signed
        needed = signed if mark is None else min(signed, mark.size)
        is_tagged = tagged is not None and tagged[0].size > needed and self._vouches(*tagged)
        if tagged is not None and is_tagged:
            covered = max(signed, tagged[0].size)
        self.summary.tagged_records = covered
        if mark is not None and is_tagged and tagged is not None and not self._is_ours(mark, *tagged):
            what = f"{_from_here(size - mark.size)}: written in a copy of the archive, and not behind the mark outside"
            yield Finding(last, 0, mark.size, what)
        elif size > covered:
            what = f"{_from_here(size - covered)}: neither a checkpoint nor a tag covers them"
            yield Finding(last, 0, covered, what)
        elif mark is not None and size > mark.size and not is_tagged:
            what = f"{_from_here(size - mark.size)}: the tag of the last group does not hold, and the mark names fewer"
            yield Finding(last, 0, mark.size, what)

    def _is_ours(self, mark: Mark, end: GroupEnd, tag: bytes) -> bool:
        """Whether the last tag is of the lineage of the mark, or of the one that it has by now. A writer that opened
        since has signed, and marked, whatever it found: then the next verification compares that."""
        if not mark.is_of_another(end.size, tag):
            return True
        now = self._outside_now()
        return now is not None and now != mark and not now.is_of_another(end.size, tag)

    def _vouches(self, end: GroupEnd, tag: bytes) -> bool:
        try:
            return read_key_history(self._folder).vouches(end, tag)
        except IntegrityError:
            return False  # `_claims` reports it

    def _since(self) -> int:
        since = self._options.since
        return since.size if isinstance(since, Checkpoint) else since or 0

    def _claims(self, claims: list[Claim]) -> Generator[Finding, None, Checkpoint | None]:
        """Fill `claims` and return the last signed checkpoint."""
        since = self._options.since
        try:
            signed = read_checkpoint(self._folder)
        except IntegrityError as error:
            yield Finding(0, 0, None, f"the signed checkpoint: {error}")
            signed = None
        last, newest = None, None
        with suppress(IntegrityError):  # `check` reports it
            last = last_checkpoint(self._folder) if self._options.beside else None
        yield from self._cut_history(last)
        if signed is not None and self._outside is not None and signed.size < self._outside.size:
            what = (
                f"the latest checkpoint covers {signed.size} records, and the mark outside names {self._outside.size}"
            )
            yield Finding(0, 0, None, what)
        try:
            newest = max(endorsed_checkpoints(read_key_history(self._folder)), key=lambda made: made.size, default=None)
        except IntegrityError as error:
            yield Finding(0, 0, None, f"the signing keys: {error}")
        for checkpoint, by in (
            (signed, "a signed checkpoint"),
            (newest, "the endorsement of a signing key"),
            (last, "a signed checkpoint of the history"),
            (self._remembered, "the checkpoint that the keyring remembers"),
            (None if self._outside is None else self._outside.checkpoint, "the mark outside the folder"),
            (since if isinstance(since, Checkpoint) else None, "the given checkpoint"),
        ):
            if checkpoint is not None and not any(
                (c.size, c.root) == (checkpoint.size, checkpoint.root) for c in claims
            ):
                claims.append(Claim(checkpoint.size, checkpoint.root, by))
        if self._options.beside and not self._options.tiles:
            yield from self._history(claims, signed)
        return signed

    def _history(self, claims: list[Claim], signed: Checkpoint | None) -> Iterator[Finding]:
        """Claim every checkpoint that was ever signed, so that the log is compared with each of them as it is read."""
        made: list[Checkpoint] = []
        yield from history(self._folder, signed, self._since(), made)
        with suppress(IntegrityError):  # `_claims` reports it
            made += endorsed_checkpoints(read_key_history(self._folder))
        known = {(claim.size, claim.root) for claim in claims}
        claims += [Claim(*each) for each in dict.fromkeys((c.size, c.root) for c in made) if each not in known]

    def _cut_history(self, last: Checkpoint | None) -> Iterator[Finding]:
        """A checkpoint enters the history before the keyring and the mark: if they know a newer one, it was removed."""
        for known, by in ((self._remembered, "the keyring remembers"), (self._outside, "the mark outside names")):
            if last is not None and known is not None and known.size > last.size:
                what = f"the history of checkpoints ends at {last.size} records, and {by} a checkpoint of {known.size}"
                yield Finding(0, 0, None, what)

    def _start(self, numbers: Sequence[int]) -> tuple[Chain, int]:
        """The chain before the first segment to check, and the index of that segment in `numbers`."""
        since, size = self._options.since, self._since()
        if isinstance(since, int) and since > self.summary.signed_records:
            raise InputError(
                f"no checkpoint covers {since} records: nothing proves where they end",
                hint=f"the last one covers {self.summary.signed_records}; start there, or give a signed checkpoint",
            )
        for place in range(len(numbers) - 1, 0, -1) if size else ():
            first = _first_seq(partial(self._opened, numbers[place]))
            if first is not None and first <= size:
                before = _footer_state(partial(self._opened, numbers[place - 1]))
                if before is not None and before.next_seq == first:
                    return before, place
        return Chain.start(self._folder.archive_id), 0

    def _opened(self, number: int) -> Source:
        replacement = self._replacements.get(number)
        return self._folder.segment_store().open(LOG, number) if replacement is None else replacement.open()

    def _reports(self, numbers: Sequence[int], claims: Sequence[Claim]) -> Iterator[Report]:
        options = self._options
        task = partial(
            Task.of,
            self._folder,
            level=options.level,
            cuts=tuple(sorted({c.size for c in claims})),
            from_seq=self._since(),
            sample=options.sample,
            seed=options.seed,
        )
        tasks = [task(n, self._replacements.get(n), is_last=n == numbers[-1]) for n in numbers]
        if min(options.jobs, len(tasks)) > 1:
            yield from self._in_threads(tasks) if options.threads else self._shared(tasks)
            return
        with ExitStack() as stack:
            opened = None
            if options.level is VerifyLevel.DECRYPT and self._open_records is not None:
                opened = stack.enter_context(self._open_records())
            for one in tasks:
                yield scan(one, opened, self._progress)

    def _in_threads(self, tasks: Sequence[Task]) -> Iterator[Report]:
        pool = ThreadPoolExecutor(self._options.jobs, "coffer-verify")
        try:
            for report in pool.map(scan, tasks):
                self._progress(report.size)
                yield report
        finally:
            pool.shutdown(cancel_futures=True)

    def _shared(self, tasks: Sequence[Task]) -> Iterator[Report]:
        open_records = self._open_records if self._options.level is VerifyLevel.DECRYPT else None
        if open_records is not None:
            with open_records():
                pass  # here a key that does not open raises its own error; in a worker it would be a broken pool
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
    """Python processes started in this block import no module from the current folder, which may be an archive's.

    `multiprocessing` starts its processes, and the one that tracks their resources, with `-c`, and they import modules
    before any code of ours runs: only the environment reaches them.
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


def _from_here(count: int) -> str:
    return f"{count} record{'s' * (count > 1)} from here on"


def _prepare(open_records: OpenRecords | None) -> None:
    global _worker_open  # noqa: PLW0603  the only way for a worker to keep what its initializer made
    _worker_open = _worker_stack.enter_context(open_records()) if open_records is not None else None


def _scan(task: Task) -> Report:
    return scan(task, _worker_open)


def _first_seq(opened: Callable[[], Source]) -> int | None:
    try:
        with opened() as source:
            return read_segment_header(source).first_seq
    except (IntegrityError, NotFoundError, UnreadableError):
        return None


def _footer_state(opened: Callable[[], Source]) -> Chain | None:
    try:
        with opened() as source:
            found = read_footer(source, source.size)
    except (IntegrityError, NotFoundError, UnreadableError):
        return None
    return Chain.behind(found[0]) if found else None
