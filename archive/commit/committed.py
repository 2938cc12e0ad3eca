"""What lies between two known ends of a log: the groups as they were appended, and whether they are still there.

Rule: reads only. Chain, trailers and hashes of bodies are checked; tags are for whoever knows the keys.
"""

from collections.abc import Iterator
from functools import partial
from hashlib import sha256
from typing import Final

from coffer.archive.commit.commit_log import Body, Group, GroupRecord, LogEnd, Loss
from coffer.archive.format import segment
from coffer.archive.format.chain import Chain, RecordOnDisk, read_footer, read_record, read_segment_header
from coffer.archive.format.record import HEADER, NO_TAG, trailer
from coffer.archive.store.sealed_file import pieces
from coffer.archive.store.segment_store import LOG, SegmentStore, segment_numbers
from coffer.archive.store.source import Source
from coffer.keys.disk.reading import reading
from coffer.keys.errors import IntegrityError, NotFoundError

__all__ = ["committed", "lost"]

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


def lost(store: SegmentStore, begin: LogEnd, end: LogEnd) -> Loss | None:
    """What of the log between two ends that were reached one after the other is not on the medium as it was appended:
    the first such place, None if there is none. Reads every byte once. Raises UnreadableError: then nothing is known.
    """
    chain, number, at = begin.chain.copy(), begin.segment, begin.offset
    try:
        while True:
            with reading(f"segment {number}"), store.open(LOG, number) as source:
                for here, record in _records(source, number, at, _stop(source, number, end), chain):
                    if not _has_its_body(source, here, record):
                        return Loss(number, here, record.header.seq, "the body does not match its hash")
                    at = record.end
            if number == end.segment:
                break
            number, at = number + 1, 0
            with reading(f"segment {number}"), store.open(LOG, number) as source:
                header = read_segment_header(source)
            if (header.first_seq, header.prev_leaf) != (chain.next_seq, chain.head):
                return Loss(number, at, chain.next_seq, "the segment does not continue the one before it")
            at = segment.HEADER.size
    except (IntegrityError, NotFoundError) as error:
        return Loss(number, at, chain.next_seq, str(error))
    if chain.head != end.chain.head:
        return Loss(number, at, chain.next_seq, "other records stand there")
    return None


def _stop(source: Source, number: int, end: LogEnd) -> int:
    """Where the records of a segment end in a log that ends at `end`."""
    if number == end.segment:
        return end.offset
    sealed = read_footer(source, source.size)
    if sealed is None:
        raise IntegrityError("the segment has no footer any more")
    return sealed[1]


def _has_its_body(source: Source, at: int, record: RecordOnDisk) -> bool:
    """Whether the body on the medium has the hash in its header."""
    digest, start, left = sha256(), at + HEADER.size, record.header.body_len
    while left:
        piece = source.read(start, min(left, _STREAMED))
        digest.update(piece)
        start, left = start + len(piece), left - len(piece)
    return digest.digest() == record.header.body_sha256


def _records(source: Source, number: int, at: int, stop: int, chain: Chain) -> Iterator[tuple[int, RecordOnDisk]]:
    """The records of one segment from an offset on, each with its own; the chain follows them."""
    while at < stop:
        record = read_record(source, at, stop)
        complaint = chain.complaint(record.header)
        if complaint is not None:
            raise IntegrityError(f"segment {number}, offset {at}: {complaint}")
        chain.follow(record.raw, record.tag)
        yield at, record
        at = record.end


def _groups(source: Source, number: int, stop: int, chain: Chain, from_seq: int) -> Iterator[Group]:
    """The groups of one segment; the chain follows all of its records."""
    records = list[GroupRecord]()
    for at, record in _records(source, number, segment.HEADER.size, stop, chain):
        if record.header.group >= from_seq:
            end = trailer(record.header.body_len, record.tag)
            records.append(GroupRecord(record.raw, _body(source, number, at, record), end))
        if record.tag != NO_TAG and records:
            yield Group(record.header.group, records, chain.copy())
            records = []


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
