"""Find the end of the log again after any stop, and cut off what was never finished.

Rule: only what was never acknowledged is ever cut, and it is kept in lost+found. Where a record of a later group, or a
footer, follows the damage, or a signed checkpoint covers what is missing, nothing is changed and the log refuses to be
written.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass

from archive import segment
from archive.chain import Chain, find_record, read_footer, read_record, read_segment_header
from archive.checkpoint import Checkpoint
from archive.folder import ArchiveFolder
from archive.ledger import Ledger
from archive.notes import settle_notes
from archive.record import HEADER, RecordHeader, parse_header
from archive.report import Finding
from keys.appendfile import AppendFile
from keys.durable import replace, settle
from keys.errors import FormatError, HistoryError, IntegrityError
from keys.syscalls import SYSTEM, Syscalls

_PIECE = 1 << 20
_HINT = "run coffer verify; mend it with coffer repair --from a backup or replica"
_WAYS_OUT = "nothing was changed; coffer recover show tells what is missing and the ways out"


@dataclass(slots=True)
class Tail:
    """The end of the log: chain state, the open segment and its record offsets, and what recovery cut.

    `cut_records` counts the records whose headers were whole in that.
    """

    chain: Chain
    segment: int
    offsets: list[int]
    end: int
    cut_bytes: int = 0
    cut_records: int = 0
    is_sealed: bool = False


def settle_end(folder: ArchiveFolder, calls: Syscalls = SYSTEM) -> None:
    """Make stable what an earlier writer left at the end of the log and of the history, whole or torn.

    It may have been killed between write and sync. What the next writer finds it treats as stable: it signs it, answers
    that it is there when it is sent again, and starts a new group behind it. Raises UnavailableError.
    """
    numbers = folder.segment_numbers()
    if numbers:
        settle(folder.segment_path(numbers[-1]), calls=calls)
    settle_notes(folder, calls)


def read_tail(folder: ArchiveFolder, checkpoint: Checkpoint | None) -> Tail:
    """Find the end of the log without changing anything; only the last two segments are read.

    Raises IntegrityError where a record behind the damage shows that this is no torn tail, HistoryError where a segment
    is missing and where the log is shorter than, or differs from, its last signed checkpoint (a rollback or a fork).
    """
    numbers = folder.segment_numbers()
    if numbers != list(range(1, len(numbers) + 1)):
        raise HistoryError("a segment is missing from the log", hint=_WAYS_OUT)
    chain = Chain.start(folder.archive_id)
    if len(numbers) > 1:
        chain = Chain.behind(_footer(folder, numbers[-2]))
        _refuse_fork(chain, checkpoint)
    tail = _scan(folder, numbers[-1], chain, checkpoint) if numbers else Tail(chain, 0, [], 0, is_sealed=True)
    size = tail.chain.tree.size
    if checkpoint is not None and size < checkpoint.size:
        raise HistoryError(
            f"the log ends at record {size}, but a signed checkpoint covers {checkpoint.size}",
            hint="an older copy was put back, or records were lost: " + _WAYS_OUT,
        )
    return tail


def newest(signed: Checkpoint | None, witness: Checkpoint | None, noted: Checkpoint | None = None) -> Checkpoint | None:
    """What the log must hold to, of its signed checkpoint, what the keyring remembers and the end of the history of
    checkpoints; None where there are none.

    A checkpoint is entered in the history, then in the keyring, then shown: after a stop each may be one ahead of the
    next. The keyring is never behind; the history may be, where it was lost. Raises HistoryError where the keyring is,
    and where two of them contradict each other.
    """
    if signed is not None and witness is not None and witness.size < signed.size:
        raise HistoryError(
            f"the keyring is older than the log: it remembers {witness.size} records, and {signed.size} are signed",
            hint="put the newest copy of the keyring back, or see coffer recover show",
        )
    known = [c for c in (signed, witness, noted) if c is not None]
    last = max(known, key=lambda c: c.size, default=None)
    for other in known:
        if last is not None and other.size == last.size and other.root != last.root:
            raise HistoryError(
                f"signed checkpoint, keyring and history differ about the first {last.size} records",
                hint="a fork: " + _WAYS_OUT,
            )
    return last


def _footer(folder: ArchiveFolder, number: int) -> segment.Footer:
    fd = os.open(folder.segment_path(number), os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = read_footer(fd, os.fstat(fd).st_size)
    finally:
        os.close(fd)
    if found is None:
        raise IntegrityError(f"segment {number} has no footer but is not the last", hint=_HINT)
    return found[0]


def _scan(folder: ArchiveFolder, number: int, chain: Chain, checkpoint: Checkpoint | None) -> Tail:
    fd = os.open(folder.segment_path(number), os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        tail = Tail(chain, number, [], 0, size)
        if size <= segment.HEADER.size and not _has_header(fd):
            return tail  # torn while the segment was made: no record was ever in it
        header = read_segment_header(fd)
        expected = (folder.archive_id, number, chain.next_seq, chain.head)
        if (header.archive_id, header.number, header.first_seq, header.prev_leaf) != expected:
            raise IntegrityError(f"segment {number} belongs to another place or archive", hint=_HINT)
        sealed = _whole_footer(fd, size)
        stop = sealed[1] if sealed else size
        tail.end = _walk(fd, segment.HEADER.size, stop, tail, checkpoint)
        tail.is_sealed = sealed is not None and tail.end == stop
        tail.cut_bytes = 0 if tail.is_sealed else size - tail.end
        behind = _groups_behind(fd, tail.end, size, chain.next_seq) if tail.cut_bytes else []
        # A record of a later group proves that the damaged one was stable once. Of the group that was being written
        # when the power went, any part may be there, its last record too.
        if tail.cut_bytes and (sealed is not None or any(group > chain.next_seq for group in behind)):
            raise IntegrityError(
                f"segment {number} is damaged at offset {tail.end}, and records follow the damage", hint=_HINT
            )
        tail.cut_records = len(behind)
        return tail
    finally:
        os.close(fd)


def _groups_behind(fd: int, at: int, size: int, seq: int) -> list[int]:
    """The group of each record from `seq` on whose header is whole at or behind `at`."""
    groups = []
    following = find_record(fd, at, size, seq)
    while following is not None:
        groups.append(parse_header(os.pread(fd, HEADER.size, following)).group)
        following = find_record(fd, following + 1, size, seq)
    return groups


def _whole_footer(fd: int, size: int) -> tuple[segment.Footer, int] | None:
    """The last segment's footer; one that a stop left with holes is cut and written again, like any torn tail."""
    try:
        return read_footer(fd, size)
    except FormatError:
        return None


