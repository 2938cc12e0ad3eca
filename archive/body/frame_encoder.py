"""One object on its way in: cut into frames, which are coded by other threads while the rest of it arrives.

Rule: only what is not cut yet is kept as it came, and that is little; what was cut is read by decoding it again. The
order of bytes decides everything that is stored, not when threads were done.
"""

import hashlib
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Final

from coffer.archive.body.receive_buffer import Inflow
from coffer.archive.body.spool import Spool
from coffer.archive.codec import frames
from coffer.archive.codec.frames import Piece
from coffer.archive.codec.pixels import PixelLayout
from coffer.keys.buffer import Buffer
from coffer.keys.errors import UnavailableError
from coffer.keys.threads import started_pool

_AHEAD: Final = 4  # frames for each thread that may wait for it
_TINY: Final = 16 << 10  # to hand a frame to another thread costs about 0.1 ms
_UNSETTLED: Final = 2 * frames.FRAME_BYTES  # are kept without asking for memory, until somebody says how to cut them


class Coders:
    """The threads that code for all drafts of a process, and the bound on the frames that wait for them."""

    def __init__(self, threads: int) -> None:
        self._pool = started_pool(threads, "coder")
        self._room = threading.BoundedSemaphore(_AHEAD * threads)

    def encode(self, data: memoryview, layout: PixelLayout | None) -> "Future[bytes]":
        """As `codec.encode`, later. Waits while too much is under way."""
        self._room.acquire()
        future = self._pool.submit(frames.encode, data, layout)
        future.add_done_callback(lambda _: self._room.release())
        return future


class Draft:
    """A data set: `write` it from front to back, say how to cut it, `finish`. Used by one thread."""

    def __init__(self, coded: Spool, coders: Coders, max_bytes: int) -> None:
        """`coded` takes the frames and belongs to the draft; `max_bytes` is the largest data set that is taken."""
        self.coded = coded
        self.frames: list[tuple[int, int]] = []  # coded and plain length, in order
        self.size = 0
        self._coders = coders
        self._max_bytes = max_bytes
        self._hash = hashlib.sha256()
        self._inflow = Inflow()  # from _cut_to on
        self._cut_to = 0
        self._cuts: Iterator[Piece] | None = None
        self._piece = Piece(0, 0, None)  # the next one
        self._under_way: deque[tuple[int, bytes | Future[bytes]]] = deque()  # plain length, coded
        self._starts: list[int] = []  # of the frames, in the data set
        self._coded_at: list[int] = []  # and in the spool
        self._kept: tuple[int, bytes] = (-1, b"")  # the last frame that was read again

    @property
    def is_laid_out(self) -> bool:
        """Whether it is settled how the data set is cut."""
        return self._cuts is not None

    def write(self, data: Buffer) -> None:
        """Append bytes. Raises UnavailableError beyond `max_bytes`, and where the disk does not take the frames."""
        if self.size + len(data) > self._max_bytes:
            raise UnavailableError(
                f"the object is larger than {self._max_bytes} bytes", hint="raise limits.max_object_bytes"
            )
        self._inflow.add(data)
        self.size += len(data)
        if self._cuts is not None:
            self._cut()
            self._inflow.reserve(self._piece.stop - self._cut_to)
        elif self.size > _UNSETTLED and not self.coded.reserve(self.size):
            self.lay_out(None)

    def lay_out(self, layout: PixelLayout | None) -> None:
        """Settle how the data set is cut; from here on frames are coded as they become whole."""
        self._settle(layout)
        self._cut()

    def finish(self, layout: PixelLayout | None) -> None:
        """Code what is left. `layout` counts where none was settled before."""
        if self._cuts is None:
            self._settle(layout)
        self._cut(inline=frames.FRAME_BYTES)  # nothing is left to do meanwhile
        if len(self._inflow):
            self._code(Piece(self._cut_to, self.size, None), frames.FRAME_BYTES)
        self._collect(everything=True)

    def sha256(self) -> bytes:
        """SHA-256 of a finished draft's data set."""
        return self._hash.digest()

    def read(self, start: int, stop: int) -> bytes:
        """Data set bytes [start, stop), as far as they have arrived. Raises UnavailableError, IntegrityError."""
        stop = min(stop, self.size)
        if start >= self._cut_to:
            return bytes(self._inflow.view(start - self._cut_to, stop - self._cut_to))
        self._collect(everything=True)
        parts = []
        while start < min(stop, self._cut_to):
            index = bisect_right(self._starts, start) - 1
            part = self._frame(index)[start - self._starts[index] : stop - self._starts[index]]
            parts.append(part)
            start += len(part)
        parts.append(bytes(self._inflow.view(0, max(stop - self._cut_to, 0))))
        return b"".join(parts)

    def close(self) -> None:
        """Forget everything. Harmless when repeated."""
        for _, coded in self._under_way:
            if isinstance(coded, Future):
                coded.cancel()
        self._under_way.clear()
        self._inflow.clear()
        self._kept = (-1, b"")
        self.coded.close()

    def _settle(self, layout: PixelLayout | None) -> None:
        self._cuts = frames.cuts(layout)
        self._piece = next(self._cuts)

    def _cut(self, inline: int = _TINY) -> None:
        """Hand out every frame that has arrived; those of up to `inline` bytes are coded here."""
        assert self._cuts is not None
        while self.size >= self._piece.stop:
            self._code(self._piece, inline)
            self._piece = next(self._cuts)
        self._collect(everything=False)

    def _code(self, piece: Piece, inline: int) -> None:
        length = piece.stop - piece.start
        data = self._inflow.take(length)
        self._cut_to = piece.stop
        is_small = length <= inline
        coded = frames.encode(data, piece.layout) if is_small else self._coders.encode(data, piece.layout)
        self._under_way.append((length, coded))
        self._hash.update(data)

    def _collect(self, *, everything: bool) -> None:
        """Put the frames that are done into the spool, in their order."""
        while self._under_way:
            length, coded = self._under_way[0]
            if isinstance(coded, Future):
                if not (everything or coded.done()):
                    return
                coded = coded.result()
            self._under_way.popleft()
            self._starts.append(self._starts[-1] + self.frames[-1][1] if self.frames else 0)
            self._coded_at.append(self.coded.size)
            self.frames.append((len(coded), length))
            self.coded.write(coded)

    def _frame(self, index: int) -> bytes:
        if self._kept[0] != index:
            at, (coded, plain) = self._coded_at[index], self.frames[index]
            self._kept = (index, frames.decode(self.coded.read(at, at + coded), plain))
        return self._kept[1]
