"""The end of one log: the only place where a group of records becomes part of it, and the fence before that place.

Rule: a group is there or not, as a whole, and whoever appended it learns which. Its bytes, numbers, times and tag are
made before; segments are begun when the writer says so, because only it knows how full they shall be.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeAlias

from coffer.archive.format.chain import Chain
from coffer.archive.format.entry import OWN_LOG, Tip
from coffer.archive.tree.checkpoint import Checkpoint
from coffer.archive.tree.mark import Mark
from coffer.keys.buffer import Buffer
from coffer.keys.errors import FencedError
from coffer.keys.lease.epoch_authority import Lease

__all__ = ["Body", "CommitLog", "Group", "GroupRecord", "LogEnd", "Loss", "Taken", "require_end"]

# Bytes in memory, or a stream that begins anew at each call and raises SourceError before its last piece if the bytes
# are not those that the record's header names.
Body: TypeAlias = Buffer | Callable[[], Iterator[Buffer]]


class LogEnd(NamedTuple):
    """Where a log ends: the chain up to there, the log's epoch, the last segment, its size in bytes, its records.

    Nobody changes the chain of an end: what is to follow is worked out on a copy.
    """

    chain: Chain
    epoch: int
    segment: int
    offset: int
    records: int

    @property
    def tip(self) -> Tip:
        """The number of the next record, and the head that it chains to."""
        return Tip(OWN_LOG, self.chain.next_seq, self.chain.head)


class GroupRecord(NamedTuple):
    """One record in pieces: its header (160 bytes), body, and trailer with padding."""

    header: bytes
    body: Body
    trailer: bytes


class Group(NamedTuple):
    """Records that are committed together: the number of the first, the records, of which the last has the tag, and the
    chain behind them. It does not depend on the segment that it comes to lie in."""

    first_seq: int
    records: Sequence[GroupRecord]
    chain: Chain

    @property
    def head(self) -> bytes:
        """The leaf hash of the last record (32 bytes). It binds every record before: it is the group's id."""
        return self.chain.head


class Taken(NamedTuple):
    """The end of a log that was taken, the bytes of an unfinished write that were set aside for it, and how many
    records with an intact header were among them. Zeros alone are room that was made for records, and do not count."""

    end: LogEnd
    cut_bytes: int
    cut_records: int


class Loss(NamedTuple):
    """Where a log is no longer what was appended: segment, offset, the record's number, and what is wrong."""

    segment: int
    offset: int
    seq: int
    what: str


class CommitLog(Protocol):
    """The end of one log.

    The epoch of a lease is not that of the log. The one fences; the other is written into segments and tags, and is
    begun (`seal`) by whoever follows a writer that may still believe it holds the log. Where no such writer can be, as
    under flock, the log's epoch goes on with every lease.

    Calls under one lease come one at a time. Errors: FencedError: another lease counts, or the log ends elsewhere, and
    of what was given nothing will ever count. OutcomeUnknownError: it may count or not. Any other UnavailableError:
    nothing was changed. After an OutcomeUnknownError `outcome` says what is so, and nothing is appended before it has.
    Where that raises the same, the log has to be taken again, which ends every doubt; the lease that it was taken with
    may do that. Of a group that was not acknowledged all or nothing is in the log then, whoever takes it.
    """

    def take(
        self,
        lease: Lease,
        told: Callable[[], Sequence[Checkpoint]] = tuple,
        accept: Callable[[LogEnd], None] | None = None,
        outside: Mark | None = None,
    ) -> Taken:
        """Become the one who appends, and find the end of the log: durable on return, with a segment to append to.

        In this order: every lease of an earlier epoch is fenced; what another writer left unsynced becomes durable;
        `told` gives the signed checkpoints that the log must match (`archive.repair.tail.signed_claims`), which nobody
        can add to any more; the end is found and compared with them and with the mark `outside`; `accept` may refuse it
        by raising; the torn rest of a group is set aside, never lost. Whatever is raised before that leaves the log
        unchanged.

        Raises IntegrityError if the log is damaged, HistoryError if it is older than or differs from what was signed,
        UnreadableError if its medium cannot be read, FencedError, UnavailableError, and what `told` and `accept` raise.
        """
        ...

    def append(self, lease: Lease, at: LogEnd, group: Group) -> LogEnd:
        """Append a group at the end that the last call returned, in the segment of that end, whatever the group's size.

        Durable on return, visible to `tail` and to every reader. The same group again is not appended again: its end is
        returned. If a body that is a stream raises SourceError, nothing was appended.
        """
        ...

    def seal(self, lease: Lease, at: LogEnd, epoch: int | None = None) -> LogEnd:
        """End the last segment with its footer and begin the next one; durable on return. A segment without records is
        begun anew. With `epoch`, which must be the next one, the segment begins that epoch of the log, and the next
        group must begin with a LOG_EPOCH: until it is appended, the epoch has not begun for whoever takes the log.
        """
        ...

    def outcome(self, lease: Lease, head: bytes) -> LogEnd | None:
        """The end of the log, durable, if the last group in it is the one with this head; None: that is not in it.

        Of the last group that this lease tried to append, it says whether it was appended, once and for all.
        """
        ...

    def tail(self, from_seq: int = 0) -> Iterator[Group]:
        """The groups whose first record is number `from_seq` or a later one, in order: those that are committed now.

        It ends there and does not wait: ask again, with the number behind the last group. Before the log was taken
        here, it ends at once: what another process has not synced yet cannot be told from what it has. Streams among
        the bodies can be read until the next group is asked for. Raises IntegrityError where the log is damaged,
        UnreadableError.
        """
        ...

    def lost(self, begin: LogEnd, end: LogEnd) -> Loss | None:
        """Read back what was appended between two ends that this lease reached, every byte: the first place where it is
        not what was appended, None if there is none. May be asked beside an append. Raises UnreadableError.
        """
        ...

    def close(self) -> None:
        """Let go of what is open. Everything acknowledged is already durable."""
        ...


def require_end(end: LogEnd, at: LogEnd) -> None:
    """Raise FencedError unless the log still ends where its writer believes it does."""
    if at is not end and (at.segment, at.offset, at.chain.head) != (end.segment, end.offset, end.chain.head):
        raise FencedError("the log ends elsewhere: another writer has appended to it", hint="open the archive again")
