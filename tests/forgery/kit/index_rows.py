"""Rows of the index, changed with LMDB alone; the sum that needs no key is made to fit (index/FORMAT.md)."""

from __future__ import annotations

from collections.abc import Collection
from hashlib import sha256
from pathlib import Path

import lmdb

TABLES = (b"meta", b"uid", b"study", b"series", b"instance")
Row = tuple[int, bytes, bytes]  # table, key, value
SUM = b"sum"


def rows_of(folder: Path) -> frozenset[Row]:
    """Every row of the index in a folder, which nobody has open in this process."""
    with lmdb.open(str(folder), readonly=True, lock=False, max_dbs=8) as env:
        dbs = [env.open_db(name, dupsort=name == b"uid", create=False) for name in TABLES]
        with env.begin() as txn:
            return frozenset((n, bytes(k), bytes(v)) for n, db in enumerate(dbs) for k, v in txn.cursor(db=db))


def change(folder: Path, removed: Collection[Row], added: Collection[Row] = ()) -> None:
    """Take rows away and add others; the accident sum fits the rows that are then there."""
    with lmdb.open(str(folder), map_size=1 << 30, max_dbs=8) as env:
        dbs = [env.open_db(name, dupsort=name == b"uid") for name in TABLES]
        with env.begin(write=True) as txn:
            for table, key, value in removed:
                txn.delete(key, value, db=dbs[table])
            for table, key, value in added:
                txn.put(key, value, db=dbs[table])
            total = 0
            for table, db in enumerate(dbs):
                for key, value in txn.cursor(db=db):
                    if (table, key) != (0, SUM):
                        text = bytes([table]) + len(key).to_bytes(2, "big") + key + value
                        total += int.from_bytes(sha256(text).digest()[:8], "big")
            head = txn.get(SUM, db=dbs[0])
            if head is not None:
                total += int.from_bytes(sha256(head[:48]).digest()[:8], "big")
                txn.put(SUM, head[:48] + (total % (1 << 64)).to_bytes(8, "big"), db=dbs[0])
