"""Make a snapshot: upload what the target lacks, read it back, verify it, and write the list that makes it count.

Rule: opens no key and changes nothing in the archive. The list is written last: without it there is no snapshot, and
whatever an interrupted run left is used by the next one.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace

from coffer.archive.copies.extent import Extent, extents
from coffer.archive.copies.segments import as_archive
from coffer.archive.copies.shelf import Shelf, ahead
from coffer.archive.copies.snapshot import END_BYTES, PIECE, Blob, Part, SegmentCopy, Snapshot
from coffer.archive.copies.target import Stored
from coffer.archive.copies.turns import Turn
from coffer.archive.format.chain import read_segment_header
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
    jobs: int = 1
    uploaded: int = 0
    reused: int = 0
    findings: list[Finding] = field(default_factory=list)
    _stored: dict[bytes, Stored] = field(default_factory=dict)
    _proved: set[bytes] = field(default_factory=set)
    _fresh_from: int | None = None

    def make(self, request: Request, turn: Turn) -> Snapshot:
        """The snapshot, durable at the target on return, all of it read back and what is new verified.

        A damaged segment does not stop it: its findings are counted in the snapshot. Raises UnavailableError if the
        target fails, IntegrityError if the log is shorter than the checkpoint.
        """
        before = next(iter(reversed(self.shelf.usable())), None)
        known = {each.number: each for each in before.segments} if before and not before.findings else {}
        self._stored = self.shelf.pieces()
        self._proved = {piece for blob in (before.blobs() if before else ()) for piece in blob.pieces}
        copies = []
        for extent in extents(self.folder.segment_store(), request.checkpoint.size):
            turn.keep()
            copy = self._known(extent, known.get(extent.number), before.piece_bytes if before else 0, request)
            copies.append(copy or self._segment(extent, request, turn))
        parts = sorted((self._part(each, request, turn) for each in request.parts), key=lambda part: part.name)
        made = Snapshot(
            request.id, self.folder.archive_id, request.made_ms, request.checkpoint.size, request.checkpoint.root,
            request.keyring, 0, request.piece_bytes, tuple(copies), tuple(parts),
        )  # fmt: skip
        made = replace(made, findings=self._verify(made, request, turn))
        self._require_whole(made)
        turn.keep()
        name = self.shelf.snapshot_name(made.id)
        self.shelf.target.put(name, made.serialize())
        if self.shelf.snapshot(made.id) != made:
            raise UnavailableError(f"{self.shelf.target.name} does not return what was stored there")
        return made

    def _known(
        self, extent: Extent, earlier: SegmentCopy | None, piece_bytes: int, request: Request
    ) -> SegmentCopy | None:
        """An earlier copy of a sealed segment if it is still whole at the target: its end here and there is the same,
        and its pieces are listed with their sizes. `backup verify` reads every byte of it."""
        if not extent.end or earlier is None or (earlier.end, earlier.blob.size) != (extent.end, extent.size):
            return None
        if piece_bytes != request.piece_bytes or not self._is_stored(earlier.blob, piece_bytes):
            return None
        last = extent.size - (len(earlier.blob.pieces) - 1) * piece_bytes
        try:
            name = self.shelf.piece_name(earlier.blob.pieces[-1])
            if last >= END_BYTES and self.shelf.target.read(name, last - END_BYTES, END_BYTES) != extent.end:
                return None
        except CofferError:
            return None
        self.reused += extent.size
        self.progress(extent.size)
        return earlier

    def _is_stored(self, blob: Blob, piece_bytes: int) -> bool:
        sizes = [piece_bytes] * (len(blob.pieces) - 1) + [blob.size - (len(blob.pieces) - 1) * piece_bytes]
        listed = [self._stored.get(each) for each in blob.pieces]
        return all(each is not None and each.size == size for each, size in zip(listed, sizes, strict=False))

    def _segment(self, extent: Extent, request: Request, turn: Turn) -> SegmentCopy:
        with self.folder.segment_store().open(LOG, extent.number) as source:
            if self._fresh_from is None:
                self._fresh_from = read_segment_header(source).first_seq
            return SegmentCopy(extent.number, self._upload(source, extent.size, request.piece_bytes, turn), extent.end)

    def _part(self, part: NamedBytes, request: Request, turn: Turn) -> Part:
        source = MemorySource(part.data)
        return Part(part.name, self._upload(source, len(part.data), request.piece_bytes, turn))

    def _upload(self, source: Source, size: int, piece_bytes: int, turn: Turn) -> Blob:
        pieces = []
        with closing(source):
            for sha256, length, is_new in ahead(self._store, ((each,) for each in _cut(source, size, piece_bytes))):
                pieces.append(sha256)
                self.uploaded += length if is_new else 0
                self.reused += 0 if is_new else length
                self.progress(length)
                turn.keep()
        return Blob(size, tuple(pieces))

    def _store(self, data: bytes) -> tuple[bytes, int, bool]:
        """Upload a piece unless the target has it, and return its hash, its length, and whether it was uploaded. One
        that no snapshot vouches for is read first: an interrupted run left it, or somebody else."""
        sha256 = hashlib.sha256(data).digest()
        stored = self._stored.get(sha256)
        is_new = stored is None or stored.size != len(data)
        if is_new or not (sha256 in self._proved or self._is_there(sha256, data)):
            self.shelf.put_piece(sha256, data)
            is_new = True
        self._stored[sha256] = Stored(self.shelf.piece_name(sha256), len(data), 0)
        return sha256, len(data), is_new

    def _is_there(self, sha256: bytes, data: bytes) -> bool:
        try:
            return self.shelf.piece(sha256, len(data)) == data
        except CofferError:
            return False

    def _verify(self, made: Snapshot, request: Request, turn: Turn) -> int:
        """Read what is new back from the target, with the chain, up to the signed root. Returns the
        number of findings; if the snapshot before had any, everything counts as new."""
        since = request.checkpoint.size if self._fresh_from is None else self._fresh_from

        def passed(_: int) -> None:
            turn.keep()

        with as_archive(self.shelf, made) as archive:
            options = Options(since=since, jobs=self.jobs, beside=False)  # the history would be a second pass over it
            verifier = Verifier(archive, options, remembered=request.checkpoint, progress=passed)
            self.findings = list(verifier.findings())
        return len(self.findings)

    def _require_whole(self, made: Snapshot) -> None:
        """Every piece is listed, now, with its size: none was removed meanwhile."""
        self._stored = self.shelf.pieces()
        if not all(self._is_stored(blob, made.piece_bytes) for blob in made.blobs()):
            raise IntegrityError(
                f"pieces that were stored at {self.shelf.target.name} are gone or cut",
                hint="find out who else writes to the target, then run the backup again",
            )


def _cut(source: Source, size: int, piece_bytes: int) -> Iterator[bytes]:
    for at in range(0, size, piece_bytes):
        yield source.read(at, min(piece_bytes, size - at))
