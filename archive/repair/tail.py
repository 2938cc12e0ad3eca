"""Find the end of the log after any interruption, and cut off what was never finished.

Rule: only what was never acknowledged is ever cut: the last group, if it is not whole or has no tag. It is kept in
lost+found. If a record of a later group, or a footer, follows a damaged body, that is a finding and the log can still
be written. If it follows a damaged header, or a signed checkpoint covers what is missing, nothing is changed and the
log refuses to be written; so it does if a whole record at the end breaks a rule, which no torn write does, or if a
whole group there has a tag that the archive's key did not make. A medium that cannot be read is neither case: nothing
is known then, and nothing is done.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from coffer.archive.format import segment
from coffer.archive.format.chain import Chain, find_record, is_zero, read_footer, read_record, read_segment_header
from coffer.archive.format.group import GroupEnd
from coffer.archive.format.order import CLOSED
from coffer.archive.format.record import HEADER, Kind, RecordHeader, is_of_another_version, parse_header
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.segment_store import LOG, segment_numbers
from coffer.archive.store.source import Source
from coffer.archive.tree.checkpoint import Checkpoint
from coffer.archive.tree.key_history import read_key_history
from coffer.archive.tree.mark import Mark
from coffer.archive.verify.findings import FindingStore
from coffer.archive.verify.report import Finding
from coffer.archive.verify.seams import FORK, Seams, require_marked, require_signed
from coffer.keys.disk.durable import keep
from coffer.keys.disk.reading import reading
from coffer.keys.disk.syscalls import SYSTEM, Syscalls
from coffer.keys.errors import FormatError, HistoryError, IntegrityError

_PIECE = 1 << 20
_HINT = "run coffer verify; repair it with coffer repair --from a backup or replica"
_REMEDY = "nothing was changed; coffer recover show lists what is missing and the remedies"


@dataclass(slots=True)
class Tail:
    """The end of the log: chain state, the open segment, its record offsets and epoch, the tag of the last group, and
    what recovery cut.

    `cut_records` counts the cut records whose headers were intact; `is_room`: what is cut are only zeros.
    """

    chain: Chain
    segment: int
    offsets: list[int]
    end: int
    epoch: int = 0
    tag: bytes = b""
    group: int = 0
    cut_bytes: int = 0
    cut_records: int = 0
    is_room: bool = False
    is_sealed: bool = False
    damaged: list[Finding] = field(default_factory=list)  # records that were durable and whose body is damaged now


def read_tail(folder: ArchiveFolder, claims: Sequence[Checkpoint] = (), outside: Mark | None = None) -> Tail:
    """Find the end of the log without changing anything, and check the log against what was signed of it.

    `claims` are signed checkpoints, as `signed_claims` returns them, `outside` the mark outside the folder: of what is
    behind that, only the tag of the last group shows that it was written here, because every copy of the archive signs
    checkpoints with the same keys. It reads the ends of all segments, the record
    headers of one segment for each claim, and the last segment. Raises IntegrityError if a record after the damage
    shows that this is not a torn tail; HistoryError if a segment is missing or does not continue the one before it, or
    if the log is shorter than, or differs from, a claim (a rollback or a fork), or was continued in a copy;
    UnreadableError if nothing is known.
    """
    numbers = segment_numbers(folder.segment_store())
    if numbers != list(range(1, len(numbers) + 1)):
        raise HistoryError("a segment is missing from the log", hint=_REMEDY)
    seams = Seams.read(folder, numbers[:-1])
    for claim in claims:
        if 0 < claim.size <= seams.size:
            seams.require(claim)
    chain = Chain.behind(seams.footer(len(seams.ends) - 1)) if seams.ends else Chain.start(folder.archive_id)
    if not numbers:
        tail = Tail(chain, 0, [], 0, is_sealed=True)
    else:
        with reading(f"segment {numbers[-1]}"), folder.segment_store().open(LOG, numbers[-1]) as source:
            tail = Tail(chain, numbers[-1], [], 0, seams.epoch, cut_bytes=source.size)
            _scan(source, tail, claims, seams)
    size, last = tail.chain.tree.size, claims[-1].size if claims else 0
    if size < last:
        raise HistoryError(
            f"the log ends at record {size}, but a signed checkpoint covers {last}",
            hint="an older copy was put back, or records were lost: " + _REMEDY,
        )
    if size > last or (outside is not None and size > outside.size):
        _require_tag(folder, tail, seams, size - min(last, last if outside is None else outside.size), outside)
    if outside is not None:
        require_marked(folder, outside)
    return tail


def _require_tag(folder: ArchiveFolder, tail: Tail, seams: Seams, count: int, outside: Mark | None) -> None:
    """Raise HistoryError unless the archive's key made the tag of the last group, under the lineage of the mark where
    it is behind that. Its head binds all records before."""
    if not tail.offsets:  # the segment was just begun: the last group ends the one before
        tail.group, tail.tag = seams.last_tag()
    end = GroupEnd(folder.archive_id, 0, tail.epoch, tail.group, tail.chain.next_seq, tail.chain.head)
    records = "the newest record was" if count == 1 else f"the newest {count} records were"
    if not read_key_history(folder).vouches(end, tail.tag):
        raise HistoryError(
            f"{records} not written by this archive: the tag of the last group is not its own", hint=FORK
        )
    if outside is not None and outside.is_of_another(end.size, tail.tag):
        raise HistoryError(
            f"{records} written elsewhere: this log was continued in a copy of the archive, which has the same keys",
            hint=FORK,
        )


def signed_claims(
    signed: Checkpoint | None,
    remembered: Checkpoint | None,
    last_in_history: Checkpoint | None = None,
    outside: Checkpoint | None = None,
) -> tuple[Checkpoint, ...]:
    """The checkpoints that the log must match (the latest, the keyring's, the last of the history, and the one that the
    mark outside the folder names): each size once, the newest last.

    A checkpoint is written to the history, then to the keyring, then published: after an interruption each may be one
    ahead of the next. The keyring is never behind, and each of them is at least as far as the mark, which is raised
    after all of them. Raises HistoryError if the keyring is behind, or one of them is behind the mark, or if two of
    them contradict each other."""
    if signed is not None and remembered is not None and remembered.size < signed.size:
        raise HistoryError(
            f"the keyring is older than the log: it remembers {remembered.size} records, and {signed.size} are signed",
            hint="put the newest copy of the keyring back, or see coffer recover show",
        )
    inside = [claim for claim in (signed, remembered, last_in_history) if claim is not None]
    least = min((claim.size for claim in inside), default=0)
    if outside is not None and least < outside.size:
        named = ((signed, "latest checkpoint"), (remembered, "keyring"), (last_in_history, "history of checkpoints"))
        older = [name for claim, name in named if claim is not None and claim.size < outside.size]
        where = "here" if len(older) == len(inside) else f"by the {' and the '.join(older)}"
        raise HistoryError(
            f"{least} records are signed {where}, but the mark outside the folder names {outside.size}",
            hint="an older copy was put back: " + _REMEDY,
        )
    known: list[Checkpoint] = []
    for claim in sorted(inside if outside is None else [*inside, outside], key=lambda c: c.size):
        if not known or known[-1].size != claim.size:
            known.append(claim)
        elif known[-1].root != claim.root:
            raise HistoryError(
                f"signed checkpoint, keyring, history and mark differ about the first {claim.size} records", hint=FORK
            )
    return tuple(known)


def _scan(source: Source, tail: Tail, claims: Sequence[Checkpoint], seams: Seams) -> None:
    """Fill the tail of the last segment, all of whose bytes count as torn so far."""
    number, size = tail.segment, tail.cut_bytes
    try:
        tail.epoch = read_segment_header(source).epoch  # a segment is begun with its whole header, or not at all
    except FormatError as error:
        raise IntegrityError(f"segment {number}: {error}", hint=error.hint() or _REMEDY) from error
    before, least = seams.epoch, seams.epoch + seams.unread
    seams.compare_begin(source, number)
    sealed = _whole_footer(source, size)
    stop = sealed[1] if sealed else size
    doubt = _TailWalk(source, tail, claims).run(segment.HEADER.size, stop)
    behind = _groups_behind(source, tail.end, size, tail.chain.next_seq) if tail.end < stop else []
    # A record of a later group, or a footer, proves that the damaged record was once durable. Of the group that was
    # being written when the power failed, any part may be there, even its last record.
    if tail.end < stop and (sealed is not None or any(group > tail.chain.next_seq for group in behind)):
        raise IntegrityError(
            f"segment {number} is damaged at offset {tail.end}, and records follow the damage", hint=_HINT
        )
    if doubt is not None and (sealed is not None or any(group > doubt.group for group in behind)):
        doubt.accept(tail)
    elif doubt is not None:
        doubt.go_back(tail)
        behind = _groups_behind(source, tail.end, size, tail.chain.next_seq)
    tail.is_sealed = sealed is not None and tail.end == stop
    if tail.is_sealed and sealed and sealed[0] != _footer(tail):
        raise IntegrityError(f"the footer of segment {number} does not describe its records", hint=_HINT)
    tail.cut_bytes = 0 if tail.is_sealed else size - tail.end
    tail.cut_records = len(behind)
    if not tail.offsets and tail.epoch > least:  # stopped before the epoch's first record: it never began
        tail.epoch, tail.end, tail.cut_bytes = before, 0, size
    tail.is_room = bool(tail.cut_bytes) and not behind and is_zero(source, tail.end, size)


def _footer(tail: Tail) -> segment.Footer | None:
    """The footer that belongs behind the records of the last segment; None for a segment without any."""
    chain = tail.chain
    if not tail.offsets:
        return None
    return segment.Footer(tuple(tail.offsets), chain.head, chain.tree.size, chain.tree.edge, chain.order.time_ms)


def _groups_behind(source: Source, at: int, size: int, seq: int) -> list[int]:
    """The group of each record, from `seq` on, with an intact header at or after `at`."""
    groups = []
    following = find_record(source, at, size, seq)
    while following is not None:
        groups.append(parse_header(source.read(following, HEADER.size)).group)
        following = find_record(source, following + 1, size, seq)
    return groups


def _whole_footer(source: Source, size: int) -> tuple[segment.Footer, int] | None:
    """The last segment's footer; one with holes after a crash is cut and written again, like any torn tail."""
    try:
        return read_footer(source, size)
    except FormatError:
        return None


