"""Rows of the index one by one, as `tests.keyless_index` changes them: sums that need no key fit again."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from tests.keyless_index import TABLES, change_index
from tests.keyless_index import index_rows as read

Row = tuple[int, bytes, bytes]  # table, key, value
SUM = b"sum"
SUMS = TABLES.index("sums")


def rows_of(folder: Path) -> frozenset[Row]:
    """Every row of the index in a folder, which nobody has open in this process."""
    found = read(folder).items()
    return frozenset((TABLES.index(table), key, value) for (table, key), values in found for value in values)


def change(folder: Path, removed: Collection[Row], added: Collection[Row] = ()) -> None:
    """Take rows away and add others; the accident sums fit the rows that are then there."""
    now = {*(rows_of(folder) - {*removed}), *added}
    places = {(table, key) for table, key, _ in (*removed, *added)}
    changes = {
        (TABLES[table], key): tuple(value for t, k, value in now if (t, k) == (table, key)) or None
        for table, key in places
    }
    change_index(folder, changes, sums=any((t, k) == (0, SUM) for t, k, _ in now))
