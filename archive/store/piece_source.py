"""Bytes that lie in pieces of one size: read in order, the next pieces are fetched and hashed meanwhile.

Rule: holds few pieces in memory, and never part of one. It knows no target: whoever fetches a piece compares it with
its hash.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from coffer.archive.store.source import Source
from coffer.keys.errors import FormatError

__all__ = ["PieceSource"]

_HELD: Final = 2  # pieces in memory, and the last one, which has the footer: readers begin and end with it
_AHEAD: Final = 3


class PieceSource(Source):
    """So many bytes in pieces of `piece_bytes`, the last one shorter. `fetch` gives a piece by its number, in any
    thread; what it raises, `read` raises. `closed` is called at the end."""

    def __init__(
        self, size: int, piece_bytes: int, fetch: Callable[[int], bytes], closed: Callable[[], None] = lambda: None
    ) -> None:
        self._size, self._piece_bytes, self._fetch, self._closed = size, piece_bytes, fetch, closed
        self._last = -(-size // piece_bytes) - 1
        self._held: OrderedDict[int, memoryview] = OrderedDict()
        self._coming: dict[int, Future[bytes]] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """As was said when it was made."""
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        """As `Source.read`, and whatever `fetch` raises."""
        if offset + length > self._size:
            raise FormatError(f"the file ends {offset + length - self._size} bytes too early")
        found = []
        while length:
            number, inside = divmod(offset, self._piece_bytes)
            taken = self._piece(number)[inside : inside + length]
            found.append(taken)
            offset, length = offset + len(taken), length - len(taken)
        return b"".join(found)

    def close(self) -> None:
        """Fetch nothing more."""
        with self._lock:
            self._coming.clear()
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(cancel_futures=True)
        self._closed()

    def _piece(self, number: int) -> memoryview:
        with self._lock:
            held = self._held.get(number)
            if held is not None:
                self._held.move_to_end(number)
                return held
            coming = self._coming.pop(number, None)
            if number - 1 in self._held:
                self._look_ahead(number)
            held = memoryview(self._fetch(number) if coming is None else coming.result())
            self._held[number] = held
            others = [each for each in self._held if each != self._last]
            if len(others) > _HELD:
                del self._held[others[0]]
            return held

    def _look_ahead(self, number: int) -> None:
        """Begin to fetch the pieces after one, and forget those that were begun for another place."""
        wanted = range(number + 1, min(number + _AHEAD, self._last) + 1)
        for each in [each for each in self._coming if each not in wanted]:
            self._coming.pop(each).cancel()
        if self._pool is None and wanted:
            self._pool = ThreadPoolExecutor(_AHEAD, "coffer-copies")
        for each in wanted:
            if self._pool is not None and each not in self._coming and each not in self._held:
                self._coming[each] = self._pool.submit(self._fetch, each)