@dataclass(slots=True)
class _Doubt:
    """Records of one group whose bodies do not match their headers, and the end of the log before that group.

    A power cut leaves such records in the group that was being written. If a record of a later group follows, they had
    been durable and were acknowledged: then they stay, and become findings for an administrator.
    """

    group: int
    before: "_GroupStart"
    found: list[Finding]

    def accept(self, tail: Tail) -> None:
        tail.damaged += self.found

    def go_back(self, tail: Tail) -> None:
        self.before.restore(tail)


@dataclass(frozen=True, slots=True)
class _GroupStart:
    """The state of the log where a group begins: what it goes back to if that group is not whole."""

    offset: int
    records: int
    chain: Chain
    tag: bytes
    group: int

    def restore(self, tail: Tail) -> None:
        del tail.offsets[self.records :]
        tail.chain, tail.end, tail.tag, tail.group = self.chain, self.offset, self.tag, self.group


class _TailWalk:
    """Follows the groups of the last segment up to the first one that is not whole."""

    def __init__(self, source: Source, tail: Tail, claims: Sequence[Checkpoint]) -> None:
        self._source = source
        self._tail = tail
        self._claims = claims
        self._signed = claims[-1].size if claims else 0
        self._doubt: _Doubt | None = None
        self._start = self._state(segment.HEADER.size)

    def _state(self, at: int) -> _GroupStart:
        tail = self._tail
        return _GroupStart(at, len(tail.offsets), tail.chain.copy(), tail.tag, tail.group)

    def run(self, at: int, stop: int) -> _Doubt | None:
        """Fill the tail with all groups that have a tag; returns the records that are still in doubt at its end."""
        tail, chain = self._tail, self._tail.chain
        while at < stop:
            try:
                raw, header, tag, end = read_record(self._source, at, stop)
            except FormatError:
                if at + HEADER.size <= stop and is_of_another_version(self._source.read(at, HEADER.size)):
                    raise
                break
            self._require_rules(at, header)
            if self._doubt is not None and header.group > self._doubt.group:
                self._doubt.accept(tail)
                self._doubt = None
            # What a checkpoint covers was synced; of later bytes, a file system may have kept the end but not the
            # middle.
            if header.seq >= self._signed:
                self._check_body(at, header)
            tail.offsets.append(at)
            chain.follow(raw, tag)
            for claim in self._claims:
                require_signed(chain.tree, claim)
            at = end
            if chain.order.group == CLOSED:
                tail.tag, tail.group = tag, header.group
                self._start = self._state(at)
        tail.end = at
        if chain.order.group != CLOSED or at < stop:
            self._leave_open_group()
        return self._doubt

    def _require_rules(self, at: int, header: RecordHeader) -> None:
        """Raise HistoryError for a whole record that cannot stand here: no torn write leaves that, so it is not cut."""
        what = self._tail.chain.complaint(header)
        if what is None and header.kind == Kind.LOG_EPOCH and at > segment.HEADER.size:
            what = f"record {header.seq} begins an epoch of the log inside a segment"
        if what is not None:
            raise HistoryError(
                f"segment {self._tail.segment} is no log of this archive at offset {at}: {what}", hint=FORK
            )

    def _leave_open_group(self) -> None:
        """Go back to the end of the last group that is whole. What is in doubt behind it was never acknowledged."""
        self._start.restore(self._tail)
        if self._doubt is not None and self._doubt.group >= self._tail.chain.next_seq:
            self._doubt = None

    def _check_body(self, at: int, header: RecordHeader) -> None:
        what = _complaint(self._source, at, header)
        if what is None:
            return
        if self._doubt is None:
            self._doubt = _Doubt(header.group, self._start, [])
        self._doubt.found.append(Finding(self._tail.segment, at + HEADER.size, header.seq, what))


