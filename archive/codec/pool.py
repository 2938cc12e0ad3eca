"""Things that are expensive to make, lent to one user at a time.

Rule: knows nothing of what it lends. It never blocks: it grows to as many as are used at once.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Generic, TypeVar

_KEPT: Final = 8

T = TypeVar("T")


class Pool(Generic[T]):
    """Lends what `make` makes; keeps up to eight that nobody uses. Thread-safe."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._free: list[T] = []

    @contextmanager
    def one(self) -> Iterator[T]:
        """Lend one to this caller alone while the block runs."""
        try:
            lent = self._free.pop()
        except IndexError:
            lent = self._make()
        try:
            yield lent
        finally:
            if len(self._free) < _KEPT:
                self._free.append(lent)
