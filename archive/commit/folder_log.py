"""The end of a log in an archive's folder: a file that is appended to and synced once for each group.

Rule: a failed write or sync is never repeated: it is unknown then what is durable, and only taking the log again, which
reads it back from the device, says. The fence is the kernel's lock on the folder: whoever has the lease is alone.
"""

from collections.abc import Callable, Iterator, Sequence

from coffer.archive.commit.commit_log import CommitLog, Group, GroupRecord, LogEnd, Loss, Taken, require_end
from coffer.archive.commit.committed import committed, lost
from coffer.archive.commit.segment_edges import footer_of, header_of
from coffer.archive.format.chain import Chain
from coffer.archive.repair.tail import cut, read_tail
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.sealed_file import SourceError
from coffer.archive.tree.checkpoint import Checkpoint
from coffer.archive.tree.mark import Mark
from coffer.keys.disk.append_file import AppendFile
from coffer.keys.disk.syscalls import SYSTEM, Syscalls
from coffer.keys.errors import CofferError, FencedError, OutcomeUnknownError
from coffer.keys.lease.epoch_authority import Lease

__all__ = ["FolderLog"]


class FolderLog(CommitLog):
    """The end of the log in one folder, for one process, which holds the folder's lock as long as it has the lease."""

    def __init__(self, folder: ArchiveFolder, now_ms: Callable[[], int], calls: Syscalls = SYSTEM) -> None:
        self._folder = folder
        self._now_ms = now_ms
        self._calls = calls
        self._lease: Lease | None = None
        self._file: AppendFile | None = None
        self._end: LogEnd | None = None
        self._offsets: list[int] = []  # of the records in the open segment
        self._failure: OutcomeUnknownError | None = None

    def take(
        self,
        lease: Lease,
        told: Callable[[], Sequence[Checkpoint]] = tuple,
        accept: Callable[[LogEnd], None] | None = None,
        outside: Mark | None = None,
    ) -> Taken:
        """Sync the last segment, walk it, copy a torn rest to lost+found and cut it, then open or begin a segment.

        The writer before may have been killed between write and sync, and what is found here is taken for durable: it
        is signed, acknowledged as a duplicate when it is sent again, and a new group starts after it.
        """
        lease.require()
        self.close()
        self._lease, self._end, self._failure = lease, None, None
        files = self._folder.segment_files
        numbers = files.numbers()
        if numbers:
            files.resync(numbers[-1], self._calls)
        tail = read_tail(self._folder, told(), outside)
        end = LogEnd(tail.chain, tail.epoch, tail.segment, tail.end, len(tail.offsets))
        if accept is not None:
            accept(end)
        cut(self._folder, tail, self._now_ms, self._calls)
        if tail.is_sealed or tail.end == 0:
            end = self._begin(tail.segment + tail.is_sealed, tail.chain, tail.epoch)
        else:
            self._file, self._offsets = files.end_of(tail.segment, self._calls), tail.offsets
        self._end = end
        return Taken(end, 0 if tail.is_room else tail.cut_bytes, tail.cut_records)

    def append(self, lease: Lease, at: LogEnd, group: Group) -> LogEnd:
        """writev for each record (a stream: for each of its pieces), then one fdatasync."""
        file, end = self._held(lease)
        if group.head == end.chain.head:
            return end
        require_end(end, at)
        try:
            try:
                offsets = [_write(file, record) for record in group.records]
            except SourceError:
                file.truncate(end.offset)
                raise
            file.sync()
        except SourceError:
            raise  # undone: nothing was appended
        except BaseException as error:
            raise self._stopped(error) from error
        self._offsets += offsets
        self._end = LogEnd(group.chain, end.epoch, end.segment, file.size, len(self._offsets))
        return self._end

    def seal(self, lease: Lease, at: LogEnd, epoch: int | None = None) -> LogEnd:
        """Write and sync the footer, then create the next segment. The records are durable before: an intact footer
        proves it."""
        file, end = self._held(lease)
        require_end(end, at)
        chain, next_epoch = end.chain, end.epoch if epoch is None else epoch
        try:
            if self._offsets:
                file.write_all([footer_of(chain, self._offsets)])
                file.sync()
            file.close()
            self._end = self._begin(end.segment + bool(self._offsets), chain, next_epoch)
        except BaseException as error:
            raise self._stopped(error) from error
        return self._end

    def outcome(self, lease: Lease, head: bytes) -> LogEnd | None:
        """From memory; after a failed call nothing is known, and it raises that failure again."""
        _, end = self._held(lease)
        return end if end.chain.head == head else None

    def tail(self, from_seq: int = 0) -> Iterator[Group]:
        """As the contract says."""
        end = self._end
        if end is not None:
            yield from committed(self._folder.segment_store(), self._folder.archive_id, end, from_seq)

    def lost(self, begin: LogEnd, end: LogEnd) -> Loss | None:
        """As the contract says, by the names of the files: one that was replaced is not the one that is written."""
        return lost(self._folder.segment_store(), begin, end)

    def close(self) -> None:
        """Close the open segment."""
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _held(self, lease: Lease) -> tuple[AppendFile, LogEnd]:
        """The open segment and the end of the log, for whoever took it last and still may."""
        lease.require()
        if self._failure is not None:
            raise self._failure.with_traceback(None)  # the traceback would grow with every raise
        if lease is not self._lease or self._file is None or self._end is None:
            raise FencedError("the log was not taken with this lease", hint="open the archive again")
        return self._file, self._end

    def _stopped(self, error: BaseException) -> OutcomeUnknownError:
        """Whatever went wrong, the file no longer ends where the chain does: nothing follows but `take`."""
        if isinstance(error, CofferError):
            self._failure = OutcomeUnknownError(str(error), hint=error.hint())
        else:
            self._failure = OutcomeUnknownError(f"the log stopped: {error!r}")
        if not isinstance(error, Exception):
            raise error
        return self._failure

    def _begin(self, number: int, chain: Chain, epoch: int) -> LogEnd:
        header = header_of(self._folder.archive_id, number, chain, epoch)
        self._file = self._folder.segment_files.begin(number, header, self._calls)
        self._offsets = []
        return LogEnd(chain, epoch, number, len(header), 0)


def _write(file: AppendFile, record: GroupRecord) -> int:
    """Hand a record to the kernel; returns its offset."""
    at, (header, body, trailer) = file.size, record
    if callable(body):
        file.write_all([header])
        for piece in body():
            file.write_all([piece])
        file.write_all([trailer])
    else:
        file.write_all([header, body, trailer])
    return at
