"""The tool of somebody who writes the index's disk, knows index/FORMAT.md, and has no key: no code of Coffer."""

from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import lmdb

from tests.vectors.reader_index import bucket

TABLES: Final = ("meta", "uid", "study", "series", "instance", "sums")
_MAP: Final = 1 << 36
Row = tuple[str, bytes]  # table and key
Rows = dict[Row, tuple[bytes, ...]]


def index_rows(folder: Path) -> Rows:
    """Every row, with all its values."""
    found: Rows = {}
    with lmdb.open(str(folder), map_size=_MAP, max_dbs=8, readonly=True, lock=False) as env:
        dbs = {name: env.open_db(name.encode(), create=False) for name in TABLES}
        with env.begin() as txn:
            for name, db in dbs.items():
                for key, value in txn.cursor(db=db):
                    found[name, bytes(key)] = (*found.get((name, bytes(key)), ()), bytes(value))
    return found


def of(table: str, rows: Rows) -> Row:
    """The first row of a table."""
    return min(row for row in rows if row[0] == table)


def place(row: Row) -> Row:
    """Where the sum of a row's bucket is."""
    table, key = row
    return "sums", bytes([TABLES.index(table)]) + bucket(table, key)


def change_index(folder: Path, changes: Mapping[Row, tuple[bytes, ...] | None], *, sums: bool = True) -> None:
    """Change rows (None: remove) and compute the sums anew as far as that needs no key; without `sums`, only what was
    named is changed."""
    with lmdb.open(str(folder), map_size=_MAP, max_dbs=8) as env:
        dbs = {name: env.open_db(name.encode(), dupsort=name == "uid") for name in TABLES}
        with env.begin(write=True) as txn:
            for (table, key), values in changes.items():
                txn.delete(key, db=dbs[table])
                for value in values or ():
                    txn.put(key, value, db=dbs[table])
            if sums:
                _sum(lambda table: [(bytes(k), bytes(v)) for k, v in txn.cursor(db=dbs[table])], _putter(txn, dbs))


def _putter(txn: Any, dbs: Mapping[str, Any]) -> Callable[[str, bytes, bytes], None]:
    def put(table: str, key: bytes, value: bytes) -> None:
        txn.put(key, value, db=dbs[table])

    return put


def _sum(rows: Callable[[str], list[tuple[bytes, bytes]]], put: Callable[[str, bytes, bytes], None]) -> None:
    """The accident sums of every bucket that has a sum, and of all of it."""
    totals: dict[bytes, int] = {}
    for table in TABLES[1:5]:
        for key, value in rows(table):
            _, where = place((table, key))
            totals[where] = totals.get(where, 0) + _hash(table, key, value)
    for where, value in rows("sums"):
        put("sums", where, _guarded(value[:48], totals.get(where, 0)))
    top = sum(_hash(table, key, value) for table in ("meta", "sums") for key, value in rows(table) if key != b"sum")
    kept = next(value for key, value in rows("meta") if key == b"sum")
    put("meta", b"sum", _guarded(kept[:48], top))


def _hash(table: str, key: bytes, value: bytes) -> int:
    text = bytes([TABLES.index(table)]) + len(key).to_bytes(2, "big") + key + value
    return int.from_bytes(sha256(text).digest()[:8], "big")


def _guarded(head: bytes, total: int) -> bytes:
    return head + ((total + int.from_bytes(sha256(head).digest()[:8], "big")) % (1 << 64)).to_bytes(8, "big")
