"""Where one segment ends and the next begins: whether all of them are of one history, and of the one that was signed.

Rule: reads only, a few small pieces of each segment, whatever it holds. Each header names the last record of the one
before it, each footer its own last record, and that record is read: a segment of another history does not fit. What was
signed is held against the log's own headers from the last footer before it on; so nothing before that is taken on trust
but what lies inside a segment, which a verification reads. Damage is left to it too: only what is whole contradicts.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from coffer.archive.format.chain import Ending, read_ending, read_footer, read_segment_header
from coffer.archive.format.merkle import Frontier, leaf_hash
from coffer.archive.format.record import HEADER, genesis_hash, parse_header
from coffer.archive.format.segment import Footer
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.tree.checkpoint import Checkpoint
from coffer.archive.tree.leaves import Leaves
from coffer.archive.tree.proof import root
from coffer.archive.tree.tiles import Tiles
from coffer.keys.disk import opening
from coffer.keys.disk.reading import read_exactly, reading
from coffer.keys.errors import FormatError, HistoryError, IntegrityError

__all__ = ["FORK", "Seams", "require_signed"]

FORK = "a fork: nothing was changed; coffer recover show tells what is missing and the ways out"
_HINT = "run coffer verify; mend it with coffer repair --from a backup or replica"


@dataclass(slots=True)
class Seams:
    """The sealed segments of a log, from the first on without a gap, and how each ends."""

    folder: ArchiveFolder
    endings: list[Ending]

    @classmethod
    def read(cls, folder: ArchiveFolder, numbers: Sequence[int]) -> "Seams":
        """Read the ends of these segments and compare them.

        Raises IntegrityError where one of them has no footer or belongs to another archive, HistoryError where two do
        not fit together, UnreadableError.
        """
        seams = cls(folder, [])
        for number in numbers:
            with reading(f"segment {number}"):
                fd = opening.descriptor(folder.segment_path(number))
                try:
                    seams._add(fd, number)
                finally:
                    os.close(fd)
        return seams

    @property
    def size(self) -> int:
        """How many records these segments hold."""
        return self.endings[-1].tree_size if self.endings else 0

    def _add(self, fd: int, number: int) -> None:
        try:
            ending = read_ending(fd, os.fstat(fd).st_size)
        except FormatError as error:
            raise IntegrityError(f"segment {number}: {error}", hint=_HINT) from error
        if ending is None:
            raise IntegrityError(f"segment {number} has no footer but is not the last", hint=_HINT)
        with suppress(FormatError):  # a verification tells what is damaged
            self._compare_begin(fd, number)
        with suppress(FormatError):
            raw = read_exactly(fd, ending.offset, HEADER.size)
            if parse_header(raw).seq != ending.tree_size - 1 or leaf_hash(raw) != ending.head:
                raise HistoryError(f"segment {number} ends with another record than its footer says", hint=FORK)
        self.endings.append(ending)

    def _compare_begin(self, fd: int, number: int) -> None:
        header, folder = read_segment_header(fd), self.folder
        if (header.archive_id, header.number) != (folder.archive_id, number):
            raise IntegrityError(f"segment {number} belongs to another place or archive", hint=_HINT)
        before = self.endings[-1].head if self.endings else genesis_hash(folder.archive_id)
        if (header.first_seq, header.prev_leaf) != (self.size, before):
            raise HistoryError(f"segment {number} does not go on from the one before it", hint=FORK)

    def footer(self, place: int) -> Footer:
        """The whole footer of one of the segments, by its place here. Raises IntegrityError, UnreadableError."""
        number = place + 1
        with reading(f"segment {number}"):
            fd = opening.descriptor(self.folder.segment_path(number))
            try:
                found = read_footer(fd, os.fstat(fd).st_size)
            except FormatError as error:
                raise IntegrityError(f"segment {number}: {error}", hint=_HINT) from error
            finally:
                os.close(fd)
        if found is None:
            raise IntegrityError(f"segment {number} has no footer but is not the last", hint=_HINT)
        return found[0]

    def require(self, claim: Checkpoint) -> None:
        """Hold these segments against a signed checkpoint over no more records than they have.

        Reads the record headers of one segment. Raises HistoryError where the log is not what was signed,
        IntegrityError where neither its headers nor its tiles can say it.
        """
        place = next(at for at, each in enumerate(self.endings) if each.tree_size >= claim.size)
        start = self.footer(place - 1).frontier() if place else Frontier()
        try:
            if start.size < claim.size:
                Leaves(self.folder).grow(start, claim.size)
            require_signed(start, claim)
        except HistoryError:
            raise
        except IntegrityError:
            self._require_tiles(claim, place)

    def _require_tiles(self, claim: Checkpoint, place: int) -> None:
        """A header is damaged, which a verification tells: the tiles say what was signed up to the segment before."""
        tiles = Tiles(self.folder, claim.size)
        if root(claim.size, tiles.at) != claim.root or (
            place and tiles.at(0, self.endings[place - 1].tree_size - 1) != self.endings[place - 1].head
        ):
            raise HistoryError(_other(claim), hint=FORK)


def require_signed(tree: Frontier, claim: Checkpoint) -> None:
    """Raise HistoryError where a tree of as many records as a signed checkpoint covers has another root."""
    if tree.size == claim.size and tree.root() != claim.root:
        raise HistoryError(_other(claim), hint=FORK)


def _other(claim: Checkpoint) -> str:
    return f"the first {claim.size} records are not those that were signed"
