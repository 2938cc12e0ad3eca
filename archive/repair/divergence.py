"""When log, signed checkpoint and keyring contradict each other: what each of them shows, and the two remedies.

Rule: nothing here happens automatically. An administrator takes the missing records from a copy, or accepts the log as
it is; either way what is set aside stays in lost+found, old checkpoints included, and a record says what was done.
Every step is durable before the next and can be repeated: after an interruption, run the same command again.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from coffer.archive.events.fields import TreeHead
from coffer.archive.events.repairs import LossAccepted, SegmentsTaken
from coffer.archive.format import segment
from coffer.archive.format.chain import Chain, RecordOnDisk, read_record
from coffer.archive.format.epoch import complaint
from coffer.archive.format.group import GroupEnd
from coffer.archive.format.record import NO_TAG, Kind
from coffer.archive.format.segment import SegmentHeader
from coffer.archive.repair.continued import foreign_lineage
from coffer.archive.repair.deferred_events import DeferredEvent, defer
from coffer.archive.repair.tail import Tail, cut, read_tail, signed_claims
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.segment_files import SegmentFiles
from coffer.archive.store.segment_store import LOG, SealedSegment, segment_numbers
from coffer.archive.store.writer_lock import writer
from coffer.archive.tree.checkpoint import Checkpoint, read_checkpoint, read_note
from coffer.archive.tree.checkpoint_history import last_checkpoint, publish, set_aside
from coffer.archive.tree.key_history import KeyHistory, adopt, continue_from, generation_of, read_key_history
from coffer.archive.tree.mark import Mark
from coffer.archive.verify.report import Report, Task, VerifyLevel
from coffer.archive.verify.scan import scan
from coffer.archive.verify.verify import Options, Verifier
from coffer.keys.crypto.signing import CheckpointSigner
from coffer.keys.disk import opening
from coffer.keys.disk.durable import keep, remove_folder
from coffer.keys.disk.syscalls import SYSTEM, Syscalls
from coffer.keys.errors import HistoryError, InputError, IntegrityError

E = TypeVar("E", SegmentsTaken, LossAccepted)


@dataclass(frozen=True, slots=True)
class Divergence:
    """What the log holds up to the first break, what is signed of it, and the contradiction between them (or None).

    `end` is where the intact log ends: segment and byte offset. `left_over` counts the bytes after it, those of later
    segments included. `signed` is the latest checkpoint, `remembered` that of the keyring, `last_in_history` the last
    one of the history of checkpoints, `outside` what the mark outside the folder names.
    """

    size: int
    root: bytes
    end: tuple[int, int]
    left_over: int
    signed: Checkpoint | None
    remembered: Checkpoint | None
    last_in_history: Checkpoint | None
    outside: Checkpoint | None
    complaint: IntegrityError | None

    @property
    def signed_records(self) -> int:
        """The number of records that any signed checkpoint covers, or the mark names."""
        known = (self.signed, self.remembered, self.last_in_history, self.outside)
        return max((c.size for c in known if c is not None), default=0)


def find_divergence(
    folder: ArchiveFolder,
    remembered: Checkpoint | None,
    objection: HistoryError | None = None,
    outside: Mark | None = None,
) -> Divergence:
    """Compare log, checkpoints and keyring without changing anything. Reads the headers of the whole log, no bodies.

    `outside` is the mark outside the folder, `objection` any other contradiction with mark or keyring, used
    if log and checkpoints show none. Raises UnreadableError if the medium cannot be read.
    """
    complaint: IntegrityError | None = objection
    signed = last_in_history = None
    reached = None if outside is None else outside.checkpoint
    try:
        signed = read_checkpoint(folder)
        last_in_history = last_checkpoint(folder)
        read_tail(folder, signed_claims(signed, remembered, last_in_history, reached), outside)
    except IntegrityError as error:
        complaint = error
    known = (signed, remembered, last_in_history, reached)
    witness = _Witness(folder, known, outside)
    chain, end = _longest(folder, witness)
    if (vouched := witness.records()) < chain.next_seq:  # whoever accepts a loss signs what is left
        chain, end = _longest(folder, _Witness(folder, known, outside), vouched)
    sizes = dict(folder.segment_store().segments(LOG))
    beyond = sum(size for number, size in sizes.items() if number > end[0])
    left_over = beyond + (sizes[end[0]] - end[1] if end[0] in sizes and not _is_sealed_at(folder, end) else 0)
    return Divergence(chain.next_seq, chain.tree.root(), end, left_over, *known, complaint)


def accept_loss(
    folder: ArchiveFolder,
    history: Divergence,
    signer: CheckpointSigner,
    remember: Callable[[bytes], None],
    calls: Syscalls = SYSTEM,
) -> None:
    """Continue from the log as it is: set aside what lies beyond its first break, and sign what is left.

    `signer` is the keyring's signing key; `remember` stores the new note in the keyring. Call with the writer's lock
    held. The next opening records the event. Raises HistoryError if the signing key is not one of this archive's.
    """
    generation_of(folder, signer)  # before anything is changed
    made = Checkpoint(folder.origin, history.size, history.root)
    note = signer.sign_note(folder.origin, made.serialize())
    event = _event(LossAccepted, history, made)
    defer(folder, [DeferredEvent.signed(signer, folder, event, f"note:{_digest(note)}")], calls)
    _keep_note(folder, calls)
    number, offset = history.end
    _set_aside_beyond(folder, number, history, calls)
    size = dict(folder.segment_store().segments(LOG)).get(number)
    if history.left_over and size is not None and size > offset and not _is_sealed_at(folder, history.end):
        torn = Tail(Chain.start(folder.archive_id), number, [], offset, cut_bytes=size - offset)
        cut(folder, torn, lambda: 0, calls)  # without a finding: the loss is accepted
    continue_from(folder, signer, made, calls)
    _publish(folder, made, note, remember, calls)


def take_from(
    folder: ArchiveFolder,
    history: Divergence,
    copy: ArchiveFolder,
    signer: CheckpointSigner,
    remember: Callable[[bytes], None],
    *,
    outside: Mark | None = None,
    lineage: bytes = b"",
    calls: Syscalls = SYSTEM,
    progress: Callable[[int], None] | None = None,
) -> list[int]:
    """Take the segments that are missing or different here from a copy, and its checkpoint. Returns their numbers.

    The copy is trusted only as far as it is proved: every byte of it, up to the newest root that was signed here, and
    behind that only what was written under the lineage of the mark `outside`, or under the one that a person named.
    Raises InputError if it is a copy of another archive, covers less than was signed here, or was continued elsewhere,
    IntegrityError if it is damaged.
    """
    if (copy.archive_id, copy.vkey) != (folder.archive_id, folder.vkey):
        raise InputError("the copy is of another archive", hint="name a backup or replica of this one")
    theirs = read_checkpoint(copy)
    if theirs.size < history.signed_records:
        raise InputError(
            f"the copy's checkpoint covers {theirs.size} records, but {history.signed_records} were signed here",
            hint="name a newer copy",
        )
    for claim in _binding(history):
        _require_proved(copy, claim)
    _require_proved(copy, theirs, deep=True, progress=progress)
    named = _named_lineage(foreign_lineage(folder, copy, theirs, _binding(history), outside), lineage)
    theirs_all = segment_numbers(copy.segment_store())
    numbers = [n for n in theirs_all if not _is_same(folder, copy, n)]
    if not numbers and history.complaint is None:
        return []
    note = read_note(copy)
    event = _event(SegmentsTaken, history, theirs, named)
    defer(folder, [DeferredEvent.signed(signer, folder, event, f"note:{_digest(note)}")], calls)
    _keep_note(folder, calls)
    adopt(folder, copy, [note], calls=calls)
    store, given = folder.segment_store(calls), copy.segment_store()
    for number in numbers:
        kept = ""
        if number in segment_numbers(store):
            kept = store.kept_as(LOG, number, f"{SegmentFiles.name(number)}-replaced-{history.size}")
        store.replace(SealedSegment.of(number, partial(given.open, LOG, number)), kept)
    _set_aside_beyond(folder, max(theirs_all, default=0), history, calls)
    _publish(folder, theirs, note, remember, calls)
    return numbers


def _named_lineage(found: bytes | None, lineage: bytes) -> str:
    """What a record is to say of a foreign lineage that a person named. Raises InputError if nobody named it."""
    if found is None:
        return ""
    if found != lineage:
        raise InputError(
            f"the copy was continued elsewhere, under lineage {found.hex()}, which this archive does not know: in a "
            "restore drill, or on another host",
            hint="name a backup or replica of the archive itself, never a drill's folder; if what was written there is "
            f"to be the archive from now on, add --lineage {found.hex()}",
        )
    return f"; the copy was continued under lineage {found.hex()}, which was named"


def _set_aside_beyond(folder: ArchiveFolder, last: int, history: Divergence, calls: Syscalls) -> None:
    """Move the segments after the last one that stays to lost+found."""
    store = folder.segment_store(calls)
    for number in (n for n in segment_numbers(store) if n > last):
        store.set_aside(LOG, number, store.kept_as(LOG, number, f"{SegmentFiles.name(number)}-beyond-{history.size}"))


def _publish(
    folder: ArchiveFolder, made: Checkpoint, note: bytes, remember: Callable[[bytes], None], calls: Syscalls
) -> None:
    """Make `made` the last checkpoint. Entries that it contradicts, and all tiles, are removed first; the next writer
    makes new tiles."""
    set_aside(folder, made.size, calls)
    remove_folder(folder.tiles, calls=calls)
    publish(folder, note, remember, calls)


def _binding(history: Divergence) -> list[Checkpoint]:
    """The checkpoints that a copy must prove. If they contradict each other, the keyring's counts: it was written
    first."""
    signed, remembered = history.signed, history.remembered
    outside = [] if history.outside is None else [history.outside]
    if remembered is None or remembered.size == 0:
        return outside if signed is None else [signed, *outside]
    newer = [] if signed is None or signed.size <= remembered.size else [signed]
    return [remembered, *newer, *outside]


def _event(what: type[E], history: Divergence, made: Checkpoint, named: str = "") -> E:
    return what(
        found=TreeHead(records=history.size, root=history.root.hex()),
        left=_head(made),
        signed=_head(history.signed) if history.signed else None,
        remembered=_head(history.remembered) if history.remembered else None,
        contradiction=_line((str(history.complaint) if history.complaint else "") + named).removeprefix("; "),
    )


def _line(text: str) -> str:
    """A text as an event of a recovery has it: at most 2000 printable characters of ASCII."""
    return opening.shown(text).encode("ascii", "backslashreplace").decode("ascii")[:2000]


def _head(claim: Checkpoint) -> TreeHead:
    return TreeHead(records=claim.size, root=claim.root.hex())


def _digest(note: bytes) -> str:
    return hashlib.sha256(note).hexdigest()


def _keep_note(folder: ArchiveFolder, calls: Syscalls) -> None:
    """Keep the checkpoint that will be contradicted as evidence, under a name derived from its content."""
    try:
        note = read_note(folder)
    except IntegrityError:
        return  # missing, or not a note: it will be replaced
    keep(folder.lost_and_found / f"checkpoint-{_digest(note)[:16]}.note", note, calls=calls)


class _Witness:
    """What vouches for the records of a log, seen record by record: a checkpoint that is true of it, or a checked tag,
    whose head binds all records before. Without readable endorsements every tag counts: then nothing is accepted.

    Behind the mark, only a tag under its lineage counts: any copy of the archive makes other tags, and checkpoints."""

    def __init__(self, folder: ArchiveFolder, known: Sequence[Checkpoint | None], outside: Mark | None) -> None:
        """`known` is what was signed, `outside` the mark outside the folder."""
        self._archive_id = folder.archive_id
        self._outside = outside
        self._claims = {
            claim.size: claim.root
            for claim in known
            if claim is not None and (outside is None or claim.size <= outside.size)
        }
        self._proven = 0
        self._ends: list[tuple[GroupEnd, bytes]] = []  # behind those
        try:
            self._keys: KeyHistory | None = read_key_history(folder)
        except IntegrityError:
            self._keys = None

    def see(self, chain: Chain, epoch: int, record: RecordOnDisk) -> None:
        """Take note of a record that `chain` has just followed."""
        size = chain.next_seq
        if size in self._claims and self._claims[size] == chain.tree.root():
            self._proven = size
            self._ends.clear()
        elif record.tag != NO_TAG and (self._outside is None or not self._outside.is_of_another(size, record.tag)):
            end = GroupEnd(self._archive_id, 0, epoch, record.header.group, size, chain.head)
            self._ends.append((end, record.tag))

    def records(self) -> int:
        """The number of records, from the first one on, that something vouches for."""
        keys = self._keys
        good = (end.size for end, tag in reversed(self._ends) if keys is None or keys.vouches(end, tag))
        return next(good, self._proven)


def _longest(folder: ArchiveFolder, witness: _Witness, most: int | None = None) -> tuple[Chain, tuple[int, int]]:
    """Chain and tree over the longest consistent run of whole groups from the first record on, of at most `most`
    records, and where it ends. The witness sees each record."""
    chain, end, epoch = Chain.start(folder.archive_id), (0, 0), 0
    for number in segment_numbers(folder.segment_store()):
        if number != end[0] + 1:
            break
        first = chain.next_seq
        report = _scan(folder, number)
        if report.header is None or not _follows(folder.archive_id, report, report.header, chain, epoch):
            break
        epoch = report.header.epoch
        followed = chain.copy()
        records = _consistent(report, chain)
        allowed = records if most is None else min(records, most - first)
        whole, offset = _whole_groups(folder, number, followed, allowed, partial(witness.see, followed, epoch))
        if whole < records:
            report = _scan(folder, number, first + whole)
        if whole:
            run = report.runs[0]
            for height, node in run.span.nodes:
                chain.tree.append(node, height)
            chain.next_seq, chain.head, chain.order = run.span.end, run.head, followed.order
        end = (number, offset)
        if report.findings or report.footer is None or chain.next_seq == most:
            break
    return chain, end


def _follows(archive_id: bytes, report: Report, header: SegmentHeader, chain: Chain, epoch: int) -> bool:
    """Whether a segment continues the chain, and the epoch of the log before it."""
    wanted = archive_id, 0, report.number, chain.next_seq, chain.head
    kind = report.begins[0] if report.begins else None
    is_next = (header.archive_id, header.log, header.number, header.first_seq, header.prev_leaf) == wanted
    names_another = kind == Kind.LOG_EPOCH and any(each.offset == segment.HEADER.size for each in report.findings)
    return is_next and not names_another and complaint(epoch, header.epoch, kind) is None


def _consistent(report: Report, chain: Chain) -> int:
    """How many records continue the chain, from the segment's first one on."""
    first = report.runs[0] if report.runs else None
    if first is None or (first.span.begin, first.prev) != (chain.next_seq, chain.head):
        return 0
    return first.span.end - first.span.begin


