"""What is appended to a log, the name and place that it gets there, and the end of a log: values only."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from coffer.keys.buffer import Buffer

__all__ = ["OWN_LOG", "Appended", "Entry", "LogId", "Position", "RecordId", "SealedFile", "Tip"]

LogId = int  # u32
OWN_LOG: Final[LogId] = 0  # the archive's own log: events of keys stand there, and today everything else too


@dataclass(frozen=True, slots=True)
class SealedFile:
    """A body too large for memory: sealed bytes in a file, with their length and SHA-256. `went_on` is called for each
    piece that is read, because to commit a large one takes minutes."""

    path: Path
    length: int
    sha256: bytes
    went_on: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class Entry:
    """One record to append; the writer adds number, time, chain, hash and position. The time is not before `least_ms`
    (ms since 1970 UTC), that of the event which it records."""

    kind: int
    study_key_id: bytes
    flags: int
    content_id: bytes
    body: Buffer | SealedFile
    least_ms: int = 0


class RecordId(NamedTuple):
    """The name of a record in an archive: its log, and its number there. Two numbers of different logs say nothing
    about which record is older."""

    log: LogId
    seq: int


class Position(NamedTuple):
    """Where a record is: its log and number, segment number, byte offset of its header, length of its body in bytes.

    A tuple, because readers make one for each record.
    """

    log: LogId
    seq: int
    segment: int
    offset: int
    body_len: int

    @property
    def id(self) -> RecordId:
        """The record's name."""
        return RecordId(self.log, self.seq)


class Tip(NamedTuple):
    """An end that a log has, or had: the number of the next record, and the leaf hash (32 bytes) of the one before,
    which stands for everything below."""

    log: LogId
    next_seq: int
    head: bytes


class Appended(NamedTuple):
    """A record as it was appended: where it is, and its time (ms since 1970 UTC)."""

    position: Position
    time_ms: int
