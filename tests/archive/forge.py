"""Writes an archive record by record, by the key of `SmallArchive`, with whatever order of groups, times and epochs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path

from coffer.archive.events import codec
from coffer.archive.events.clocks import LogEpochBegun
from coffer.archive.format.group import NO_LINEAGE, GroupEnd
from coffer.archive.format.merkle import Frontier, leaf_hash
from coffer.archive.format.record import NO_TAG, Kind, RecordHeader, genesis_hash, trailer
from coffer.archive.format.segment import Footer, SegmentHeader
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.checkpoint_history import begin
from tests.archive.conftest import ORIGIN, SIGNER

ARCHIVE_ID = bytes(range(16))


@dataclass(frozen=True, slots=True)
class Forged:
    """A record. Unless given, its group is its own number, and its tag is signed over the place where it stands."""

    time_ms: int
    group: int | None = None
    kind: int = Kind.OBJECT
    body: bytes = b"ciphertext"
    key_id: bytes = b"study key, 16 b."
    content_id: bytes = sha256(b"content").digest()
    tag: bytes | None = None


@dataclass(frozen=True, slots=True)
class ForgedSegment:
    """A segment's records, the epoch and the log of its header, and what stands after its records or its footer."""

    records: Sequence[Forged]
    epoch: int = 0
    log: int = 0
    behind: bytes = b""


def begun_body(epoch: int) -> bytes:
    """The body of the record that begins this epoch."""
    return codec.encode(LogEpochBegun(epoch=epoch, holder="test", why="an example"))


def begun(time_ms: int, epoch: int = 1) -> Forged:
    """The record that begins this epoch."""
    body = begun_body(epoch)
    return Forged(time_ms, kind=Kind.LOG_EPOCH, body=body, key_id=bytes(16), content_id=sha256(body).digest())


def forge(path: Path, segments: Sequence[ForgedSegment]) -> ArchiveFolder:
    """Write an archive of these segments, all but the last with a footer; chain, tree, hashes and checksums are true.
    Nothing is signed of it but the tags and the empty log."""
    ArchiveFolder.prepare(path)
    folder = ArchiveFolder(path, ARCHIVE_ID, ORIGIN, SIGNER.vkey(ORIGIN))
    begin(folder, partial(SIGNER.sign_note, ORIGIN))
    folder.commit()
    tree, head = Frontier(), genesis_hash(ARCHIVE_ID)
    for number, segment in enumerate(segments, 1):
        start = SegmentHeader(ARCHIVE_ID, number, tree.size, head, segment.log, segment.epoch)
        data, offsets = bytearray(start.serialize()), []
        for each in segment.records:
            offsets.append(len(data))
            raw, end = _record(each, tree.size, head, segment.epoch)
            head = leaf_hash(raw)
            tree.append(head)
            data += raw + each.body + end
        if number < len(segments):
            footer = Footer(tuple(offsets), head, tree.size, tree.edge, segment.records[-1].time_ms)
            data += footer.serialize()
        folder.segment_files.path(number).write_bytes(bytes(data) + segment.behind)
    return folder


def _record(each: Forged, seq: int, head: bytes, epoch: int) -> tuple[bytes, bytes]:
    """Header, and trailer with padding, of the record that stands here."""
    header = RecordHeader(
        each.kind, seq, each.time_ms, each.key_id, 0, len(each.body), each.content_id, sha256(each.body).digest(), head,
        seq if each.group is None else each.group,
    )  # fmt: skip
    end = GroupEnd(ARCHIVE_ID, 0, epoch, header.group, seq + 1, leaf_hash(header.serialize()))
    tag = end.tag(NO_LINEAGE, SIGNER.sign_statement) if each.tag is None else each.tag
    return header.serialize(), trailer(len(each.body), tag)


def open_end(each: Forged) -> Forged:
    """The same record without a tag: more of its group must follow."""
    return replace(each, tag=NO_TAG)
