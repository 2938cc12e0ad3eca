"""Somebody who writes the disk and has no key: changes rows of a keyring, and recomputes whatever needs no key for it.

Plain LMDB and SHA-256, written from keys/FORMAT.md; it imports nothing of the product.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import lmdb


def rows_of(folder: Path) -> dict[bytes, bytes]:
    """Every row of the keyring in a folder, which nobody has open in this process."""
    with lmdb.open(str(folder), readonly=True, lock=False) as env, env.begin() as txn:
        return {bytes(key): bytes(value) for key, value in txn.cursor()}


def change(folder: Path, rows: Mapping[bytes, bytes | None]) -> None:
    """Write rows (None: remove), with the unkeyed sums and the counts that follow from them."""
    was = rows_of(folder)
    now = {key: value for key, value in {**was, **rows}.items() if value is not None}
    counts = Counter(b"DK" + value[8:12] for key, value in now.items() if key[:1] == b"K")
    now = {key: value for key, value in now.items() if key[:1] != b"D"}
    now |= {key: count.to_bytes(8, "big") for key, count in counts.items()}
    plain = [0] * 256
    for key, value in now.items():
        if key[:1] != b"S" or len(key) != 2:
            text = len(key).to_bytes(2, "big") + key + value
            plain[key[1] if len(key) > 1 else 0] += int.from_bytes(sha256(text).digest()[:8], "big")
    for bucket, total in enumerate(plain):
        place = b"S" + bytes([bucket])
        if place in now:
            head = now[place][:72]
            whole = total + int.from_bytes(sha256(head).digest()[:8], "big")
            now[place] = head + (whole % (1 << 64)).to_bytes(8, "big")
    with lmdb.open(str(folder), map_size=1 << 30) as env, env.begin(write=True) as txn:
        for key in was.keys() - now.keys():
            txn.delete(key)
        for key, value in now.items():
            if was.get(key) != value:
                txn.put(key, value)
