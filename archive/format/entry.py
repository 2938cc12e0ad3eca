"""What is appended to the log, and its position there: values only."""

from dataclasses import dataclass
from pathlib import Path

from coffer.keys.buffer import Buffer

__all__ = ["Entry", "Position", "SealedFile"]


@dataclass(frozen=True, slots=True)
class SealedFile:
    """A body too large for memory: sealed bytes in a file, with their length and SHA-256."""

    path: Path
    length: int
    sha256: bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """One record to append; the writer adds number, chain, hash and position."""

    kind: int
    study_key_id: bytes
    flags: int
    content_id: bytes
    body: Buffer | SealedFile
    time_ms: int


@dataclass(frozen=True, slots=True)
class Position:
    """Where a record is: sequence number, segment number, byte offset of its header, length of its body in bytes."""

    seq: int
    segment: int
    offset: int
    body_len: int
