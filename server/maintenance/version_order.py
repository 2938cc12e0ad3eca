"""Compare what all versions of each instance say of their predecessors: part of `coffer verify --level decrypt`.

Rule: pure, about 80 bytes for each object of the archive. An instance is known here by a hash of its UIDs only, and a
finding names records only.
"""

import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import groupby
from operator import itemgetter
from typing import Final

from coffer.archive.verify.report import Finding
from coffer.index.instance.entry import InstanceEntry
from coffer.index.instance.order import Order
from coffer.index.instance.succession import Broken, Succeeding, broken
from coffer.keys.buffer import Buffer

__all__ = ["VersionOrder", "contradiction", "row_of"]

_ID: Final = 16  # of 32 bytes of a content id, which is a keyed hash
_NONE: Final = bytes(_ID)
# What a record says: hash of the instance's UIDs, order (time ms, log, seq), its own seq, content ids. Big endian, so
# that rows sort by instance and order.
_ROW: Final = struct.Struct(f">{_ID}sQIQQ{_ID}s{_ID}s")


def row_of(entry: InstanceEntry, order: Order, seq: int, content_id: bytes, previous: bytes) -> bytes:
    """What one record says, as `VersionOrder.add` takes it; ids as in `Succeeding`."""
    uids = (entry.study_uid, entry.series_uid, entry.sop_instance)
    name = blake2b("\0".join(uids).encode("utf-8", "surrogatepass"), digest_size=_ID).digest()
    return _ROW.pack(name, *order, seq, content_id[:_ID], previous[:_ID])


def contradiction(wrong: Broken) -> str:
    """The sentence about a version that does not name the one before it."""
    if wrong.before is None:
        return "version order contradicts this record: it names a version before it, and there is none"
    return f"version order contradicts this record: it does not name record {wrong.before}, the version before it"


class VersionOrder:
    """An `archive.verify.report.Comparison` of rows as `row_of` makes them."""

    def __init__(self) -> None:
        self._rows = [bytearray() for _ in range(256)]  # by first byte: sorted one by one, to need little memory
        self._lost = array("Q")  # times of records that could not be opened

    def add(self, told: Buffer, lost: Sequence[int]) -> None:
        """As `Comparison.add`."""
        rows = memoryview(told)
        for at in range(0, len(rows), _ROW.size):
            self._rows[rows[at]] += rows[at : at + _ROW.size]
        self._lost.extend(lost)

    def findings(self, *, is_whole: bool) -> Iterator[Finding]:
        """As `Comparison.findings`: every version that contradicts the order of the versions of its instance.

        A predecessor that is not there is accepted where a record in between could not be opened (its key is destroyed,
        or it is a finding of its own), or where not everything was read and it may be earlier than that.
        """
        self._lost = array("Q", sorted(self._lost))

        def may_be_lost(after: Order | None, before: Order) -> bool:
            if after is None and not is_whole:
                return True
            at = bisect_left(self._lost, 0 if after is None else after.time_ms)
            return at < len(self._lost) and self._lost[at] <= before.time_ms

        for rows in self._rows:
            for versions in _instances(rows):
                for wrong in broken(versions, may_be_lost):
                    yield Finding(0, 0, wrong.seq, contradiction(wrong))


def _instances(rows: bytearray) -> Iterator[list[Succeeding]]:
    """The versions of each instance."""
    ordered = sorted(_ROW.iter_unpack(rows))
    for _, found in groupby(ordered, itemgetter(0)):
        yield [
            Succeeding(Order(time_ms, log, first), seq, content_id, b"" if previous == _NONE else previous)
            for _, time_ms, log, first, seq, content_id, previous in found
        ]
