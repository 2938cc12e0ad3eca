"""When log, signed checkpoint and keyring tell different histories: what each says, and the two ways out.

Rule: nothing here happens by itself. An administrator takes the missing records from a copy, or accepts the log as it
is; either way what is put aside stays in lost+found, old checkpoints included, and a record says what was done. Every
step is durable before the next, and all of them can be repeated: after a stop, the same command goes on.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from coffer.archive.format import segment
from coffer.archive.format.chain import Chain, read_record
from coffer.archive.repair.deferred_events import LOSS_ACCEPTED, TAKEN, Pending, announce
from coffer.archive.repair.tail import Tail, cut, promised, read_tail
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.checkpoint import Checkpoint, read_checkpoint, read_note
from coffer.archive.tree.checkpoint_history import last_checkpoint, publish, set_aside
from coffer.archive.tree.key_history import adopt, generation_of, go_on_from
from coffer.archive.verify.report import Level, Report, Task
from coffer.archive.verify.scan import scan
from coffer.archive.verify.verify import Options, Verifier
from coffer.keys.crypto.signing import CheckpointSigner
from coffer.keys.disk import opening
from coffer.keys.disk.durable import install, move, remove_folder, replace, stage
from coffer.keys.disk.syscalls import SYSTEM, Syscalls
from coffer.keys.errors import HistoryError, InputError, IntegrityError

_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class History:
    """What the log holds up to the first break, what is signed of it, and why the two do not go together (or None).

    `noted` is the end of the history of checkpoints. `end` is where the log breaks off: segment and byte offset.
    `left_over` are bytes and segment files beyond it.
    """

    size: int
    root: bytes
    end: tuple[int, int]
    left_over: int
    signed: Checkpoint | None
    witness: Checkpoint | None
    noted: Checkpoint | None
    complaint: IntegrityError | None

    @property
    def promised(self) -> int:
        """How many records somebody was told of under a signature."""
        return max((c.size for c in (self.signed, self.witness, self.noted) if c is not None), default=0)


def read_history(folder: ArchiveFolder, witness: Checkpoint | None, objection: HistoryError | None = None) -> History:
    """Compare, changing nothing. Headers of the whole log are read; bodies are not.

    `objection` is what else speaks against the keyring, where log and checkpoints do not. Raises UnreadableError where
    the medium does not say.
    """
    complaint: IntegrityError | None = objection
    signed = noted = None
    try:
        signed = read_checkpoint(folder)
        noted = last_checkpoint(folder)
        read_tail(folder, promised(signed, witness, noted))
    except IntegrityError as error:
        complaint = error
    chain, end = _longest(folder)
    sizes = {n: folder.segment_size(n) for n in folder.segment_numbers()}
    beyond = sum(size for number, size in sizes.items() if number > end[0])
    left_over = beyond + (sizes[end[0]] - end[1] if end[0] in sizes and not _is_sealed_at(folder, end) else 0)
    return History(chain.next_seq, chain.tree.root(), end, left_over, signed, witness, noted, complaint)


def accept_loss(
    folder: ArchiveFolder,
    history: History,
    signer: CheckpointSigner,
    remember: Callable[[bytes], None],
    calls: Syscalls = SYSTEM,
) -> None:
    """Go on from the log as it is: put aside what lies beyond its first break, and sign what is left.

    `signer` is the keyring's signing key, `remember` tells the keyring. Call with the writer's lock held. The deed's
    record is written by the next opening. Raises HistoryError where the signing key is none of this archive's.
    """
    generation_of(folder, signer)  # before anything is changed
    made = Checkpoint(folder.origin, history.size, history.root)
    note = signer.sign_note(folder.origin, made.serialize())
    announce(folder, [Pending(_facts(LOSS_ACCEPTED, history, made), f"note:{_digest(note)}")], calls)
    _keep_note(folder, calls)
    number, offset = history.end
    for beyond in (n for n in folder.segment_numbers() if n > number):
        path = folder.segment_path(beyond)
        move(path, folder.lost_and_found / f"{path.name}-beyond-{history.size}", calls=calls)
    if history.left_over and number in folder.segment_numbers():
        size = folder.segment_size(number)
        if not _is_sealed_at(folder, history.end) and size > offset:
            torn = Tail(Chain.start(folder.archive_id), number, [], offset, size - offset)
            cut(folder, torn, lambda: 0, calls)  # who accepts a loss needs no finding
    go_on_from(folder, signer, made, calls)
    _tell(folder, made, note, remember, calls)


def take_from(
    folder: ArchiveFolder,
    history: History,
    copy: ArchiveFolder,
    remember: Callable[[bytes], None],
    *,
    calls: Syscalls = SYSTEM,
    progress: Callable[[int], None] | None = None,
) -> list[int]:
    """Take from a copy the segments that are missing or differ, and its checkpoint. Returns the segments' numbers.

    The copy is believed only as far as it is proved: every byte of it, up to the newest root that was signed here.
    Raises InputError where it is another archive or holds less than was promised, IntegrityError where it is damaged.
    """
    if (copy.archive_id, copy.vkey) != (folder.archive_id, folder.vkey):
        raise InputError("the copy is of another archive", hint="name a backup or replica of this one")
    theirs = read_checkpoint(copy)
    if theirs is None or theirs.size < history.promised:
        held = 0 if theirs is None else theirs.size
        raise InputError(
            f"the copy's checkpoint covers {held} records, and {history.promised} were promised here",
            hint="name a newer copy",
        )
    for claim in _binding(history):
        _require_proved(copy, claim)
    _require_proved(copy, theirs, deep=True, progress=progress)
    numbers = [n for n in copy.segment_numbers() if not _is_same(folder, copy, n)]
    if not numbers and history.complaint is None:
        return []
    note = read_note(copy)
    announce(folder, [Pending(_facts(TAKEN, history, theirs), f"note:{_digest(note)}")], calls)
    _keep_note(folder, calls)
    adopt(folder, copy, calls)
    for number in numbers:
        path = folder.segment_path(number)
        fresh = stage(path, _pieces(copy.segment_path(number)), calls=calls)
        kept = folder.lost_and_found / f"{path.name}-replaced-{history.size}" if opening.exists(path) else None
        install(fresh, path, kept, calls=calls)
    for number in (n for n in folder.segment_numbers() if n > copy.segment_numbers()[-1]):
        path = folder.segment_path(number)
        move(path, folder.lost_and_found / f"{path.name}-beyond-{history.size}", calls=calls)
    _tell(folder, theirs, note, remember, calls)
    return numbers


def _tell(
    folder: ArchiveFolder, made: Checkpoint, note: bytes, remember: Callable[[bytes], None], calls: Syscalls
) -> None:
    """Make `made` the last checkpoint. What it contradicts leaves history and tiles; the next writer makes new ones."""
    set_aside(folder, made.size, calls)
    remove_folder(folder.tiles, calls=calls)
    publish(folder, note, remember, calls)


def _binding(history: History) -> list[Checkpoint]:
    """What a copy must prove. Where the two contradict each other, the keyring is believed: it was told first."""
    signed, witness = history.signed, history.witness
    if witness is None or witness.size == 0:
        return [] if signed is None else [signed]
    return [witness] if signed is None or signed.size <= witness.size else [witness, signed]


def _facts(what: str, history: History, made: Checkpoint) -> dict[str, object]:
    told: dict[str, object] = {
        "what": what,
        "found_records": history.size,
        "found_root": history.root.hex(),
        "to_records": made.size,
        "to_root": made.root.hex(),
        "because": opening.shown(str(history.complaint)) if history.complaint else "",
    }
    for name, claim in (("signed", history.signed), ("keyring", history.witness)):
        if claim is not None:
            told |= {f"{name}_records": claim.size, f"{name}_root": claim.root.hex()}
    return told


def _digest(note: bytes) -> str:
    return hashlib.sha256(note).hexdigest()


def _keep_note(folder: ArchiveFolder, calls: Syscalls) -> None:
    """The checkpoint that will be contradicted is evidence: it stays, under a name that its content gives."""
    try:
        note = read_note(folder)
    except (FileNotFoundError, IntegrityError):
        return  # what is no note of ours, and no file, is replaced
    replace(folder.lost_and_found / f"checkpoint-{_digest(note)[:16]}.note", note, calls=calls)


def _longest(folder: ArchiveFolder) -> tuple[Chain, tuple[int, int]]:
    """Chain and tree over the records from the first on that hang together, and where they end."""
    chain, end = Chain.start(folder.archive_id), (0, 0)
    for number in folder.segment_numbers():
        if number != end[0] + 1:
            break
        report = _scan(folder, number)
        header = report.header
        if header is None or (header.number, header.first_seq, header.prev_leaf) != (
            number,
            chain.next_seq,
            chain.head,
        ):
            break
        first = chain.next_seq
        if report.runs and (report.runs[0].span.begin, report.runs[0].prev) == (first, chain.head):
            for height, node in report.runs[0].span.nodes:
                chain.tree.append(node, height)
            chain.next_seq, chain.head = report.runs[0].span.end, report.runs[0].head
        end = (number, _offset(folder, number, chain.next_seq - first))
        if report.findings or report.footer is None:
            break
    return chain, end


def _scan(folder: ArchiveFolder, number: int) -> Report:
    task = Task(folder.segment_path(number), folder.lock, folder.archive_id, number, is_last=True, level=Level.HEADERS)
    return scan(task)


def _offset(folder: ArchiveFolder, number: int, records: int) -> int:
    """Where the first `records` of a segment end."""
    with opening.opened(folder.segment_path(number)) as file:
        at, size = segment.HEADER.size, os.fstat(file.fileno()).st_size
        for _ in range(records):
            _, _, at = read_record(file.fileno(), at, size)
    return at


def _is_sealed_at(folder: ArchiveFolder, end: tuple[int, int]) -> bool:
    """Whether what lies behind the last record of the segment is its footer."""
    report = _scan(folder, end[0])
    return report.footer is not None and report.stop == end[1] and not report.findings


def _require_proved(
    copy: ArchiveFolder, claim: Checkpoint, *, deep: bool = False, progress: Callable[[int], None] | None = None
) -> None:
    level = Level.BODIES if deep else Level.HEADERS
    options = Options(level, since=None if deep else claim, beside=False)  # the next checkpoint makes tiles again
    found = next(Verifier(copy, options, witness=claim, progress=progress).findings(), None)
    if found is not None:
        raise IntegrityError(
            f"the copy does not prove what was signed: segment {found.segment}, offset {found.offset}: {found.what}",
            hint="repair the copy, or name another one",
        )


def _is_same(folder: ArchiveFolder, copy: ArchiveFolder, number: int) -> bool:
    """Whether both have the same segment: headers and chain, by what the tree says of each."""
    try:
        mine, theirs = _scan(folder, number), _scan(copy, number)
    except OSError:
        return False
    if mine.findings or mine.size != theirs.size:
        return False
    return [(r.prev, r.head, r.span) for r in mine.runs] == [(r.prev, r.head, r.span) for r in theirs.runs]


def _pieces(path: Path) -> Iterator[bytes]:
    with opening.opened(path) as file:
        while piece := file.read(_PIECE):
            yield piece
