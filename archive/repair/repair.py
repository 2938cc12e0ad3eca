"""Repair damaged segments from another copy of the archive, without any key.

Rule: nothing is trusted because it comes from a copy. A segment is assembled from what is intact here and there, and
replaces the damaged one only after the whole log with it yields the root that was signed here. The damaged file stays
in lost+found; a record says what was done.
"""

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import zip_longest
from typing import NamedTuple

from coffer.archive.events.repairs import SegmentRepaired
from coffer.archive.format import segment
from coffer.archive.format.chain import read_footer, read_record, read_segment_header
from coffer.archive.format.record import HEADER
from coffer.archive.repair.deferred_events import DeferredEvent, defer
from coffer.archive.repair.splice import Part, Splice
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.segment_files import SegmentFiles
from coffer.archive.store.segment_store import LOG, SealedSegment, sha256_of
from coffer.archive.store.source import Source
from coffer.archive.tree.checkpoint import Checkpoint, latest_note, open_checkpoint, read_checkpoint, read_note
from coffer.archive.tree.checkpoint_history import last_entry, publish, restore_history
from coffer.archive.tree.key_history import adopt
from coffer.archive.verify.verify import Finding, Options, Verifier, VerifyLevel
from coffer.keys.disk.syscalls import SYSTEM, Syscalls
from coffer.keys.errors import (
    FormatError,
    InputError,
    IntegrityError,
    NotFoundError,
    UnreadableError,
)

_PIECE = 1 << 20
_HEAD, _FOOT = -1, -2  # used in place of a record's number


class _Region(NamedTuple):
    """Bytes [start, stop) of a segment: its header, a record, or its footer."""

    seq: int
    start: int
    stop: int


_Plan = tuple[list[tuple[Source, _Region]], list[int]]  # source and region in order; regions taken from the copy


@dataclass(frozen=True, slots=True)
class RepairedSegment:
    """A segment that was repaired: the records that came from the copy, and the damaged file's new name."""

    segment: int
    records: tuple[int, ...]
    kept: str


@dataclass(slots=True)
class RepairReport:
    """What a repair did: the segments it repaired, whether it restored the signed checkpoint, the history of
    checkpoints and the endorsements of signing keys, and the findings that remain."""

    repaired: list[RepairedSegment] = field(default_factory=list)
    checkpoint: bool = False
    history: bool = False
    endorsements: bool = False
    remaining: list[Finding] = field(default_factory=list)


def repair(
    folder: ArchiveFolder,
    copy: ArchiveFolder,
    *,
    only: Collection[int] = (),
    remembered: Checkpoint | None = None,
    vkey: str = "",
    calls: Syscalls = SYSTEM,
    progress: Callable[[int], None] | None = None,
) -> RepairReport:
    """Find what is damaged, repair what is intact in the copy, and verify again. Call with the writer's lock held.

    `only` names the records to repair; empty means all. `vkey` is a verifier key of the archive that is known from
    outside. Raises InputError if the copy is of another archive,
    NotFoundError if it lacks the segment, IntegrityError if the result is not what was signed; then no segment was
    changed.
    """
    if (copy.archive_id, copy.vkey) != (folder.archive_id, folder.vkey):
        raise InputError("the copy is of another archive", hint="name a backup or replica of this one")
    report = RepairReport()
    with suppress(IntegrityError):  # the verification reports what is wrong here
        report.endorsements = adopt(folder, copy, _signed(folder), vkey, calls)
    report.checkpoint = _restore_checkpoint(folder, copy, remembered, calls)
    report.history = restore_history(folder, copy, calls)
    found = list(Verifier(folder, remembered=remembered, progress=progress).findings())
    numbers = sorted({f.segment for f in found if f.segment})
    doubted = {f.segment for f in found if f.offset <= segment.HEADER.size}  # the number in a header may be altered
    made = [
        one
        for n in numbers
        if (one := _SegmentRepair(folder, copy, n, only, is_doubted=n in doubted).assemble()) is not None
    ]
    if made:
        _require_proved(folder, made, remembered)
        defer(folder, [DeferredEvent(_event(m), f"segment:{m.segment}:{m.kept}") for m, _ in made], calls)
        for repaired, sealed in made:
            folder.segment_store(calls).replace(sealed, repaired.kept)
        report.repaired = [m for m, _ in made]
        found = list(Verifier(folder, remembered=remembered).findings())
    report.remaining = found
    return report