def _scan(folder: ArchiveFolder, number: int, *cuts: int) -> Report:
    task = Task.of(folder, number, is_last=True, level=VerifyLevel.HEADERS, cuts=cuts)
    return scan(replace(task, is_written=partial(_is_appended_to, folder)))


def _is_appended_to(folder: ArchiveFolder) -> bool:
    """Whether another process may append now. This one may hold the lock, and appends nothing meanwhile."""
    holder = writer(folder.lock)
    return holder is not None and not holder.is_this_process()


def _whole_groups(
    folder: ArchiveFolder, number: int, chain: Chain, records: int, saw: Callable[[RecordOnDisk], None]
) -> tuple[int, int]:
    """How many of the first `records` of a segment lie in groups that end within them and break no rule, and the offset
    behind those. `chain` is followed, and `saw` called for each record."""
    whole = (0, segment.HEADER.size)
    with folder.segment_store().open(LOG, number) as source:
        at, size = segment.HEADER.size, source.size
        for count in range(1, records + 1):
            record = read_record(source, at, size)
            is_inside = record.header.kind == Kind.LOG_EPOCH and at > segment.HEADER.size
            if is_inside or chain.complaint(record.header) is not None:
                break
            chain.follow(record.raw, record.tag)
            saw(record)
            at = record.end
            whole = (count, at) if record.tag != NO_TAG else whole
    return whole