def _has_header(fd: int) -> bool:
    try:
        read_segment_header(fd)
    except FormatError:
        return False
    return True


def _walk(fd: int, at: int, stop: int, tail: Tail, checkpoint: Checkpoint | None) -> int:
    """Follow records up to the first that is not whole; return the offset behind the last that is."""
    chain = tail.chain
    while at < stop:
        try:
            raw, header, end = read_record(fd, at, stop)
        except FormatError:
            break
        # What a checkpoint covers was synced; of the rest, a file system may have kept the end without the middle.
        is_signed = checkpoint is not None and header.seq < checkpoint.size
        if chain.complaint(header) is not None or not (is_signed or _body_is_whole(fd, at, header)):
            break
        tail.offsets.append(at)
        chain.follow(raw)
        _refuse_fork(chain, checkpoint)
        at = end
    return at


def _refuse_fork(chain: Chain, checkpoint: Checkpoint | None) -> None:
    if checkpoint is not None and chain.tree.size == checkpoint.size and chain.tree.root() != checkpoint.root:
        raise HistoryError(
            f"the first {checkpoint.size} records are not those that were signed", hint="a fork: " + _WAYS_OUT
        )


def _body_is_whole(fd: int, at: int, header: RecordHeader) -> bool:
    digest, offset, left = hashlib.sha256(), at + HEADER.size, header.body_len
    while left:
        piece = os.pread(fd, min(left, _PIECE), offset)
        digest.update(piece)
        offset, left = offset + len(piece), left - len(piece)
    return digest.digest() == header.body_sha256


def cut(folder: ArchiveFolder, tail: Tail, now_ms: Callable[[], int], calls: Syscalls = SYSTEM) -> None:
    """Move what lies behind the last whole record to lost+found, then truncate; durable on return, in that order.

    Where that holds records, a finding for a human is made in between: they were most likely never acknowledged, but a
    disk that damaged the last group after its sync leaves the same.
    """
    if not tail.cut_bytes:
        return
    path = folder.segment_path(tail.segment)
    with path.open("rb") as file:
        file.seek(tail.end)
        torn = file.read()
    kept = folder.lost_and_found / f"{tail.segment:08d}-{tail.end}-{hashlib.sha256(torn).hexdigest()[:16]}"
    replace(kept, torn, calls=calls)  # not write_new: an earlier stop may have left half of it
    if tail.cut_records:
        records = "1 record" if tail.cut_records == 1 else f"{tail.cut_records} records"
        what = f"an unfinished group with {records} was cut, and is kept as lost+found/{kept.name}"
        Ledger(folder.scrub, calls).add(Finding(tail.segment, tail.end, None, what), now_ms(), kept.name)
    file_end = AppendFile(path, calls=calls)
    try:
        file_end.truncate(tail.end)
        file_end.sync()
    finally:
        file_end.close()