def _signed(folder: ArchiveFolder) -> list[bytes]:
    """The newest notes that the archive has, whoever signed them."""
    found = [latest_note(folder)]
    with suppress(IntegrityError):
        found += [entry[1] for entry in (last_entry(folder),) if entry is not None]
    return found


def _event(repaired: RepairedSegment) -> SegmentRepaired:
    return SegmentRepaired(segment=repaired.segment, taken_records=repaired.records, kept=repaired.kept or None)


def _restore_checkpoint(
    folder: ArchiveFolder, copy: ArchiveFolder, remembered: Checkpoint | None, calls: Syscalls
) -> bool:
    """Replace a latest note that does not verify with the last of the history or the copy's, whichever covers more.

    It is replaced only if the log here is at least as long as that note and has its root.
    """
    with suppress(IntegrityError):
        read_checkpoint(folder)
        return False
    known: list[tuple[Checkpoint, bytes]] = []
    with suppress(IntegrityError):
        known += [entry for entry in (last_entry(folder),) if entry is not None]
    with suppress(UnreadableError, IntegrityError):
        note = read_note(copy)
        known.append((open_checkpoint(note, folder), note))
    last, note = max(known, key=lambda k: k[0].size, default=(None, b""))
    if last is None or (remembered is not None and last.size < remembered.size):
        return False
    found = Verifier(folder, Options(VerifyLevel.HEADERS, beside=False), remembered=last).findings()
    if any(f.what.startswith(("the first ", "the log ends here")) for f in found):
        return False
    publish(folder, note, calls=calls)
    return True


def _require_proved(
    folder: ArchiveFolder, made: Sequence[tuple[RepairedSegment, SealedSegment]], remembered: Checkpoint | None
) -> None:
    """Verify the log with the assembled segments, headers only: bodies were checked against headers when chosen."""
    replacements = {repaired.segment: sealed for repaired, sealed in made}
    verifier = Verifier(folder, Options(VerifyLevel.HEADERS), remembered=remembered, replacements=replacements)
    wrong = [f for f in verifier.findings() if f.segment in replacements or f.what.startswith("the first ")]
    last = max((seq for repaired, _ in made for seq in repaired.records), default=-1)
    if wrong or verifier.summary.signed_records <= last:
        what = f"segment {wrong[0].segment}: {wrong[0].what}" if wrong else "no signed checkpoint covers the records"
        raise IntegrityError(
            f"the repaired log is not what was signed: {what}",
            hint="nothing was changed; name another copy, or repair all records at once",
        )


