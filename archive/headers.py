"""Check many records at once: fields by column, hashes one by one; what is not in order is left to a closer look.

Rule: pure, and all or nothing. A batch passes only if every byte of its headers and trailers is what the record format
and the chain demand; why one does not pass is not said here. A record costs about 2 us.
"""

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from archive.merkle import LEAF
from archive.record import END_MAGIC, HEADER, MAGIC, TRAILER, VERSION

_sha256, _crc32 = hashlib.sha256, zlib.crc32
_COLUMNS = np.dtype(
    [
        ("magic", ">u4"), ("version", ">u2"), ("kind", ">u2"), ("seq", ">u8"), ("time_ms", ">u8"),
        ("study_key_id", "V16"), ("flags", ">u4"), ("body_len", ">u8"), ("content_id", "V32"), ("body_sha256", "V32"),
        ("prev", "V32"), ("group", ">u8"), ("crc", ">u4"),
    ]
)  # fmt: skip
_ENDS = np.dtype([("body_len", ">u8"), ("crc", ">u4"), ("magic", ">u4")])
assert _COLUMNS.itemsize == HEADER.size
assert _ENDS.itemsize == TRAILER.size


@dataclass(slots=True)
class Batch:
    """Records back to back: offsets and raw headers, trailers with padding, the end of the last one."""

    end: int
    offsets: list[int] = field(default_factory=list)
    raws: list[bytes] = field(default_factory=list)
    closings: list[bytes] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Checked:
    """What a good batch gives: the hash the next record chains to, and a leaf hash for each record."""

    head: bytes
    leaves: list[bytes]


def check(batch: Batch, first_seq: int, head: bytes, bodies: Sequence[bytes | None]) -> Checked | None:
    """The batch as the continuation of a chain, or None where anything is wrong with it.

    `bodies` are the SHA-256 of the bodies as read, None for one that was not, empty where none was.
    """
    raws = batch.raws
    data = b"".join(raws)
    rows = np.frombuffer(data, _COLUMNS)
    if not (_fields_hold(rows, first_seq) and _ends_hold(rows, batch.closings)):
        return None
    if [_crc32(raw[:156]) for raw in raws] != rows["crc"].tolist():
        return None
    heads = [head, *[_sha256(raw).digest() for raw in raws]]
    table = np.frombuffer(data, np.uint8).reshape(len(raws), HEADER.size)
    if table[:, 116:148].tobytes() != b"".join(heads[:-1]):
        return None
    if any(body is not None and body != raw[84:116] for body, raw in zip(bodies, raws, strict=False)):
        return None
    return Checked(heads[-1], [_sha256(LEAF + raw).digest() for raw in raws])


def kinds(raws: Sequence[bytes]) -> list[int]:
    """The kind of each record."""
    column: list[int] = np.frombuffer(b"".join(raws), _COLUMNS)["kind"].tolist()
    return column


def _fields_hold(rows: np.ndarray, first_seq: int) -> bool:
    wanted = np.arange(first_seq, first_seq + len(rows), dtype=np.uint64)
    return bool(
        (rows["magic"] == int.from_bytes(MAGIC, "big")).all()
        and (rows["version"] == VERSION).all()
        and (rows["group"] <= rows["seq"]).all()
        and (rows["seq"] == wanted).all()
    )


def _ends_hold(rows: np.ndarray, closings: list[bytes]) -> bool:
    ends = np.frombuffer(b"".join([closing[:16] for closing in closings]), _ENDS)
    padding = b"".join([closing[16:] for closing in closings])
    lengths, which = np.unique(rows["body_len"], return_inverse=True)
    crcs = np.array([_crc32(length.to_bytes(8, "big")) for length in lengths.tolist()])
    return bool(
        (ends["body_len"] == rows["body_len"]).all()
        and (ends["magic"] == int.from_bytes(END_MAGIC, "big")).all()
        and padding.count(0) == len(padding)
        and (ends["crc"] == crcs[which]).all()
    )
