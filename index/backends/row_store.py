"""What the index needs of the store that keeps its sealed rows: tables of bytes under bytes.

Rule: a store knows no rows, keys or DICOM, and promises no more than stands here: whoever works over one works over
all. It is disposable: what it loses is made again from the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, Protocol, TypeAlias

from coffer.keys.errors import FencedError
from coffer.keys.memory.secret import Secret

__all__ = ["EPOCH_KEY", "SUMS", "SUM_KEY", "TABLES", "Change", "IndexRowStore", "Moment", "checked_epoch"]

TABLES: Final = ("meta", "uid", "study", "series", "instance")
SUMS: Final = "sums"  # a store's own table, if it keeps sums of rows: nobody else writes it
EPOCH_KEY: Final = b"epoch"  # rows of `meta` that belong to the store: nobody else writes them, and `clear` leaves them
SUM_KEY: Final = b"sum"
_EPOCH_BYTES: Final = 8
# Table, key, and the value that it has from then on; None removes it. In `uid`, which holds a set of values under each
# key, a value is added to the set, and None removes all of it.
Change: TypeAlias = tuple[str, bytes, bytes | None]


class Moment(Protocol):
    """The rows as of one write, unchecked. Used by one thread."""

    def get(self, table: str, key: bytes) -> bytes | None:
        """Return the value under a key, or None. Not of `uid`."""

    def rows(self, table: str) -> Iterator[tuple[bytes, bytes]]:
        """Yield every row of a table, in order of the keys."""


class IndexRowStore(Protocol):
    """Five tables (`TABLES`) of keys and values, keys in the order of their bytes. Thread-safe: any number of readers
    beside one writer; readers in other processes see what was written when their call began, or later.

    Every method raises UnavailableError if the store cannot answer now, IntegrityError for damage that it notices.
    After `authenticate`, a read raises IndexAlteredError instead of returning a row that is not the one that was
    written, or leaving one out; `count` alone checks nothing. A read that raised may be repeated. A `write` or `clear`
    that raised UnavailableError may have been made or not, but never in part: making it again, with the same epoch, is
    safe, because a change states the value and not a step.
    A store may refuse every further write once one failed.
    """

    def get(self, table: str, key: bytes) -> bytes | None:
        """Return the value under a key as of the last write, or None. Not of `uid`: see `values`."""

    def get_many(self, table: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return as many `get`s at once, all as of the same write, in the order of `keys`."""

    def values(self, token: bytes) -> list[bytes]:
        """Return every value under a key of `uid`, sorted."""

    def scan(self, table: str, after: bytes = b"", most: int = 512, prefix: bytes = b"") -> list[tuple[bytes, bytes]]:
        """Return the first `most` rows whose keys are above `after` and begin with `prefix`, in order of the keys.

        All as of the same write; the next page, after the last key of this one, may be as of a later one. In `uid`
        there is a row for each value, and a page is longer than `most` rather than end among the values of a key.
        """

    def last(self, table: str) -> bytes | None:
        """Return the greatest key of a table, or None."""

    def count(self, table: str) -> int:
        """Return the number of rows of a table, as `scan` counts them: kept, not walked."""

    def write(self, epoch: int, changes: Sequence[Change]) -> None:
        """Make all changes, in order, in one transaction, all or nothing; durable on return, and seen by every call
        that begins later.

        `epoch` is the lease under which the caller writes. Raises FencedError, and changes nothing, if the store was
        written under a higher one: then nothing that this caller writes will ever count.
        """

    def clear(self, epoch: int) -> None:
        """Remove every row of every table except the store's own; as `write` in everything else."""

    def compact(self) -> None:
        """Leave no byte of a removed row in what the store has on disk; durable on return. The caller prevents writes
        meanwhile. A store that cannot promise this says so."""

    def authenticate(self, key: Secret, random: Callable[[int], bytes]) -> None:
        """From now on, keep the sums of all rows under this key with every change, and check rows by them before they
        are returned. Raises IndexAlteredError if the sums are not the ones that were written. Before, a store outside
        of this process's memory may refuse to write."""

    def copy(self, to: Path) -> None:
        """Write all rows to a new file, as a store that is closed leaves them, durable on return; nothing where that
        exists, or where the store has no files. Raises UnavailableError."""

    def complaint(self, go_on: Callable[[], bool] = lambda: True) -> str | None:
        """Read every row and return what is wrong with them, or None; before `authenticate`, only accidents. Returns
        None, too, where `go_on` says False: the caller does not want to know any more."""

    def moment(self) -> AbstractContextManager[Moment]:
        """All rows as of one write, for as long as the block runs. Keep it as short as the work allows: what is removed
        meanwhile still takes room."""

    def close(self) -> None:
        """Let go of the store. Every write was durable when `write` returned."""


def checked_epoch(seen: bytes | None, epoch: int) -> bytes:
    """Return the row that records `epoch` as the highest one, 8 bytes, big endian; b"" if that is not to be written,
    because it is there or zero. `seen` is the row that is there. Raises FencedError for an epoch below it."""
    highest = int.from_bytes(seen or b"", "big")
    if epoch < highest:
        raise FencedError(
            "another writer has taken over the index", hint="stop this process: what it writes counts no more"
        )
    return epoch.to_bytes(_EPOCH_BYTES, "big") if epoch > highest else b""
