"""A segment that is assembled from two others: each of its bytes from the one that has it whole.

Rule: it copies nothing and checks nothing; it says where each byte is taken from, and reads it there.
"""

from bisect import bisect_right
from collections.abc import Sequence
from typing import NamedTuple

from coffer.archive.store.source import Source
from coffer.keys.errors import FormatError

__all__ = ["Part", "Splice"]


class Part(NamedTuple):
    """Bytes up to `stop`, from where the part before it ends, lie in `source` at the same offsets."""

    stop: int
    source: Source


class Splice(Source):
    """The parts, one behind the other. Closing it closes their sources."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = parts
        self._stops = [part.stop for part in parts]

    @property
    def size(self) -> int:
        """Where the last part ends."""
        return self._stops[-1] if self._stops else 0

    def read(self, offset: int, length: int) -> bytes:
        """As the contract says, from as many sources as it takes."""
        if offset + length > self.size:
            raise FormatError(f"the file ends {offset + length - max(self.size, offset)} bytes too early")
        pieces, end = [], offset + length
        while offset < end:
            stop, source = self._parts[bisect_right(self._stops, offset)]
            pieces.append(source.read(offset, min(stop, end) - offset))
            offset += len(pieces[-1])
        return b"".join(pieces)

    def close(self) -> None:
        """Close every source."""
        for part in self._parts:
            part.source.close()
