"""Flip bytes of an LMDB file one at a time and say what a reader makes of each.

    python lmdb_flips.py keyring|index FILE FIRST STOP STEP

It runs in a process of its own: were LMDB to crash on a damaged page, that must show. A line per byte: the offset, and

    found      opening or reading raises, or the sum of the rows differs
    same       every row is as it was, by walking and by its key, and still is after another commit on top
    older      an earlier commit, whole in itself: another of LMDB's two meta pages was chosen
    WRONG      anything else
"""

import sys
from collections.abc import Callable
from pathlib import Path

import lmdb

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from coffer.index.backends.lmdb_store import LmdbRowStore
from coffer.index.backends.row_store import TABLES
from coffer.keys.errors import CofferError, IntegrityError
from coffer.keys.store.keyring_store import scan
from coffer.keys.store.lmdb_store import LmdbKeyringStore
from coffer.keys.store.sums import SUM_PREFIX
from coffer.keys.store.writes import COUNT_PREFIX
from tests.keyless import change
from tests.keyless_index import change_index

Rows = list[tuple[str, bytes, bytes]]


def keyring_rows(folder: Path) -> Rows | None:
    """All rows of a keyring; None where the reader complains."""
    store = LmdbKeyringStore(folder, readonly=True)
    try:
        rows = scan(store, b"")
        good = store.complaint() is None and all(store.get(key) == value for key, value in rows)
        return [("", key, value) for key, value in rows] if good else None
    finally:
        store.close()


def index_rows(folder: Path) -> Rows | None:
    """All rows of an index; None where the reader complains."""
    store = LmdbRowStore(folder, readonly=True)
    try:
        if store.complaint() is not None:
            return None
        rows = [(table, key, value) for table in TABLES for key, value in store.scan(table)]
        by_key = all(
            value in store.values(key) if table == "uid" else store.get(table, key) == value
            for table, key, value in rows
        )
        return rows if by_key else None
    finally:
        store.close()


def write_keyring(folder: Path) -> None:
    """One more row."""
    try:
        change(folder, {b"K" + bytes(16): bytes(156)})
    except lmdb.Error as error:
        raise IntegrityError(str(error)) from error


def write_index(folder: Path) -> None:
    """One more row."""
    try:
        change_index(folder, {("study", bytes(8)): (bytes(300),)})
    except lmdb.Error as error:
        raise IntegrityError(str(error)) from error


def is_fresh(row: tuple[str, bytes, bytes]) -> bool:
    """Whether a row is the one that the test wrote, or its count, or a sum, which covers it."""
    is_sum = row[1] == b"sum" or row[1][:1] == SUM_PREFIX
    return is_sum or row[1] in (b"K" + bytes(16), COUNT_PREFIX + b"K" + bytes(4)) or row[:2] == ("study", bytes(8))


def look(rows_of: Callable[[Path], Rows | None], folder: Path) -> Rows | None:
    """The rows; None where the reader complains in any way that it may."""
    try:
        return rows_of(folder)
    except CofferError:
        return None


def judge(folder: Path, expected: Rows, rows_of: Callable[[Path], Rows | None], write: Callable[[Path], None]) -> str:
    """What a reader, and then a writer, make of the file as it is."""
    seen = look(rows_of, folder)
    if seen is None:
        return "found"
    if seen != expected:
        return "older" if len(seen) <= len(expected) else "WRONG"
    try:
        write(folder)
    except CofferError:
        return "same" if look(rows_of, folder) in (expected, None) else "WRONG"
    after = look(rows_of, folder)
    if after is None:
        return "found"
    kept = [row for row in after if not is_fresh(row)]
    return "same" if kept == [row for row in expected if not is_fresh(row)] else "WRONG"


def main(kind: str, file: Path, first: int, stop: int, step: int) -> None:
    """Flip, look, flip back."""
    rows_of, write = (keyring_rows, write_keyring) if kind == "keyring" else (index_rows, write_index)
    good = file.read_bytes()
    expected = rows_of(file.parent)
    assert expected
    for offset in range(first, stop, step):
        sys.stdout.write(f"{offset} ")
        sys.stdout.flush()
        bad = bytearray(good)
        bad[offset] ^= 1 << (offset * 5 + 3) % 8
        file.write_bytes(bad)
        what = judge(file.parent, expected, rows_of, write)
        (file.parent / "lock.mdb").unlink(missing_ok=True)
        file.write_bytes(good)
        sys.stdout.write(what + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:6]))
