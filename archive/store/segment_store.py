"""A store of whole, sealed segments: what a folder, memory or an object store must promise to hold a log.

Rule: nothing is ever appended or overwritten here; the growing end of a log is another seam. It knows numbers and
bytes, never formats: what a segment holds is for its readers.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol, Self, TypeAlias

from coffer.archive.store.source import Source
from coffer.keys.errors import NotFoundError

__all__ = [
    "LOG",
    "LogId",
    "Receipt",
    "SealedSegment",
    "SegmentInfo",
    "SegmentStore",
    "pieces",
    "require_log",
    "segment_numbers",
    "sha256_of",
    "total_bytes",
]

LogId: TypeAlias = int  # u32
LOG: Final[LogId] = 0  # the archive's own log, the only one so far
_PIECE: Final = 1 << 20


class SegmentInfo(NamedTuple):
    """A segment that is in a store: its number, from 1, and its size in bytes at this moment."""

    number: int
    size: int


class Receipt(NamedTuple):
    """What a store holds, after reading it back: the proof with which another store may release its own copy."""

    log: LogId
    number: int
    size: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class SealedSegment:
    """A segment that is complete and never changes again. `open` gives its bytes anew each time, to be closed by the
    caller: an upload may have to begin again."""

    log: LogId
    number: int
    size: int
    sha256: bytes
    open: Callable[[], Source]

    @classmethod
    def of(cls, number: int, opened: Callable[[], Source], log: LogId = LOG) -> Self:
        """The segment that `opened` gives, read once to hash it. Raises what opening and reading it raise."""
        with opened() as source:
            return cls(log, number, source.size, sha256_of(source), opened)

    @property
    def receipt(self) -> Receipt:
        """What a store that holds these bytes answers."""
        return Receipt(self.log, self.number, self.size, self.sha256)


class SegmentStore(Protocol):
    """Whole segments under their numbers. Thread-safe.

    One process at a time writes: the holder of the writer's lock. Every method may be called again after an
    UnavailableError, also if the first call had its effect and only the answer was lost: the result is then the same.
    Names in `kept` are those of lost+found: letters, digits, `.`, `_` and `-`.
    """

    def segments(self, log: LogId) -> list[SegmentInfo]:
        """All segments of a log, by number; what was put before is among them. In the place where a log is written, the
        last one may still be growing, and is opened like the others. Raises NotFoundError if there is no such log."""
        ...

    def open(self, log: LogId, number: int) -> Source:
        """A segment to read from, closed by the caller. It stays what it was when opened, even if it is replaced or
        set aside meanwhile; only a growing one grows.

        Raises NotFoundError if there is none, IntegrityError if something else is in its place, UnreadableError.
        """
        ...

    def put(self, sealed: SealedSegment) -> Receipt:
        """Add a segment. On return it is durable, and was read back and compared.

        Readers see all of it or nothing, also after a crash at any point. If these bytes are there already, it makes
        them durable and returns the same. If other bytes are there under this number, both are kept (the given ones as
        `<name>-refused-<16 hex digits of their SHA-256>`) and HistoryError is raised: nothing is ever overwritten.
        Raises UnavailableError if there is no room, IntegrityError if `sealed` does not give the bytes that it names.
        """
        ...

    def replace(self, sealed: SealedSegment, kept: str) -> Receipt:
        """Put a segment in the place of the one under its number, which is kept as `kept`; `put` where there is none.

        Not `set_aside` and then `put`: a crash between them would leave a log without a segment, which nobody may
        write, and if the store is full by then, it would stay so. Here the new bytes are durable and compared first,
        then the old ones are durably kept, and then one atomic step takes the old for the new. At every moment the
        segment is whole: the old or the new. Without a name in `kept` only what is no segment (a link, a folder's
        entry of another kind) is replaced. Raises as `put`; HistoryError, and nothing is changed, if there are other
        bytes under the name `kept`.
        """
        ...

    def was_replaced(self, log: LogId, number: int, kept: str) -> bool:
        """Whether a `replace` or `put` came to its end: the segment exists, none is half way to it, and, if `kept` is
        given, that is there and is not the segment itself."""
        ...

    def kept_as(self, log: LogId, number: int, wanted: str) -> str:
        """A name under which lost+found can keep a segment: the wanted one, unless something else has it. Anybody who
        writes the folder may have taken the name, and no remedy may hang on that."""
        ...

    def set_aside(self, log: LogId, number: int, kept: str) -> None:
        """Move a segment to lost+found as `kept`; durable on return. With `release`, the only removal there is.

        If it is there already and the segment is not, nothing happens. Raises NotFoundError if neither is there,
        HistoryError if there are other bytes under the name `kept`.
        """
        ...

    def release(self, log: LogId, number: int, proof: Receipt) -> None:
        """Give a segment up that another store holds; durable on return. `proof` is what that store answered to `put`.

        If there is none, nothing happens. Raises HistoryError, and nothing is changed, if the proof is not of the very
        bytes that are here, or if it is the log's last segment, on which its end and its head depend.
        """
        ...

    def room(self) -> int | None:
        """The bytes that may still be written, None without such a limit. Others may write at the same moment. Raises
        UnavailableError."""
        ...


def require_log(log: LogId) -> None:
    """Raise NotFoundError for any log but the archive's own."""
    if log != LOG:
        raise NotFoundError(f"there is no log {log} here")


def segment_numbers(store: SegmentStore) -> list[int]:
    """The numbers of a log's segments, in order."""
    return [info.number for info in store.segments(LOG)]


def total_bytes(store: SegmentStore) -> int:
    """The size of all segments in bytes."""
    return sum(info.size for info in store.segments(LOG))


def pieces(source: Source) -> Iterator[bytes]:
    """All bytes of a source in order. Raises as `Source.read`."""
    size = source.size
    for at in range(0, size, _PIECE):
        yield source.read(at, min(size - at, _PIECE))


def sha256_of(source: Source) -> bytes:
    """The SHA-256 of all bytes of a source. Raises as `Source.read`."""
    digest = hashlib.sha256()
    for piece in pieces(source):
        digest.update(piece)
    return digest.digest()
