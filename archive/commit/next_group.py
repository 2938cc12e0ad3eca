"""Makes the next group of a log: numbers, times, the chain and the tag, as bytes that only need to be committed.

Rule: pure but for the clock and the signature, which are given. The chain that it starts from is not changed, so a
group that is not committed leaves no trace.
"""

from collections.abc import Callable, Sequence

from coffer.archive.commit.commit_log import Group, GroupRecord, LogEnd
from coffer.archive.commit.hashed_entry import HashedEntry
from coffer.archive.format.entry import OWN_LOG, Appended, Position
from coffer.archive.format.group import GroupEnd
from coffer.archive.format.merkle import leaf_hash
from coffer.archive.format.order import UNKNOWN
from coffer.archive.format.record import NO_TAG, Kind, RecordHeader, record_size, trailer

__all__ = ["next_group"]


def next_group(
    archive_id: bytes,
    at: LogEnd,
    entries: Sequence[HashedEntry],
    now_ms: Callable[[], int],
    tag_of: Callable[[GroupEnd], bytes],
) -> tuple[Group, list[Appended]]:
    """The group of these entries at this end of the log, and place and time of each in order.

    A record's time is the clock's, or a millisecond after the record before where the clock is behind; only that of a
    LOG_EPOCH may be earlier. `tag_of` makes the tag of the group's end.
    """
    chain, first, last = at.chain.copy(), at.chain.next_seq, len(entries) - 1
    if entries[0].entry.kind == Kind.LOG_EPOCH:
        chain.order.time_ms = UNKNOWN
    records, done, offset = list[GroupRecord](), list[Appended](), at.offset
    for place, (entry, body, length, body_hash) in enumerate(entries):
        seq, time_ms = chain.next_seq, max(chain.order.time_ms + 1, now_ms(), entry.least_ms)
        header = RecordHeader(
            kind=entry.kind,
            seq=seq,
            time_ms=time_ms,
            study_key_id=entry.study_key_id,
            flags=entry.flags,
            body_len=length,
            content_id=entry.content_id,
            body_sha256=body_hash,
            prev_leaf=chain.head,
            group=first,
        ).serialize()
        tag = NO_TAG
        if place == last:
            tag = tag_of(GroupEnd(archive_id, 0, at.epoch, first, seq + 1, leaf_hash(header)))
        records.append(GroupRecord(header, body, trailer(length, tag)))
        done.append(Appended(Position(OWN_LOG, seq, at.segment, offset, length), time_ms))
        chain.follow(header, tag)
        offset += record_size(length)
    return Group(first, records, chain), done
