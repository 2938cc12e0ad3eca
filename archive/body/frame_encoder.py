"""Encode one incoming object: it is cut into frames, which other threads code while the rest of it arrives.

Rule: only bytes that are not cut yet are kept as received, and these are few; earlier bytes are read by decoding their
frames. What is stored depends on the order of the bytes alone, never on the timing of threads.
"""

import hashlib
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Final

import xxhash

from coffer.archive.body.receive_buffer import ReceiveBuffer
from coffer.archive.body.spool import Spool
from coffer.archive.codec import frames
from coffer.archive.codec.frames import Piece
from coffer.archive.codec.layout import PixelLayout
from coffer.keys.buffer import Buffer
from coffer.keys.errors import UnavailableError
from coffer.keys.threads import started_pool

_AHEAD: Final = 4  # frames per thread that may be queued
_TINY: Final = 16 << 10  # handing a frame to another thread costs about 0.1 ms
_UNCUT: Final = 2 * frames.FRAME_BYTES  # buffered without reserving memory while it is not known how to cut them


class EncoderPool:
    """The threads that code frames for all encoders of a process, and the limit on queued frames."""

    def __init__(self, threads: int) -> None:
        self._pool = started_pool(threads, "coder")
        self._slots = threading.BoundedSemaphore(_AHEAD * threads)

    def encode(self, data: memoryview, layout: PixelLayout | None) -> "Future[bytes]":
        """`codec.frames.encode` in another thread. Blocks while the queue is full."""
        self._slots.acquire()
        future = self._pool.submit(frames.encode, data, layout)
        future.add_done_callback(lambda _: self._slots.release())
        return future


class FrameEncoder:
    """Encodes one data set: `write` it from front to back, `lay_out` how to cut it, `finish`. Used by one thread."""

    def __init__(self, coded: Spool, coders: EncoderPool, max_bytes: int) -> None:
        """`coded` receives the frames and belongs to the encoder; `max_bytes` is the largest data set accepted."""
        self.coded = coded
        self.frames: list[tuple[int, int]] = []  # coded and plain length, in order
        self.size = 0
        self._coders = coders
        self._max_bytes = max_bytes
        self._hash = hashlib.sha256()
        self._xxh3 = xxhash.xxh3_64()
        self._received = ReceiveBuffer()  # from _cut_to on
        self._cut_to = 0
        self._cuts: Iterator[Piece] | None = None
        self._piece = Piece(0, 0, None)  # the next frame
        self._in_progress: deque[tuple[int, bytes | Future[bytes]]] = deque()  # plain length, coded
        self._starts: list[int] = []  # offsets of the frames in the data set
        self._coded_at: list[int] = []  # offsets of the frames in the spool
        self._cached: tuple[int, bytes] = (-1, b"")  # the last frame that was decoded again

    @property
    def is_laid_out(self) -> bool:
        """Whether it is decided how the data set is cut."""
        return self._cuts is not None

    def write(self, data: Buffer) -> None:
        """Append bytes. Raises UnavailableError beyond `max_bytes`, or if the disk does not take the frames."""
        if self.size + len(data) > self._max_bytes:
            raise UnavailableError(
                f"the object is larger than {self._max_bytes} bytes", hint="raise limits.max_object_bytes"
            )
        self._received.add(data)
        self.size += len(data)
        if self._cuts is not None:
            self._cut()
            self._received.reserve(self._piece.stop - self._cut_to)
        elif self.size > _UNCUT and not self.coded.reserve(self.size):
            self.lay_out(None)

    def lay_out(self, layout: PixelLayout | None) -> None:
        """Decide how the data set is cut; from now on each frame is coded as soon as it is complete."""
        self._set_cuts(layout)
        self._cut()

    def finish(self, layout: PixelLayout | None) -> None:
        """Code the rest. `layout` is used only if `lay_out` was not called before."""
        if self._cuts is None:
            self._set_cuts(layout)
        self._cut(inline=frames.FRAME_BYTES)  # this thread has nothing else to do meanwhile
        if len(self._received):
            self._code(Piece(self._cut_to, self.size, None), frames.FRAME_BYTES)
        self._collect(everything=True)

    def sha256(self) -> bytes:
        """The SHA-256 of the data set, once finished."""
        return self._hash.digest()

    def xxh3(self) -> bytes:
        """The XXH3-64 of the data set, big endian, once finished."""
        return self._xxh3.digest()

    def read(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of the data set, as far as they have arrived. Raises UnavailableError, IntegrityError."""
        stop = min(stop, self.size)
        if start >= self._cut_to:
            return bytes(self._received.view(start - self._cut_to, stop - self._cut_to))
        self._collect(everything=True)
        parts = []
        while start < min(stop, self._cut_to):
            index = bisect_right(self._starts, start) - 1
            part = self._frame(index)[start - self._starts[index] : stop - self._starts[index]]
            parts.append(part)
            start += len(part)
        parts.append(bytes(self._received.view(0, max(stop - self._cut_to, 0))))
        return b"".join(parts)

    def close(self) -> None:
        """Drop everything, the spool included. Idempotent."""
        for _, coded in self._in_progress:
            if isinstance(coded, Future):
                coded.cancel()
        self._in_progress.clear()
        self._received.clear()
        self._cached = (-1, b"")
        self.coded.close()

    def _set_cuts(self, layout: PixelLayout | None) -> None:
        self._cuts = frames.cuts(layout)
        self._piece = next(self._cuts)

    def _cut(self, inline: int = _TINY) -> None:
        """Code every frame that has arrived, those of up to `inline` bytes in this thread."""
        assert self._cuts is not None
        while self.size >= self._piece.stop:
            self._code(self._piece, inline)
            self._piece = next(self._cuts)
        self._collect(everything=False)

    def _code(self, piece: Piece, inline: int) -> None:
        length = piece.stop - piece.start
        data = self._received.take(length)
        self._cut_to = piece.stop
        is_small = length <= inline
        coded = frames.encode(data, piece.layout) if is_small else self._coders.encode(data, piece.layout)
        self._in_progress.append((length, coded))
        self._hash.update(data)
        self._xxh3.update(data)

    def _collect(self, *, everything: bool) -> None:
        """Write finished frames to the spool, in order."""
        while self._in_progress:
            length, coded = self._in_progress[0]
            if isinstance(coded, Future):
                if not (everything or coded.done()):
                    return
                coded = coded.result()
            self._in_progress.popleft()
            self._starts.append(self._starts[-1] + self.frames[-1][1] if self.frames else 0)
            self._coded_at.append(self.coded.size)
            self.frames.append((len(coded), length))
            self.coded.write(coded)

    def _frame(self, index: int) -> bytes:
        if self._cached[0] != index:
            at, (coded, plain) = self._coded_at[index], self.frames[index]
            self._cached = (index, frames.decode(self.coded.read(at, at + coded), plain))
        return self._cached[1]