class _SegmentRepair:
    """The repair of one segment: what is intact here, what is intact in the copy, and the best of both."""

    def __init__(
        self, folder: ArchiveFolder, copy: ArchiveFolder, number: int, only: Collection[int], *, is_doubted: bool
    ) -> None:
        """`is_doubted`: a verification found something about the segment's header, which may be whole all the same."""
        self._is_doubted = is_doubted
        self._folder = folder
        self._number = number
        self._only = only
        self._mine = folder.segment_store()
        self._theirs = copy.segment_store()

    def assemble(self) -> tuple[RepairedSegment, SealedSegment] | None:
        """The repaired segment, read once to hash it; None if nothing would change."""
        with ExitStack() as stack:
            try:
                theirs = stack.enter_context(self._theirs.open(LOG, self._number))
            except (NotFoundError, UnreadableError, IntegrityError) as error:
                raise NotFoundError(
                    f"the copy cannot give segment {self._number}: {error}", hint="name another copy"
                ) from error
            mine = self._opened(stack)
            plan, taken = self._plan(mine, theirs)
            if not taken:
                return None
            kept = ""
            if mine is not None:
                named = f"{SegmentFiles.name(self._number)}-damaged-{sha256_of(mine).hex()[:16]}"
                kept = self._mine.kept_as(LOG, self._number, named)
            ends = [(region.stop, source is theirs) for source, region in plan]
            stops = [end for end, after in zip_longest(ends, ends[1:]) if after is None or end[1] != after[1]]
        repaired = RepairedSegment(self._number, tuple(seq for seq in taken if seq >= 0), kept)
        return repaired, SealedSegment.of(self._number, partial(self._splice, stops))

    def _opened(self, stack: ExitStack) -> Source | None:
        """The segment here; None if there is none."""
        try:
            return stack.enter_context(self._mine.open(LOG, self._number))
        except (NotFoundError, IntegrityError):
            return None

    def _splice(self, stops: Sequence[tuple[int, bool]]) -> Source:
        """The segment up to each stop from the copy, or from here."""
        stores = (self._mine, self._theirs)
        with ExitStack() as stack:  # thousands of segments may be damaged: they are open only while one is read
            sources = {
                is_theirs: stack.enter_context(stores[is_theirs].open(LOG, self._number))
                for is_theirs in {is_theirs for _, is_theirs in stops}
            }
            stack.pop_all()
        return Splice([Part(stop, sources[is_theirs]) for stop, is_theirs in stops])

    def _plan(self, mine: Source | None, theirs: Source) -> _Plan:
        """The file that each region comes from, and the regions that come from the copy."""
        problem = IntegrityError(
            f"neither file of segment {self._number} shows where its records are", hint="name another copy"
        )
        for regions in self._layouts(mine, theirs):
            try:
                return self._choose(regions, mine, theirs)
            except IntegrityError as error:
                problem = error
        raise problem

    def _choose(
        self, regions: list[_Region], mine: Source | None, theirs: Source
    ) -> tuple[list[tuple[Source, _Region]], list[int]]:
        plan: list[tuple[Source, _Region]] = []
        taken: list[int] = []
        for region in regions:
            may_take = not self._only or region.seq in self._only
            if mine is not None and (not may_take or self._is_right(mine, theirs, region)):
                plan.append((mine, region))
                continue
            if not self._is_whole(theirs, region):
                name = {_HEAD: "the header", _FOOT: "the footer"}.get(region.seq, f"record {region.seq}")
                raise IntegrityError(
                    f"{name} of segment {self._number} is damaged here and in the copy", hint="name another copy"
                )
            plan.append((theirs, region))
            taken.append(region.seq)
        return plan, taken

    def _layouts(self, mine: Source | None, theirs: Source) -> Iterator[list[_Region]]:
        """The regions of the segment, as far as each of the two files shows them."""
        own = 0 if mine is None else mine.size
        for source in (source for source in (mine, theirs) if source is not None):
            size = source.size
            try:
                first = read_segment_header(source).first_seq
                sealed = read_footer(source, size)
                if sealed is not None:
                    footer, stop = sealed
                    edges = [*footer.offsets, stop]
                    records = [_Region(first + n, at, edges[n + 1]) for n, at in enumerate(footer.offsets)]
                    yield [_Region(_HEAD, 0, segment.HEADER.size), *records, _Region(_FOOT, stop, size)]
                    continue
                records = _walk(source, _Region(first, 0, segment.HEADER.size), size)
                if mine is not None and source is theirs and own > size:  # the copy is older: only we have the rest
                    records += _walk(mine, _Region(first + len(records), 0, size), own)
                yield [_Region(_HEAD, 0, segment.HEADER.size), *records]
            except (FormatError, UnreadableError):
                continue

    def _is_right(self, mine: Source, theirs: Source, region: _Region) -> bool:
        """Whether a region can stay: it is whole, and no header that is in doubt and that the copy has otherwise."""
        if not self._is_whole(mine, region):
            return False
        if region.seq != _HEAD or not self._is_doubted or not self._is_whole(theirs, region):
            return True
        return read_segment_header(mine) == read_segment_header(theirs)

    def _is_whole(self, source: Source, region: _Region) -> bool:
        try:
            if region.seq == _HEAD:
                header = read_segment_header(source)
                return (header.archive_id, header.number) == (self._folder.archive_id, self._number)
            if region.seq == _FOOT:
                size = source.size
                found = read_footer(source, size)
                return found is not None and (found[1], size) == (region.start, region.stop)
            _, record, _, end = read_record(source, region.start, region.stop)
            return (record.seq, end) == (region.seq, region.stop) and record.body_sha256 == _hash(
                source, region.start + HEADER.size, record.body_len
            )
        except (FormatError, UnreadableError):
            return False


def _walk(source: Source, before: _Region, size: int) -> list[_Region]:
    """The records of an open segment after a region. Raises FormatError at a damaged one."""
    found: list[_Region] = []
    at = before.stop
    while at < size:
        end = read_record(source, at, size).end
        found.append(_Region(before.seq + len(found), at, end))
        at = end
    return found


def _hash(source: Source, at: int, length: int) -> bytes:
    digest = hashlib.sha256()
    while length:
        piece = source.read(at, min(length, _PIECE))
        digest.update(piece)
        at, length = at + len(piece), length - len(piece)
    return digest.digest()
