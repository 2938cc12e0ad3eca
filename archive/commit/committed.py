"""The groups of a log as they were appended, up to a known end of it.

Rule: reads only. Chain, trailers and hashes of bodies are checked; tags are for whoever knows the keys.
"""

from collections.abc import Iterator
from functools import partial
from hashlib import sha256
from typing import Final

from coffer.archive.commit.commit_log import Body, Group, GroupRecord, LogEnd
from coffer.archive.format import segment
from coffer.archive.format.chain import Chain, RecordOnDisk, read_footer, read_record
from coffer.archive.format.record import HEADER, NO_TAG, trailer
from coffer.archive.store.sealed_file import pieces
from coffer.archive.store.segment_store import LOG, SegmentStore, segment_numbers
from coffer.archive.store.source import Source
from coffer.keys.disk.reading import reading
from coffer.keys.errors import IntegrityError

__all__ = ["committed"]

_STREAMED: Final = 1 << 20  # larger bodies are streams


def committed(store: SegmentStore, archive_id: bytes, end: LogEnd, from_seq: int) -> Iterator[Group]:
    """The groups from record `from_seq` on, up to `end`. Raises as `CommitLog.tail`."""
    chain = Chain.start(archive_id)
    for number in segment_numbers(store):
        if number > end.segment:
            return
        with reading(f"segment {number}"), store.open(LOG, number) as source:
            stop = end.offset
            if number < end.segment:
                sealed = read_footer(source, source.size)
                if sealed is None:
                    raise IntegrityError(f"segment {number} has no footer but is not the last")
                footer, stop = sealed
                if footer.tree_size <= from_seq:
                    chain = Chain.behind(footer)
                    continue
            yield from _groups(source, number, stop, chain, from_seq)


def _groups(source: Source, number: int, stop: int, chain: Chain, from_seq: int) -> Iterator[Group]:
    """The groups of one segment; the chain follows all of its records."""
    at, records = segment.HEADER.size, list[GroupRecord]()
    while at < stop:
        record = read_record(source, at, stop)
        complaint = chain.complaint(record.header)
        if complaint is not None:
            raise IntegrityError(f"segment {number}, offset {at}: {complaint}")
        chain.follow(record.raw, record.tag)
        if record.header.group >= from_seq:
            end = trailer(record.header.body_len, record.tag)
            records.append(GroupRecord(record.raw, _body(source, number, at, record), end))
        if record.tag != NO_TAG and records:
            yield Group(record.header.group, records, chain.copy())
            records = []
        at = record.end


def _body(source: Source, number: int, at: int, record: RecordOnDisk) -> Body:
    header, start = record.header, at + HEADER.size
    if header.body_len > _STREAMED:
        read = partial(_shifted, source, start)
        return partial(pieces, read, header.body_len, header.body_sha256)
    body = source.read(start, header.body_len)
    if sha256(body).digest() != header.body_sha256:
        raise IntegrityError(f"segment {number}, offset {start}: the body does not match its hash")
    return body


def _shifted(source: Source, start: int, offset: int, length: int) -> bytes:
    return source.read(start + offset, length)
