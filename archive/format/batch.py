"""Consecutive records as they were read, unchecked.

Rule: a value that `walk` fills and `headers` checks: who only walks does without numpy.
"""

from dataclasses import dataclass, field


@dataclass(slots=True)
class RecordBatch:
    """Consecutive records: their offsets, raw headers, trailers and paddings, and the end offset of the last one."""

    end: int
    offsets: list[int] = field(default_factory=list)
    raws: list[bytes] = field(default_factory=list)
    trailers: list[bytes] = field(default_factory=list)
    paddings: list[bytes] = field(default_factory=list)
