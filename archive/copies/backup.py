"""Make a snapshot: send what the target lacks, verify what it returns, and write the list that makes it count.

Rule: opens no key and changes nothing in the archive. The list is written last: without it there is no snapshot, and
whatever an interrupted run left is used by the next one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from coffer.archive.copies.segments import SnapshotSegments, as_archive, opened_at
from coffer.archive.copies.sending import Courier, Sending
from coffer.archive.copies.shelf import Shelf
from coffer.archive.copies.snapshot import PIECE, Part, SegmentCopy, Snapshot
from coffer.archive.copies.turns import Turn
from coffer.archive.format.chain import read_segment_header
from coffer.archive.format.extent import END_BYTES, Extent, extents
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.segment_store import LOG
from coffer.archive.store.source import MemorySource, Source
from coffer.archive.tree.checkpoint import Checkpoint
from coffer.archive.verify.verify import Finding, Options, Verifier
from coffer.keys.errors import CofferError, IntegrityError, UnavailableError

__all__ = ["BackupRun", "NamedBytes", "Request"]


@dataclass(frozen=True, slots=True)
class NamedBytes:
    """A part of a snapshot that is no segment."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Request:
    """What to make a snapshot of: its id, the time (ms), the signed checkpoint that it ends with, the files beside the
    segments, and whether a copy of the keyring belongs to it."""

    id: str
    made_ms: int
    checkpoint: Checkpoint
    parts: Sequence[NamedBytes]
    keyring: bool = False
    piece_bytes: int = PIECE


@dataclass(slots=True)
class BackupRun:
    """One run. After `make`: how many bytes were uploaded, how many the target had, and what the verification found."""

    folder: ArchiveFolder
    shelf: Shelf
    progress: Callable[[int], None] = lambda _: None
    uploaded: int = 0
    reused: int = 0
    findings: list[Finding] = field(default_factory=list)

    def make(self, request: Request, turn: Turn) -> Snapshot:
        """The snapshot, durable at the target on return, all that is new read back and verified.

        A damaged segment does not stop it: its findings are counted in the snapshot. Raises UnavailableError if the
        target fails, IntegrityError if the log is shorter than the checkpoint.
        """
        before = next(iter(reversed(self.shelf.usable())), None)
        courier = Courier(self.shelf, partial(self._sent, turn))
        parts = tuple(sorted((_part(each, request, courier) for each in request.parts), key=lambda part: part.name))
        made = Snapshot(
            request.id, self.folder.archive_id, request.made_ms, request.checkpoint.size, request.checkpoint.root,
            request.keyring, 0, request.piece_bytes, (), parts,
        )  # fmt: skip
        made = self._segments(made, request.checkpoint, before, courier)
        courier.look()
        if not all(courier.has(blob, made.piece_bytes) for blob in made.blobs()):
            raise IntegrityError(
                f"pieces that were stored at {self.shelf.target.name} are gone or cut",
                hint="find out who else writes to the target, then run the backup again",
            )
        turn.keep()
        self.shelf.target.put(self.shelf.snapshot_name(made.id), made.serialize())
        if self.shelf.snapshot(made.id) != made:
            raise UnavailableError(f"{self.shelf.target.name} does not return what was stored there")
        return made

    def _segments(self, draft: Snapshot, checkpoint: Checkpoint, before: Snapshot | None, courier: Courier) -> Snapshot:
        """Send the segments that no earlier snapshot has, verify them as they come back, and complete the draft."""
        store, piece_bytes = self.folder.segment_store(), draft.piece_bytes
        is_of_use = before is not None and not before.findings and before.piece_bytes == piece_bytes
        earlier = {each.number: each for each in before.segments} if before is not None and is_of_use else {}
        kept: dict[int, SegmentCopy] = {}
        sent: dict[int, Sending] = {}
        found = extents(store, checkpoint.size)
        for extent in found:
            copy = earlier.get(extent.number)
            if copy is not None and self._is_whole(extent, copy, piece_bytes, courier):
                kept[extent.number] = copy
            else:
                opened = partial(store.open, LOG, extent.number)
                sent[extent.number] = Sending(opened, extent.size, piece_bytes, courier)
        self._verify(draft, checkpoint, kept, sent, {each.number: each.size for each in found})
        copies = tuple(
            kept.get(each.number) or SegmentCopy(each.number, sent[each.number].finish(), each.end) for each in found
        )
        return replace(draft, segments=copies, findings=len(self.findings))

    def _is_whole(self, extent: Extent, earlier: SegmentCopy, piece_bytes: int, courier: Courier) -> bool:
        """Whether an earlier copy of a sealed segment is still whole at the target: its end here and there is the same,
        and its pieces are listed with their sizes. `backup verify` reads every byte of it."""
        if not extent.end or (earlier.end, earlier.blob.size) != (extent.end, extent.size):
            return False
        if not courier.has(earlier.blob, piece_bytes):
            return False
        last = extent.size - (len(earlier.blob.pieces) - 1) * piece_bytes
        try:
            name = self.shelf.piece_name(earlier.blob.pieces[-1])
            if last >= END_BYTES and self.shelf.target.read(name, last - END_BYTES, END_BYTES) != extent.end:
                return False
        except CofferError:
            return False
        self.reused += extent.size
        self.progress(extent.size)
        return True

    def _verify(
        self,
        draft: Snapshot,
        checkpoint: Checkpoint,
        kept: Mapping[int, SegmentCopy],
        sent: Mapping[int, Sending],
        sizes: Mapping[int, int],
    ) -> None:
        """Verify what is sent as the target returns it, with the chain, up to the signed root; all of it, if the
        snapshot before had any finding."""
        since = checkpoint.size
        if sent:
            with self.folder.segment_store().open(LOG, min(sent)) as source:
                since = read_segment_header(source).first_seq
        openers: dict[int, Callable[[], Source]]
        openers = {each.number: partial(opened_at, self.shelf, each.blob, draft.piece_bytes) for each in kept.values()}
        openers |= {number: each.open for number, each in sent.items()}
        segments = SnapshotSegments({number: (size, openers[number]) for number, size in sizes.items()})
        with as_archive(self.shelf, draft, segments) as archive:
            options = Options(since=since, beside=False)  # the history is as old as the archive
            self.findings = list(Verifier(archive, options, remembered=checkpoint).findings())

    def _sent(self, turn: Turn, length: int, is_new: bool) -> None:
        self.uploaded += length if is_new else 0
        self.reused += 0 if is_new else length
        self.progress(length)
        turn.keep()


def _part(part: NamedBytes, request: Request, courier: Courier) -> Part:
    sending = Sending(partial(MemorySource, part.data), len(part.data), request.piece_bytes, courier)
    return Part(part.name, sending.finish())