def _is_sealed_at(folder: ArchiveFolder, end: tuple[int, int]) -> bool:
    """Whether the segment's footer follows its last record."""
    report = _scan(folder, end[0])
    return report.footer is not None and report.stop == end[1] and not report.findings


def _require_proved(
    copy: ArchiveFolder, claim: Checkpoint, *, deep: bool = False, progress: Callable[[int], None] | None = None
) -> None:
    level = VerifyLevel.BODIES if deep else VerifyLevel.HEADERS
    options = Options(level, since=None if deep else claim, beside=False)  # tiles are made again anyway
    found = next(Verifier(copy, options, remembered=claim, progress=progress).findings(), None)
    if found is not None:
        raise IntegrityError(
            f"the copy does not prove what was signed: segment {found.segment}, offset {found.offset}: {found.what}",
            hint="repair the copy, or name another one",
        )


def _is_same(folder: ArchiveFolder, copy: ArchiveFolder, number: int) -> bool:
    """Whether both have the same segment: headers and chain, compared by their subtrees."""
    mine, theirs = _scan(folder, number), _scan(copy, number)
    if mine.findings or (mine.size, mine.header) != (theirs.size, theirs.header):
        return False
    return [(r.prev, r.head, r.span) for r in mine.runs] == [(r.prev, r.head, r.span) for r in theirs.runs]
