"""Check one segment by itself: every byte of it, but not its position in the chain.

Rule: it needs nothing from earlier segments, so segments can be checked in any order and process;
`archive.verify.verify` joins the reports. Records are checked in batches; if a batch fails, each of its records is
examined to find what is wrong.
"""

import hashlib
import time
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise

from coffer.archive.format import headers, segment
from coffer.archive.format.chain import (
    Chain,
    find_record,
    is_zero,
    read_epoch,
    read_footer,
    read_record,
    read_segment_header,
)
from coffer.archive.format.group import GroupEnd
from coffer.archive.format.merkle import Frontier, leaf_hash
from coffer.archive.format.order import UNKNOWN, Order
from coffer.archive.format.record import HEADER, NO_TAG, Kind, RecordHeader, parse_header
from coffer.archive.format.segment import Footer
from coffer.archive.format.walk import Walker
from coffer.archive.store.source import Source
from coffer.archive.tree.subtree_range import Span
from coffer.archive.verify.join import MISPLACED
from coffer.archive.verify.report import (
    Finding,
    OpenRecord,
    Report,
    Run,
    Task,
    VerifyLevel,
)
from coffer.keys.disk import opening
from coffer.keys.errors import (
    FormatError,
    IntegrityError,
    KeyUnavailableError,
    NotFoundError,
    ShreddedError,
    SupersededError,
    UnavailableError,
    UnreadableError,
)

_PIECE = 1 << 20
_LIVE_TRIES = 20  # 0.1 s apart: a live writer finishes a group of records well within them


def scan(
    task: Task,
    open_record: OpenRecord | None = None,
    progress: Callable[[int], None] | None = None,
    on_finding: Callable[[Finding], None] | None = None,
) -> Report:
    """Check one segment. Whatever is on the medium, unreadable sectors included, is a finding and raises nothing.

    `progress` is called with the number of bytes done since its last call, `on_finding` with each finding as it is
    made; an exception from either ends the scan.
    """
    on_finding = on_finding or (lambda _: None)
    opening.distrust(task.folder)  # this may be a worker process
    try:
        opened = task.open()
    except (IntegrityError, NotFoundError, UnavailableError) as error:
        unreadable = Finding(task.number, 0, None, f"the segment cannot be opened: {error}")
        on_finding(unreadable)
        return Report(task.number, findings=[unreadable])
    with opened as source:
        return _Scan(source, task, open_record, progress or (lambda _: None), on_finding).run()


