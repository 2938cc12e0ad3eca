"""What is appended to the log, and where it then lies: values only."""

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
    """One record to append; seq, chain, hash and place are the writer's."""

    kind: int
    study_key_id: bytes
    flags: int
    content_id: bytes
    body: Buffer | SealedFile
    time_ms: int


@dataclass(frozen=True, slots=True)
class Position:
    """Where a record lies: sequence number, segment number, byte offset of its header, bytes of its body."""

    seq: int
    segment: int
    offset: int
    body_len: int
