"""Check the log without any key: every byte of every segment, the chain, the tree and the last signed checkpoint.

Rule: it reports every finding and never stops at the first; it changes nothing and needs no lock.
"""

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from archive import segment
from archive.chain import Chain, find_record, read_footer, read_record, read_segment_header
from archive.checkpoint import Checkpoint, read_checkpoint
from archive.folder import ArchiveFolder
from archive.record import HEADER
from archive.segment import Footer
from keys.errors import FormatError, IntegrityError

_PIECE = 1 << 20
_LIVE_TRIES = 20  # a live writer finishes one group of records well within these, 0.1 s apart


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: where (segment number, byte offset, record number where known) and what."""

    segment: int
    offset: int
    seq: int | None
    what: str


@dataclass(slots=True)
class Summary:
    """What a verification has read so far."""

    segments: int = 0
    records: int = 0
    bytes: int = 0
    signed_records: int = 0


class Verifier:
    """One verification. `bodies` also reads and hashes every body; without it headers, chain and tree are checked."""

    def __init__(
        self, folder: ArchiveFolder, *, bodies: bool = True, progress: Callable[[int], None] | None = None
    ) -> None:
        self._folder = folder
        self._bodies = bodies
        self._progress = progress or (lambda _: None)
        self._chain = Chain.start(folder.archive_id)
        self._checkpoint: Checkpoint | None = None
        self.summary = Summary()

    def findings(self) -> Iterator[Finding]:
        """Verify everything, yielding what is wrong as it is found. Iterate once."""
        try:
            self._checkpoint = read_checkpoint(self._folder)
        except IntegrityError as error:
            yield Finding(0, 0, None, f"the signed checkpoint: {error}")
        numbers = self._folder.segment_numbers()
        for missing in sorted(set(range(1, max(numbers, default=0) + 1)) - set(numbers)):
            yield Finding(missing, 0, None, "the segment is missing")
        for number in numbers:
            yield from self._segment(number, is_last=number == numbers[-1])
        size = self._checkpoint.size if self._checkpoint else 0
        self.summary.signed_records = size
        if self._chain.tree.size < size:
            last = numbers[-1] if numbers else 0
            yield Finding(
                last, 0, self._chain.next_seq, f"the log ends here, but a signed checkpoint covers {size} records"
            )

    def _segment(self, number: int, *, is_last: bool) -> Iterator[Finding]:
        fd = os.open(self._folder.segment_path(number), os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.summary.segments += 1
            size = os.fstat(fd).st_size
            yield from self._segment_header(fd, number)
            footer, stop, complaint = None, size, None
            try:
                found = read_footer(fd, size)
                if found is not None:
                    footer, stop = found
                elif not is_last:
                    complaint = "the segment has no valid footer"
            except FormatError as error:
                complaint = str(error)
            if complaint is not None:
                yield Finding(number, size, None, complaint)
            offsets: list[int] = []
            yield from self._records(fd, number, stop, offsets, is_open=footer is None and complaint is None)
            if footer is not None:
                yield from self._footer(footer, number, stop, offsets)
            self._progress(size)
        finally:
            os.close(fd)

    def _segment_header(self, fd: int, number: int) -> Iterator[Finding]:
        try:
            header = read_segment_header(fd)
        except FormatError as error:
            yield Finding(number, 0, None, str(error))
            return
        expected = (self._folder.archive_id, number, self._chain.next_seq, self._chain.head)
        if (header.archive_id, header.number, header.first_seq, header.prev_header_sha256) != expected:
            yield Finding(number, 0, None, "the segment header belongs to another place or archive")

    def _records(self, fd: int, number: int, stop: int, offsets: list[int], *, is_open: bool) -> Iterator[Finding]:
        at, tries = segment.HEADER.size, 0
        while at < stop:
            try:
                raw, header, end = read_record(fd, at, stop)
            except FormatError as error:
                following = find_record(fd, at + 1, stop, self._chain.next_seq)
                size = os.fstat(fd).st_size
                may_grow = following is None and is_open and tries < _LIVE_TRIES
                # The writer is in the middle of this record, or finished it a moment ago and went away.
                if may_grow and (size != stop or self._has_writer()):
                    time.sleep(0.1)
                    tries, stop = tries + 1, _end_of_records(fd)
                    continue
                yield Finding(number, at, self._chain.next_seq, str(error))
                if following is None:
                    return
                at = following
                continue
            complaint = self._chain.complaint(header)
            if complaint is not None:
                yield Finding(number, at, header.seq, complaint)
                self._chain.next_seq, self._chain.head = header.seq, header.prev_header_sha256
            if self._bodies and not self._body_matches(fd, at, header.body_len, header.body_sha256):
                yield Finding(number, at + HEADER.size, header.seq, "the body does not match its hash")
            offsets.append(at)
            yield from self._follow(raw, number, at)
            at = end

    def _follow(self, raw: bytes, number: int, at: int) -> Iterator[Finding]:
        self._chain.follow(raw)
        self.summary.records += 1
        signed = self._checkpoint
        if signed is not None and self._chain.tree.size == signed.size and self._chain.tree.root() != signed.root:
            yield Finding(
                number, at, signed.size - 1, f"the first {signed.size} records are not those that were signed"
            )

    def _footer(self, footer: Footer, number: int, stop: int, offsets: list[int]) -> Iterator[Finding]:
        chain = self._chain
        state = (tuple(offsets), chain.head, chain.tree.size, chain.tree.edge)
        if (footer.offsets, footer.head, footer.tree_size, footer.edge) != state:
            yield Finding(number, stop, None, "the footer does not describe this segment's records")

    def _body_matches(self, fd: int, at: int, length: int, expected: bytes) -> bool:
        digest, offset = hashlib.sha256(), at + HEADER.size
        while length:
            piece = os.pread(fd, min(length, _PIECE), offset)
            if not piece:
                return False
            digest.update(piece)
            offset, length = offset + len(piece), length - len(piece)
            self.summary.bytes += len(piece)
        return digest.digest() == expected

    def _has_writer(self) -> bool:
        """Whether somebody holds the writer's lock now."""
        try:
            with self._folder.lock.open("rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False
        return False


def _end_of_records(fd: int) -> int:
    """Where the records of a growing segment end: its size, or its footer once the writer has filled it."""
    size = os.fstat(fd).st_size
    try:
        sealed = read_footer(fd, size)
    except FormatError:
        return size
    return sealed[1] if sealed else size