class _Scan:
    def __init__(
        self,
        source: Source,
        task: Task,
        open_record: OpenRecord | None,
        progress: Callable[[int], None],
        on_finding: Callable[[Finding], None],
    ) -> None:
        self._source = source
        self._on_finding = on_finding
        self._task = task
        self._open_record = open_record
        self._progress = progress
        self._offsets = array("Q")
        self._next_seq: int | None = None
        self._head = b""
        self._order = Order()  # a group never spans two segments
        self._listed: Sequence[int] = ()  # the footer's offsets
        self._tries: int | None = None  # how often a writer was waited for; None where none can be
        self._stop = source.size
        self._walker = Walker(source, bodies=task.level >= VerifyLevel.BODIES, batch_bytes=task.batch_bytes)
        self.report = Report(task.number, self._stop)

    def run(self) -> Report:
        """Check everything, once."""
        self._forget(0, 0)
        self._read_header()
        self._read_footer()
        self._progress(segment.HEADER.size)
        self._records()
        report = self.report
        report.stop = self._stop
        self._progress(max(report.size - self._stop, 0))
        if report.footer is not None and self._contradicts(report.footer):
            self._found(self._stop, None, "the footer does not describe this segment's records")
        return report

    def _contradicts(self, footer: Footer) -> bool:
        is_later = self._order.time_ms not in (UNKNOWN, footer.time_ms)
        return is_later or self._order.group >= 0 or list(self._listed) != self._offsets.tolist()

    def _found(self, offset: int, seq: int | None, what: str) -> None:
        finding = Finding(self._task.number, offset, seq, what)
        self._on_finding(finding)
        self.report.findings.append(finding)

    def _read_header(self) -> None:
        try:
            header = read_segment_header(self._source)
        except (FormatError, UnreadableError) as error:
            self._found(0, None, str(error))
            return
        if (header.archive_id, header.log, header.number) != (self._task.archive_id, 0, self._task.number):
            self._found(0, None, MISPLACED)
        self.report.header = header
        self._next_seq, self._head = header.first_seq, header.prev_leaf

    def _read_footer(self) -> None:
        complaint = "the segment has no valid footer"
        try:
            found = read_footer(self._source, self._stop)
            if found is not None:
                footer, self._stop = found
                self._listed = footer.offsets
                self.report.footer = Footer((), footer.head, footer.tree_size, footer.edge, footer.time_ms)
                return
            if self._task.is_last:
                self._tries = 0
                return
        except (FormatError, UnreadableError) as error:
            complaint = str(error)
        self._found(self._stop, None, complaint)

    def _records(self) -> None:
        at, careful_until = segment.HEADER.size, 0
        while at < self._stop or self._is_unfinished():
            before = at
            if at >= careful_until and self._next_seq is not None and self._head:
                at, careful_until = self._quickly(at, self._next_seq)
            if at == before:
                following = self._carefully(at)
                if following is None:
                    return
                at = following
            self._forget(before, at - before)
            self._progress(at - before)

    def _is_unfinished(self) -> bool:
        """Whether the last group lacks its end, and a writer has written more of it meanwhile."""
        return self._order.group >= 0 and self._may_grow()

    def _forget(self, start: int, length: int) -> None:
        """Drop these bytes (length 0: all) from the page cache, so that they are read from the medium."""
        if self._task.is_cold:
            self._source.forget(start, length)

    def _quickly(self, at: int, first_seq: int) -> tuple[int, int]:
        """Accept a batch if all of it is valid. Returns where to continue, and the end of what to check closely."""
        try:
            batch, digests = self._walker.batch(
                at, self._stop, lambda place, start: self._is_wanted(first_seq + place, start)
            )
        except UnreadableError:
            return at, at + 1
        leaves = headers.check(batch, first_seq, self._head, self._order, digests) if batch.raws else None
        if leaves is None or self._is_epoch_inside(at, batch.raws[0]):
            return at, max(batch.end, at + 1)
        read = [d is not None for d in digests]
        counts = self.report.counts
        counts.bodies += sum(read)
        for raw, offset, was_read in zip(batch.raws, batch.offsets, read, strict=False):
            if was_read:
                counts.bytes += int.from_bytes(raw[44:52], "big")
                self._open(offset, raw)
        self._begin(at, batch.raws[0])
        self._take(batch.raws, leaves, [closing[8:88] for closing in batch.trailers])
        self._offsets.extend(batch.offsets)
        return batch.end, 0

    @staticmethod
    def _is_epoch_inside(at: int, raw: bytes) -> bool:
        """Whether an epoch of the log begins inside the segment, where none may."""
        return at != segment.HEADER.size and int.from_bytes(raw[6:8], "big") == Kind.LOG_EPOCH

    def _carefully(self, at: int) -> int | None:
        """Examine one record and report what is wrong. Returns where the next one may begin, None at the end."""
        try:
            raw, header, tag, end = read_record(self._source, at, self._stop)
        except (FormatError, UnreadableError) as error:
            following = self._next_record(at)
            # A writer is in the middle of this record, or finished it a moment ago and exited.
            if following is None and self._may_grow():
                return at
            if following is None and self._tries is not None and self._is_room(at):
                self._stop = at
                return None
            self._found(at, self._next_seq, str(error))
            if self._place(at) < self._place(at + 1):
                self._offsets.append(at)  # the footer lists it correctly, so the footer is not wrong
            if self._next_seq is not None:
                self._next_seq, self._head = self._next_seq + 1, b""  # the hash that the next one chains to is unknown
            self._order = Order(group=UNKNOWN)
            return following
        if self._next_seq is None:
            self._next_seq = header.seq
        self._head = self._head or header.prev_leaf
        complaint = Chain(self._next_seq, self._head, Frontier(), self._order).complaint(header)
        if complaint is None and self._is_epoch_inside(at, raw):
            complaint = "an epoch of the log begins inside a segment"
        if complaint is not None:
            self._found(at, header.seq, complaint)
            self._next_seq, self._head = header.seq, header.prev_leaf
        if self._task.level >= VerifyLevel.BODIES and self._is_wanted(header.seq, at):
            self._body(at, raw, header)
        self._begin(at, raw)
        self._take([raw], [leaf_hash(raw)], [tag])
        self._offsets.append(at)
        return end

    def _begin(self, at: int, raw: bytes) -> None:
        """Keep what the first record says of the epoch, which its segment's header must say too."""
        if at != segment.HEADER.size:
            return
        first, header = parse_header(raw), self.report.header
        self.report.begins = first.kind, first.time_ms
        if first.kind != Kind.LOG_EPOCH:
            return
        try:
            stated = read_epoch(self._source, first)
        except (FormatError, UnreadableError) as error:
            found = Finding(self._task.number, at + HEADER.size, first.seq, str(error))
            if found not in self.report.findings:  # the check of all bodies may have been before
                self._found(found.offset, found.seq, found.what)
            return
        if header is not None and stated != header.epoch:
            what = f"the record begins epoch {stated} of the log, and its segment's header names {header.epoch}"
            self._found(at, first.seq, what)

    def _take(self, raws: list[bytes], leaves: list[bytes], tags: list[bytes]) -> None:
        """Add valid records to the runs; a run ends at each cut, so that the tree is known there."""
        assert self._next_seq is not None
        self._order.follow(raws[-1], tags[-1])
        self._remember_tag(raws, leaves, tags)
        first, last = self._next_seq, self._next_seq + len(raws)
        cuts = self._task.cuts
        edges = [first, *cuts[bisect_right(cuts, first) : bisect_left(cuts, last)], last]
        for start, end in pairwise(edges):
            runs = self.report.runs
            if not runs or (runs[-1].span.end, runs[-1].head) != (start, self._head) or _is_in(cuts, start):
                runs.append(Run(self._head, self._head, Span.at(start)))
            runs[-1].span.extend(leaves[start - first : end - first])
            runs[-1].head = self._head = leaves[end - first - 1]
        self._next_seq = last
        self.report.counts.records += len(raws)
        if self._task.level is VerifyLevel.DECRYPT:
            for raw, kind in zip(raws, headers.kinds(raws), strict=True):
                if kind == Kind.SHRED_SCHEDULED:
                    self.report.shredded.add(raw[24:40])
                elif kind == Kind.STUDY_REKEYED:
                    self.report.superseded.add(raw[24:40])

    def _remember_tag(self, raws: list[bytes], leaves: list[bytes], tags: list[bytes]) -> None:
        """Keep the last end of a group among these records; `archive.verify.verify` checks the newest one's tag."""
        last = next((at for at in range(len(tags) - 1, -1, -1) if tags[at] != NO_TAG), None)
        header = self.report.header
        if last is None or header is None:
            return
        seq, group = int.from_bytes(raws[last][8:16], "big"), int.from_bytes(raws[last][148:156], "big")
        end = GroupEnd(header.archive_id, header.log, header.epoch, group, seq + 1, leaves[last])
        self.report.tagged = end, tags[last]

    def _is_room(self, at: int) -> bool:
        """Whether only zeros follow: room that a writer had made for its next records."""
        try:
            return is_zero(self._source, at, self._stop)
        except (FormatError, UnreadableError):
            return False

    def _is_wanted(self, seq: int, at: int) -> bool:
        """Whether to read this record's body: the same answer in any process, at any time."""
        task = self._task
        if at < task.from_offset:
            return False
        if task.sample >= 1.0 or seq < task.from_seq:
            return seq >= task.from_seq
        drawn = hashlib.blake2b(b"%d/%d" % (task.seed, seq), digest_size=8).digest()
        return int.from_bytes(drawn, "big") < task.sample * (1 << 64)

    def _body(self, at: int, raw: bytes, header: RecordHeader) -> None:
        counts, digest = self.report.counts, hashlib.sha256()
        counts.bodies += 1
        offset, left = at + HEADER.size, header.body_len
        try:
            while left:
                piece = self._source.read(offset, min(left, _PIECE))
                digest.update(piece)
                offset, left = offset + len(piece), left - len(piece)
                counts.bytes += len(piece)
        except (FormatError, UnreadableError) as error:  # FormatError: it was cut since its trailer was read
            self._found(offset, header.seq, f"the body cannot be read: {error}")
            return
        if digest.digest() != header.body_sha256:
            self._found(at + HEADER.size, header.seq, "the body does not match its hash")
        else:
            self._open(at, raw)

    def _open(self, at: int, raw: bytes) -> None:
        if self._task.level < VerifyLevel.DECRYPT or self._open_record is None:
            return
        header = parse_header(raw)
        body = at + HEADER.size
        try:
            told = self._open_record(header, lambda offset, length: self._source.read(body + offset, length))
            self.report.counts.opened += 1
            self.report.told += told
            return
        except (ShreddedError, KeyUnavailableError) as error:
            self.report.unopened.setdefault(header.study_key_id, []).append(header.seq)
            if isinstance(error, ShreddedError) and not isinstance(error, SupersededError):
                self.report.shredded.add(header.study_key_id)
        except UnreadableError as error:
            self._found(body, header.seq, f"the body cannot be read: {error}")
        except IntegrityError as error:
            self._found(body, header.seq, f"the body does not open: {error}")
        if header.kind == Kind.OBJECT:
            self.report.lost.append(header.time_ms)

    def _next_record(self, at: int) -> int | None:
        """Where the next record begins: from the footer if there is one, else by searching."""
        place = self._place(at + 1)
        if place < len(self._listed):
            return self._listed[place]
        try:
            return find_record(self._source, at + 1, self._stop, self._next_seq or 0)
        except UnreadableError:
            return None

    def _place(self, at: int) -> int:
        """The number of records that the footer lists before `at`."""
        return bisect_left(self._listed, at)

    def _may_grow(self) -> bool:
        """Whether a writer is, or was, appending here; if so, wait a moment for its next group."""
        if self._tries is None or self._tries >= _LIVE_TRIES:
            return False
        if self._source.size == self._stop and not self._task.is_written():
            return False
        time.sleep(0.1)
        self._tries, self._stop = self._tries + 1, _end_of_records(self._source)
        return True


def _is_in(ascending: Sequence[int], wanted: int) -> bool:
    place = bisect_left(ascending, wanted)
    return place < len(ascending) and ascending[place] == wanted


def _end_of_records(source: Source) -> int:
    """Where the records of a growing segment end: its size, or its footer once the writer has filled it."""
    size = source.size
    try:
        sealed = read_footer(source, size)
    except (FormatError, UnreadableError):
        return size
    return sealed[1] if sealed else size