def _complaint(source: Source, at: int, header: RecordHeader) -> str | None:
    """What is wrong with a record's body; None if nothing is."""
    digest, offset, left = hashlib.sha256(), at + HEADER.size, header.body_len
    while left:
        piece = source.read(offset, min(left, _PIECE))
        digest.update(piece)
        offset, left = offset + len(piece), left - len(piece)
    return None if digest.digest() == header.body_sha256 else "the body does not match its hash"


def cut(folder: ArchiveFolder, tail: Tail, now_ms: Callable[[], int], calls: Syscalls = SYSTEM) -> None:
    """Copy what follows the last whole group to lost+found, then truncate; durable on return, in that order. A segment
    of which nothing is left stays until the caller begins it anew: it has its whole header at every moment.

    If it holds records, a finding for an administrator is made in between: they were most likely never acknowledged,
    but a disk that damaged the last group after its sync leaves the same picture. Damaged records that stay become
    findings too.
    """
    for finding in tail.damaged:
        FindingStore(folder.scrub, calls).add(finding, now_ms())
    if not tail.cut_bytes:
        return
    if not tail.is_room:
        _keep(folder, tail, now_ms, calls)
    if not tail.end:
        return
    file_end = folder.segment_files.end_of(tail.segment, calls)
    try:
        file_end.truncate(tail.end)
        file_end.sync()
    finally:
        file_end.close()


def kept_name(tail: Tail, torn: bytes) -> str:
    """The name in lost+found of what is cut from the end of a segment."""
    return kept_at(tail.segment, tail.end, torn)


def kept_at(number: int, offset: int, data: bytes) -> str:
    """The name in lost+found of bytes that stood at a place of a segment."""
    return f"{number:08d}-{offset}-{hashlib.sha256(data).hexdigest()[:16]}"


def _keep(folder: ArchiveFolder, tail: Tail, now_ms: Callable[[], int], calls: Syscalls) -> None:
    """Copy what is about to be cut to lost+found."""
    with folder.segment_files.open(tail.segment) as source:
        torn = source.read(tail.end, max(source.size - tail.end, 0))
    kept = keep(folder.lost_and_found / kept_name(tail, torn), torn, calls=calls)
    if tail.cut_records:
        records = "1 record" if tail.cut_records == 1 else f"{tail.cut_records} records"
        what = f"an unfinished group with {records} was cut, and is kept as lost+found/{kept.name}"
        FindingStore(folder.scrub, calls).add(Finding(tail.segment, tail.end, None, what), now_ms(), kept.name)
