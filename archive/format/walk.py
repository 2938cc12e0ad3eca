"""Read the records of a segment in batches, forwards, every byte at most once.

Rule: it uses a body length only to find the next record and checks nothing: `archive.format.headers` does. It reads
ahead if records are small; if bodies are large and not wanted, one read fetches a trailer and the header after it.
"""

import hashlib
import struct
from collections.abc import Callable

from coffer.archive.format.batch import RecordBatch
from coffer.archive.format.record import ALIGNMENT, HEADER, TRAILER
from coffer.archive.store.source import Source
from coffer.keys.errors import FormatError

_LENGTH = struct.Struct(">44xQ")
_WINDOW, _AHEAD = 1 << 20, 256 << 10
_NEAR = 16 << 10  # bodies up to this size are read through rather than skipped
_RECORDS, BATCH_BYTES = 4096, 64 << 20  # enough for columns to pay off, few enough to show progress


def _ends(raw: bytes, at: int) -> tuple[int, int]:
    """The end offsets of the body and of the whole record whose header `raw` lies at `at`."""
    body_end = at + HEADER.size + int.from_bytes(raw[44:52], "big")
    return body_end, -(-(body_end + TRAILER.size) // ALIGNMENT) * ALIGNMENT


class Walker:
    """Walks one segment from `at` up to `stop`, and reads nothing after that. What is cut meanwhile is like `stop`."""

    def __init__(self, source: Source, *, bodies: bool, batch_bytes: int = BATCH_BYTES) -> None:
        self._source = source
        self._bodies = bodies
        self._batch_bytes = batch_bytes if bodies else 1 << 62  # skipped bytes cost nothing
        self._stop = 0
        self._leaps = False
        self._base = 0
        self._window = b""

    def batch(self, at: int, stop: int, wanted: Callable[[int, int], bool]) -> tuple[RecordBatch, list[bytes | None]]:
        """Whole records from `at` on, possibly none, and the SHA-256 of the bodies for which `wanted(place, at)` holds.

        Raises UnreadableError if the medium cannot be read.
        """
        batch, digests = RecordBatch(at), list[bytes | None]()
        first, self._stop = at, stop
        while at < stop and len(batch.raws) < _RECORDS and at - first < self._batch_bytes:
            raw = self._take(at, HEADER.size, _WINDOW if self._bodies else _AHEAD)
            if len(raw) < HEADER.size:
                break
            (length,) = _LENGTH.unpack_from(raw)
            if length > _NEAR and not self._bodies:
                self._leap(batch, raw, stop)
            elif not self._bodies and self._stride(batch, stop):
                at = batch.end
                continue
            else:
                self._read_over(batch, raw, at, stop)
                if self._bodies and batch.end > at:
                    digests.append(self._hash(at + HEADER.size, length) if wanted(len(digests), at) else None)
            if batch.end == at:
                break
            at = batch.end
        return batch, digests

    def _read_over(self, batch: RecordBatch, raw: bytes, at: int, stop: int) -> None:
        """Add one record if it is complete."""
        body_end, end = _ends(raw, at)
        closing = self._take(body_end, end - body_end, _AHEAD) if end <= stop else b""
        if end <= stop and len(closing) == end - body_end:
            batch.offsets.append(at)
            batch.raws.append(raw)
            batch.trailers.append(closing[: TRAILER.size])
            batch.paddings.append(closing[TRAILER.size :])
            batch.end = end

    def _stride(self, batch: RecordBatch, stop: int) -> bool:
        """Add the records that are complete in the window while bodies are small; False if there are none."""
        window, base, end, head = self._window, self._base, batch.end, HEADER.size
        offsets, raws, trailers, paddings = batch.offsets, batch.raws, batch.trailers, batch.paddings
        size, lengths = TRAILER.size, _LENGTH.unpack_from
        at, last = end - base, min(len(window), stop - base)
        for _ in range(_RECORDS - len(raws)):  # a hot loop, as in `_leap`: every avoidable call is avoided
            if at + head > last:
                break
            (length,) = lengths(window, at)
            body_end = at + head + length
            closing = body_end + size
            closed = closing + -length % ALIGNMENT
            if closed > last or length > _NEAR:
                break
            offsets.append(base + at)
            raws.append(window[at : at + head])
            trailers.append(window[body_end:closing])
            if closed > closing:
                paddings.append(window[closing:closed])
            at = closed
        batch.end = base + at
        return batch.end > end

    def _leap(self, batch: RecordBatch, raw: bytes, stop: int) -> None:
        """Add records from `raw` on while bodies are large: one read fetches a trailer and the header after it."""
        if not self._leaps:
            self._source.skim()
        self._leaps = True
        read, offsets, raws = self._source.read, batch.offsets, batch.raws
        trailers, paddings = batch.trailers, batch.paddings
        head, size, lengths = HEADER.size, TRAILER.size, _LENGTH.unpack_from
        at = batch.end
        for _ in range(_RECORDS - len(raws)):  # costs as much as all hashes: every avoidable call is avoided
            if len(raw) < head:
                break
            (length,) = lengths(raw)
            body_end = at + head + length
            closed = size + -length % ALIGNMENT  # header and trailer are multiples of the alignment
            end = body_end + closed
            if end > stop or length < _NEAR:
                break
            try:
                window = read(body_end, closed + head if end + head <= stop else stop - body_end)
            except FormatError:  # a writer cut a torn end off meanwhile, and the next header with it
                batch.end = at
                self._read_over(batch, raw, at, stop)
                return
            offsets.append(at)
            raws.append(raw)
            trailers.append(window[:size])
            if closed > size:
                paddings.append(window[size:closed])
            at, raw = end, window[closed:]
        batch.end, self._base, self._window = at, at, raw

    def _take(self, at: int, length: int, ahead: int) -> bytes:
        start = at - self._base
        if start < 0 or start + length > len(self._window):
            self._read(at, max(ahead, length))
            start = 0
        return self._window[start : start + length]

    def _read(self, at: int, length: int) -> None:
        """Put so many bytes into the window, fewer before `stop`."""
        try:
            self._window = self._source.read(at, min(length, self._stop - at))
        except FormatError:  # a writer cut a torn end off meanwhile
            self._stop = max(min(self._source.size, self._stop), at)
            self._window = self._source.read(at, min(length, self._stop - at))
        self._base = at

    def _hash(self, at: int, length: int) -> bytes:
        start = at - self._base
        if start >= 0 and start + length <= len(self._window):
            return hashlib.sha256(memoryview(self._window)[start : start + length]).digest()
        digest, stop = hashlib.sha256(), at + length
        while at < stop:
            start = at - self._base
            if not 0 <= start < len(self._window):
                self._read(at, _WINDOW)
                start = 0
                if not self._window:
                    break
            piece = memoryview(self._window)[start : start + stop - at]
            digest.update(piece)
            at += len(piece)
        return digest.digest()
