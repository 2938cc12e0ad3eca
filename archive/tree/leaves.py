"""The leaf hashes of the tree, read from the record headers in the segments.

Rule: it reads forwards and remembers where it stopped: reading newly appended records costs about 3 us a record, and
appending them costs nothing here. It checks only a record's number: the caller checks the hashes against a signed root.
"""

from dataclasses import dataclass

from coffer.archive.format import segment
from coffer.archive.format.chain import read_footer, read_segment_header
from coffer.archive.format.merkle import Frontier, leaf_hash
from coffer.archive.format.record import MAGIC
from coffer.archive.format.walk import Walker
from coffer.archive.store.folder import ArchiveFolder
from coffer.archive.store.segment_store import LOG, segment_numbers
from coffer.keys.errors import IntegrityError, NotFoundError

_BATCH = 4096
_HINT = "run coffer verify; repair it with coffer repair --from a backup or replica"


@dataclass(slots=True)
class _Place:
    """Where to continue reading: segment, byte offset, the end of its records, and whether that end is final."""

    number: int
    offset: int
    stop: int = 0
    is_sealed: bool = False


class Leaves:
    """Leaf hashes by record number. Not thread-safe; holds no file open between calls."""

    def __init__(self, folder: ArchiveFolder) -> None:
        self._segments = folder.segment_store()
        self._seq = 0
        self._ready: list[bytes] = []  # the leaves from `_seq` on that were already read
        self._place = _Place(1, segment.HEADER.size)

    def take(self, begin: int, end: int) -> list[bytes]:
        """The leaf hashes of records [begin, end). Cheap if `begin` is where the last call ended.

        Raises IntegrityError if the log does not hold these records in order.
        """
        if begin != self._seq:
            self._seek(begin)
        while len(self._ready) < end - begin:
            self._fill()
        taken, self._ready = self._ready[: end - begin], self._ready[end - begin :]
        self._seq = end
        return taken

    def grow(self, tree: Frontier, size: int) -> None:
        """Add leaves to a tree until it has `size` of them. Raises the same error as `take`."""
        while tree.size < size:
            for leaf in self.take(tree.size, min(tree.size + _BATCH, size)):
                tree.append(leaf)

    def _seek(self, begin: int) -> None:
        found = segment_numbers(self._segments)
        low, high = 0, len(found)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._first(found[middle]) <= begin else (low, middle)
        if not found:
            raise NotFoundError("the log holds no record yet", hint="store something first")
        number = found[low]
        first = self._first(number)
        with self._segments.open(LOG, number) as source:
            sealed = read_footer(source, source.size)
        self._ready, self._seq, self._place = [], first, _Place(number, segment.HEADER.size)
        if sealed is not None and first <= begin < first + len(sealed[0].offsets):
            self._seq, self._place.offset = begin, sealed[0].offsets[begin - first]
            return
        while self._seq + len(self._ready) < begin:
            self._seq, self._ready = self._seq + len(self._ready), []
            self._fill()
        self._ready, self._seq = self._ready[begin - self._seq :], begin

    def _first(self, number: int) -> int:
        with self._segments.open(LOG, number) as source:
            return read_segment_header(source).first_seq

    def _fill(self) -> None:
        """Read more records into `_ready`, or move to the next segment."""
        place = self._place
        try:
            opened = self._segments.open(LOG, place.number)
        except NotFoundError as error:
            raise IntegrityError(f"segment {place.number} is missing", hint=_HINT) from error
        with opened as source:
            if not place.is_sealed:
                size = source.size
                sealed = read_footer(source, size)
                place.stop, place.is_sealed = (sealed[1], True) if sealed else (size, False)
            batch, _ = Walker(source, bodies=False).batch(place.offset, place.stop, lambda _seq, _kind: False)
        if not batch.raws and place.is_sealed and place.offset == place.stop:
            self._place = _Place(place.number + 1, segment.HEADER.size)
            return
        seq = self._seq + len(self._ready)
        for number, raw in enumerate(batch.raws, seq):
            if raw[:4] != MAGIC or int.from_bytes(raw[8:16], "big") != number:
                raise self._missing(number)
        if not batch.raws:
            raise self._missing(seq)
        self._ready += [leaf_hash(raw) for raw in batch.raws]
        place.offset = batch.end

    def _missing(self, seq: int) -> IntegrityError:
        place = self._place
        return IntegrityError(
            f"segment {place.number}, from offset {place.offset} on: record {seq} is missing", hint=_HINT
        )
