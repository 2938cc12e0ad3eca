"""The boundaries between segments: whether all segments belong to one history, and to the one that was signed.

Rule: reads only, a few small pieces of each segment, whatever its size. Each header names the last record of the
segment before it, each footer names its own last record, and that record is read: a segment of another history does not
fit. Signed checkpoints are checked against the log's own headers from the last footer before them on, so nothing before
that is taken on trust except the inside of segments, which a verification reads. Damage is left to verification too:
only intact structures count as a contradiction.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from coffer.archive.format.chain import (
    SegmentEnd,
    read_epoch,
    read_first_header,
    read_footer,
    read_record,
    read_segment_end,
    read_segment_header,
)
from coffer.archive.format.epoch import complaint
from coffer.archive.format.merkle import Frontier, leaf_hash
from coffer.archive.format.record import HEADER, Kind, genesis_hash, parse_header
from coffer.archive.format.segment import Footer
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.segment_store import LOG, segment_numbers
from coffer.archive.store.source import Source
from coffer.archive.tree.checkpoint import Checkpoint
from coffer.archive.tree.leaves import Leaves
from coffer.archive.tree.mark import Mark
from coffer.archive.tree.proof import root
from coffer.archive.tree.tiles import Tiles
from coffer.keys.disk.reading import reading
from coffer.keys.errors import FormatError, HistoryError, IntegrityError

__all__ = ["FORK", "Seams", "epoch_at", "require_marked", "require_signed"]

FORK = "a fork: nothing was changed; coffer recover show lists what is missing and the remedies"
_REMEDY = "nothing was changed; coffer recover show lists what is missing and the remedies"
_HINT = "run coffer verify; repair it with coffer repair --from a backup or replica"


@dataclass(slots=True)
class Seams:
    """The sealed segments of a log, from the first on without a gap, the end of each, and the epoch of the last.

    `unread` counts the last of them whose beginning is damaged: each may have begun an epoch after `epoch`.
    """

    folder: ArchiveFolder
    ends: list[SegmentEnd]
    epoch: int = 0
    unread: int = 0

    @classmethod
    def read(cls, folder: ArchiveFolder, numbers: Sequence[int]) -> "Seams":
        """Read the ends of these segments and compare them.

        Raises IntegrityError if one of them has no footer or belongs to another archive, HistoryError if two do not fit
        together, UnreadableError.
        """
        seams = cls(folder, [])
        for number in numbers:
            with reading(f"segment {number}"), folder.segment_store().open(LOG, number) as source:
                seams._add(source, number)
        return seams

    @property
    def size(self) -> int:
        """The number of records in these segments."""
        return self.ends[-1].tree_size if self.ends else 0

    def _add(self, source: Source, number: int) -> None:
        try:
            ending = read_segment_end(source, source.size)
        except FormatError as error:
            raise IntegrityError(f"segment {number}: {error}", hint=error.hint() or _HINT) from error
        if ending is None:
            raise IntegrityError(f"segment {number} has no footer but is not the last", hint=_REMEDY)
        self.compare_begin(source, number)
        with suppress(FormatError):
            raw = source.read(ending.offset, HEADER.size)
            if parse_header(raw).seq != ending.tree_size - 1 or leaf_hash(raw) != ending.head:
                raise HistoryError(f"segment {number} ends with another record than its footer says", hint=FORK)
        self.ends.append(ending)

    def compare_begin(self, source: Source, number: int) -> None:
        """Compare the beginning of the next segment with these, and take in its epoch; a verification reports damage.

        Raises IntegrityError, HistoryError, UnreadableError.
        """
        try:
            header, folder = read_segment_header(source), self.folder
        except FormatError:
            self.unread += 1
            return
        if (header.archive_id, header.log, header.number) != (folder.archive_id, 0, number):
            raise IntegrityError(f"segment {number} belongs to another place or archive", hint=_HINT)
        before = self.ends[-1].head if self.ends else genesis_hash(folder.archive_id)
        if (header.first_seq, header.prev_leaf) != (self.size, before):
            raise HistoryError(f"segment {number} does not continue the one before it", hint=FORK)
        first = read_first_header(source)
        what = complaint(self.epoch, header.epoch, None if first is None else first.kind, self.unread)
        if what is not None:
            raise HistoryError(f"segment {number} {what}", hint=FORK)
        if first is not None and first.kind == Kind.LOG_EPOCH:
            with suppress(FormatError):
                _require_stated(number, header.epoch, read_epoch(source, first))
        self.epoch, self.unread = header.epoch, 0

    def footer(self, index: int) -> Footer:
        """The whole footer of a segment, by its index here. Raises IntegrityError, UnreadableError."""
        number = index + 1
        with reading(f"segment {number}"):
            try:
                with self.folder.segment_store().open(LOG, number) as source:
                    found = read_footer(source, source.size)
            except FormatError as error:
                raise IntegrityError(f"segment {number}: {error}", hint=_HINT) from error
        if found is None:
            raise IntegrityError(f"segment {number} has no footer but is not the last", hint=_REMEDY)
        return found[0]

    def last_tag(self) -> tuple[int, bytes]:
        """Group and tag of the last record. Raises IntegrityError, UnreadableError."""
        number = len(self.ends)
        with reading(f"segment {number}"):
            try:
                with self.folder.segment_store().open(LOG, number) as source:
                    record = read_record(source, self.ends[-1].offset, source.size)
            except FormatError as error:
                raise IntegrityError(f"segment {number}: {error}", hint=_HINT) from error
        return record.header.group, record.tag

    def require(self, claim: Checkpoint) -> None:
        """Check these segments against a signed checkpoint over no more records than they have.

        Reads the record headers of one segment. Raises HistoryError if the log is not what was signed, IntegrityError
        if neither its headers nor its tiles can decide that.
        """
        index = next(at for at, each in enumerate(self.ends) if each.tree_size >= claim.size)
        start = self.footer(index - 1).frontier() if index else Frontier()
        try:
            if start.size < claim.size:
                Leaves(self.folder).grow(start, claim.size)
            require_signed(start, claim)
        except HistoryError:
            raise
        except IntegrityError:
            self._require_tiles(claim, index)

    def _require_tiles(self, claim: Checkpoint, index: int) -> None:
        """The same check by tiles, if a header is damaged: they show what was signed up to the segment before."""
        tiles = Tiles(self.folder, claim.size)
        if root(claim.size, tiles.at) != claim.root or (
            index and tiles.at(0, self.ends[index - 1].tree_size - 1) != self.ends[index - 1].head
        ):
            raise HistoryError(_other(claim), hint=FORK)


def _require_stated(number: int, epoch: int, stated: int) -> None:
    if stated != epoch:
        what = f"segment {number} is of epoch {epoch} of the log, and its first record begins epoch {stated}"
        raise HistoryError(what, hint=FORK)


def epoch_at(folder: ArchiveFolder, size: int) -> int:
    """The epoch of a log's first `size` records, by the header of the segment that holds the last of them; 0 for none.

    Raises IntegrityError, UnreadableError.
    """
    store = folder.segment_store()
    for number in reversed(segment_numbers(store)):
        with reading(f"segment {number}"), store.open(LOG, number) as source:
            header = read_segment_header(source)
        if header.first_seq < size:
            return header.epoch
    return 0


def require_marked(folder: ArchiveFolder, mark: Mark) -> None:
    """Raise HistoryError if the epoch of a log that has the mark's records is another there than the mark names.

    Raises IntegrityError, UnreadableError.
    """
    found = epoch_at(folder, mark.size)
    if found != mark.epoch:
        what = f"the first {mark.size} records are of epoch {found} of the log, and the mark outside the folder names"
        raise HistoryError(f"{what} epoch {mark.epoch}", hint=FORK)


def require_signed(tree: Frontier, claim: Checkpoint) -> None:
    """Raise HistoryError if the tree has the size of a signed checkpoint but another root."""
    if tree.size == claim.size and tree.root() != claim.root:
        raise HistoryError(_other(claim), hint=FORK)


def _other(claim: Checkpoint) -> str:
    return f"the first {claim.size} records are not those that were signed"
