"""The memory of a process, read from outside: where bytes stand in it, in the memory of secrets or anywhere else."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from tests.conftest import absent

_PIECE = 1 << 24
_RANGE = re.compile(r"([0-9a-f]+)-([0-9a-f]+) (\S{4})")
_OVERLAP = 63  # bytes; no needle is longer than this and one more


def places(pid: int, needles: Mapping[str, bytes]) -> dict[str, tuple[int, int]]:
    """By name, how often the bytes stand in a process's memory of secrets, and how often anywhere else it writes to.

    The memory of secrets is known by its mark: it is left out of dumps.
    """
    inside, outside = dict.fromkeys(needles, 0), dict.fromkeys(needles, 0)
    try:
        with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
            for start, stop, is_secret in _writable(pid):
                for piece in _pieces(memory, start, stop):
                    for name, needle in needles.items():
                        (inside if is_secret else outside)[name] += piece.count(needle)
    except (PermissionError, FileNotFoundError):
        absent("the right to read another process's memory")
    return {name: (inside[name], outside[name]) for name in needles}


def _writable(pid: int) -> Iterator[tuple[int, int, bool]]:
    start = stop = 0
    may_write = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if found := _RANGE.match(line):
            start, stop, may_write = int(found[1], 16), int(found[2], 16), "w" in found[3]
        elif line.startswith("VmFlags:") and may_write:
            yield start, stop, "dd" in line.split()


def _pieces(memory: BinaryIO, start: int, stop: int) -> Iterator[bytes]:
    for at in range(start, stop, _PIECE):
        memory.seek(at)
        try:
            yield memory.read(min(_PIECE + _OVERLAP, stop - at))
        except OSError:  # pages that are not there
            continue
