"""The end of a log in memory: for tests, and as the model of a log that several machines may try to write.

Rule: it keeps the contract of `CommitLog` but for durability. The fence is a comparison of epochs: a writer that was
displaced is refused here, whatever it believes.
"""

import threading
from collections.abc import Callable, Iterator, Sequence

from coffer.archive.commit.commit_log import CommitLog, Group, LogEnd, Loss, Taken, require_end
from coffer.archive.commit.committed import committed, lost
from coffer.archive.commit.segment_edges import footer_of, header_of
from coffer.archive.format.chain import Chain
from coffer.archive.repair.tail import kept_name, read_tail
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.memory_segments import MemorySegments
from coffer.archive.tree.checkpoint import Checkpoint
from coffer.archive.tree.mark import Mark
from coffer.keys.errors import FencedError
from coffer.keys.lease.epoch_authority import Lease

__all__ = ["MemoryLog"]


class MemoryLog(CommitLog):
    """The end of the log of an archive whose segments are held in memory. All who write it share this object."""

    def __init__(self, folder: ArchiveFolder, segments: MemorySegments) -> None:
        """`folder` says that its segments are held in `segments`; it has the checkpoints and keys."""
        self._folder = folder
        self._segments = segments
        self._epoch = 0  # of the newest lease that took the log
        self._end: LogEnd | None = None
        self._offsets: list[int] = []
        self._lock = threading.RLock()

    def take(
        self,
        lease: Lease,
        told: Callable[[], Sequence[Checkpoint]] = tuple,
        accept: Callable[[LogEnd], None] | None = None,
        outside: Mark | None = None,
    ) -> Taken:
        """As the contract says."""
        with self._lock:
            self._fence(lease)
            self._epoch, self._end = lease.epoch, None
            tail = read_tail(self._folder, told(), outside)
            end = LogEnd(tail.chain, tail.epoch, tail.segment, tail.end, len(tail.offsets))
            if accept is not None:
                accept(end)
            if tail.cut_bytes:
                with self._segments.open(0, tail.segment) as source:
                    torn = source.read(tail.end, source.size - tail.end)
                self._segments.cut(tail.segment, tail.end, "" if tail.is_room else kept_name(tail, torn))
            if tail.is_sealed or tail.end == 0:
                end = self._begin(tail.segment + tail.is_sealed, tail.chain, tail.epoch)
            else:
                self._offsets = tail.offsets
            self._end = end
            return Taken(end, 0 if tail.is_room else tail.cut_bytes, tail.cut_records)

    def append(self, lease: Lease, at: LogEnd, group: Group) -> LogEnd:
        """As the contract says."""
        pieces, offsets, place = list[bytes](), list[int](), at.offset
        for header, body, trailer in group.records:
            offsets.append(place)
            whole = b"".join([header, *(body() if callable(body) else [body]), trailer])
            pieces.append(whole)
            place += len(whole)
        with self._lock:
            end = self._taken(lease)
            if group.head == end.chain.head:
                return end
            require_end(end, at)
            self._segments.grow(end.segment, b"".join(pieces))
            self._offsets += offsets
            self._end = LogEnd(group.chain, end.epoch, end.segment, place, len(self._offsets))
            return self._end

    def seal(self, lease: Lease, at: LogEnd, epoch: int | None = None) -> LogEnd:
        """As the contract says."""
        with self._lock:
            end = self._taken(lease)
            require_end(end, at)
            number, chain = end.segment, end.chain
            if self._offsets:
                self._segments.grow(number, footer_of(chain, self._offsets))
                number += 1
            self._end = self._begin(number, chain, end.epoch if epoch is None else epoch)
            return self._end

    def outcome(self, lease: Lease, head: bytes) -> LogEnd | None:
        """As the contract says."""
        with self._lock:
            end = self._taken(lease)
            return end if end.chain.head == head else None

    def tail(self, from_seq: int = 0) -> Iterator[Group]:
        """As the contract says."""
        end = self._end
        if end is not None:
            yield from committed(self._segments, self._folder.archive_id, end, from_seq)

    def lost(self, begin: LogEnd, end: LogEnd) -> Loss | None:
        """As the contract says."""
        return lost(self._segments, begin, end)

    def close(self) -> None:
        """Nothing is open: others may be writing."""

    def _fence(self, lease: Lease) -> None:
        lease.require()
        if lease.epoch < self._epoch:
            raise FencedError("another writer has taken the log over", hint="open the archive again")

    def _taken(self, lease: Lease) -> LogEnd:
        """The end of the log, for the newest lease that took it."""
        self._fence(lease)
        if self._end is None or lease.epoch > self._epoch:
            raise FencedError("the log was not taken with this lease", hint="open the archive again")
        return self._end

    def _begin(self, number: int, chain: Chain, epoch: int) -> LogEnd:
        header = header_of(self._folder.archive_id, number, chain, epoch)
        self._segments.begin(number, header)
        self._offsets = []
        return LogEnd(chain, epoch, number, len(header), 0)
