"""Buckets of the keyring: rows that share the sums of one row `S` (keys/FORMAT.md). `tests.keyless` changes rows."""

from __future__ import annotations

from collections.abc import Mapping

Rows = Mapping[bytes, bytes]
COUNTS = b"D"


def bucket_of(key: bytes) -> int | None:
    """The bucket that a row is summed in; None for the sums themselves."""
    if is_sum(key):
        return None
    return key[1] if len(key) > 1 else 0


def is_sum(key: bytes) -> bool:
    """Whether the row is the sums over one bucket."""
    return key[:1] == b"S" and len(key) == 2


def buckets(rows: Rows) -> dict[int, dict[bytes, bytes]]:
    """The rows of each bucket, with its sums. Counts (`D`) are left out: whoever changes rows counts them anew."""
    found: dict[int, dict[bytes, bytes]] = {number: {} for number in range(256)}
    for key, value in rows.items():
        if key[:1] != COUNTS:
            number = bucket_of(key)
            found[key[1] if number is None else number][key] = value
    return found


def put_back(now: Rows, then: Rows) -> dict[bytes, bytes | None]:
    """What is to be written so that a bucket, of which these are the rows, is as it was then; None: removed."""
    gone: dict[bytes, bytes | None] = dict.fromkeys(now)
    return gone | then
