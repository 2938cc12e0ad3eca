"""A row store whose answers are lost, late and out of order, as those of one across a network may be."""

import threading
import time
from collections.abc import Callable, Sequence
from random import Random
from typing import TypeVar

from coffer.index.backends.row_store import Change, IndexRowStore
from coffer.keys.errors import FencedError, UnavailableError

T = TypeVar("T")


class FaultyRowStore:
    """Passes every call on, or raises UnavailableError instead of it or after its effect; lets later calls overtake."""

    def __init__(self, inner: IndexRowStore, random: Random, *, loses: float = 0.3) -> None:
        """`loses`: the share of calls that raise, half of them after the effect."""
        self.inner = inner
        self.lost = 0  # calls that had their effect, and no answer
        self._random = random
        self._loses = loses
        self._lock = threading.Lock()

    def _call(self, call: Callable[[], T]) -> T:
        with self._lock:
            fate, wait = self._random.random(), self._random.random() / 2000
        time.sleep(wait)  # calls of several threads overtake each other here, and after the effect
        if fate < self._loses / 2:
            raise UnavailableError("the store did not get it")
        found = call()
        time.sleep(wait)
        if fate < self._loses:
            self.lost += 1
            raise UnavailableError("the answer was lost")
        return found

    def get(self, table: str, key: bytes) -> bytes | None:
        return self._call(lambda: self.inner.get(table, key))

    def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        return self._call(lambda: self.inner.get_many(table, keys))

    def values(self, token: bytes) -> list[bytes]:
        return self._call(lambda: self.inner.values(token))

    def scan(self, table: str, after: bytes = b"", most: int = 512, prefix: bytes = b"") -> list[tuple[bytes, bytes]]:
        return self._call(lambda: self.inner.scan(table, after, most, prefix))

    def last(self, table: str) -> bytes | None:
        return self._call(lambda: self.inner.last(table))

    def count(self, table: str) -> int:
        return self._call(lambda: self.inner.count(table))

    def write(self, epoch: int, changes: Sequence[Change]) -> None:
        self._call(lambda: self.inner.write(epoch, changes))

    def clear(self, epoch: int) -> None:
        self._call(lambda: self.inner.clear(epoch))

    def compact(self) -> None:
        self._call(self.inner.compact)

    def complaint(self) -> str | None:
        return self._call(self.inner.complaint)

    def close(self) -> None:
        self.inner.close()


class Asking:
    """A store as whoever works over a faulty one sees it: every call is repeated until it is answered."""

    def __init__(self, store: IndexRowStore) -> None:
        self._store = store

    def _answered(self, call: Callable[[], T]) -> T:
        while True:
            try:
                return call()
            except FencedError:
                raise
            except UnavailableError:
                continue

    def get(self, table: str, key: bytes) -> bytes | None:
        return self._answered(lambda: self._store.get(table, key))

    def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        return self._answered(lambda: self._store.get_many(table, keys))

    def values(self, token: bytes) -> list[bytes]:
        return self._answered(lambda: self._store.values(token))

    def scan(self, table: str, after: bytes = b"", most: int = 512, prefix: bytes = b"") -> list[tuple[bytes, bytes]]:
        return self._answered(lambda: self._store.scan(table, after, most, prefix))

    def last(self, table: str) -> bytes | None:
        return self._answered(lambda: self._store.last(table))

    def count(self, table: str) -> int:
        return self._answered(lambda: self._store.count(table))

    def write(self, epoch: int, changes: Sequence[Change]) -> None:
        self._answered(lambda: self._store.write(epoch, changes))

    def clear(self, epoch: int) -> None:
        self._answered(lambda: self._store.clear(epoch))

    def compact(self) -> None:
        self._answered(self._store.compact)

    def complaint(self) -> str | None:
        return self._answered(self._store.complaint)

    def close(self) -> None:
        self._store.close()
