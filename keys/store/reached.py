"""How far one opened store has seen its rows go: an earlier state, put back beneath it, is not taken for the present.

Rule: the generation of a bucket grows with every change, and no two of its states have one nonce, so what was written
or seen once is a low-water mark of all that follows. It is kept in memory only: the next opening compares keyring, log
and mark instead. A store beneath which rows were put back once is believed no more until it is opened again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from coffer.keys.errors import HistoryError
from coffer.keys.store.sums import BUCKETS, is_sum, sum_key

__all__ = ["Reached"]

_GENERATION: Final = 8  # bytes at the beginning of a row of sums, big-endian


class Reached:
    """The newest row of sums of every bucket that was seen or written. The store's lock, or its transactions, keep the
    calls in turn; the comparison is with rows of one state."""

    def __init__(self) -> None:
        self._newest: dict[int, bytes] = {}
        self._refusal: HistoryError | None = None

    def wrote(self, changed: Mapping[bytes, bytes | None]) -> None:
        """Note the rows of a change that is durable."""
        self._newest.update({key[1]: row for key, row in changed.items() if is_sum(key) and row is not None})

    def require(self, get: Callable[[bytes], bytes | None], buckets: Iterable[int] = range(BUCKETS)) -> None:
        """Raise HistoryError where one of these buckets is not as far as it was, from then on always; else note how far
        it is."""
        self.require_never_put_back()
        for bucket in buckets:
            row, newest = get(sum_key(bucket)), self._newest.get(bucket)
            if newest is not None and not _follows(row, newest):
                self._refusal = _put_back()
                raise self._refusal
            if row is not None:  # where it is gone, its bucket is not right
                self._newest[bucket] = row

    def require_never_put_back(self) -> None:
        """Raise the HistoryError that `require` raised before, if it did."""
        if self._refusal is not None:
            raise self._refusal.with_traceback(None)  # its traceback would grow with each raise

    def hold_to(self, other: Reached) -> None:
        """Be as far as another opening of the same rows was."""
        for bucket, row in other._newest.items():
            if not _follows(self._newest.get(bucket, row), row):
                self._refusal = _put_back()
            self._newest[bucket] = max(row, self._newest.get(bucket, row))


def _follows(row: bytes | None, before: bytes) -> bool:
    """Whether a row of sums is the same one, or a later one."""
    return row == before or (row is not None and row[:_GENERATION] > before[:_GENERATION])


def _put_back() -> HistoryError:
    return HistoryError(
        "the keyring was put back to an earlier state while it was open: what was written since is gone from the disk",
        hint="run coffer recover show and do what it says; where it finds nothing, what the last command did is gone,"
        " and must be done again",
    )
