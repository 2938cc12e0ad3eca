"""What a change does to the rows that a store keeps for itself: sums, counts and the feed (pure). See FORMAT.md.

Rule: every store makes the same rows of the same change, so a keyring can move from one to another row by row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from coffer.keys.store.keyring_store import Changes, Row
from coffer.keys.store.sums import BUCKETS, FOLD_KEY, LETTERS, RowSums, Totals, altered, prefixes_of

__all__ = [
    "COUNTED",
    "COUNT_PREFIX",
    "FEED_KEY",
    "KEPT",
    "SOMETHING_ELSE",
    "changes_after",
    "complaint_about",
    "count_in",
    "folded",
    "founded",
    "planned",
    "require_right",
]

FEED_KEY: Final = b"C"  # the number of the newest entry of the feed; with a number behind it, that entry
COUNT_PREFIX: Final = b"D"  # with a counted prefix and a group behind it, the number of rows
COUNTED: Final[Mapping[bytes, slice]] = MappingProxyType({b"K": slice(8, 12)})  # by prefix, what of the value groups it
KEPT: Final = 65_536  # entries of the feed
SOMETHING_ELSE: Final = bytes(16)  # an entry of the feed: no key was taken away, something else must be read again

Get = Callable[[bytes], bytes | None]
Walk = Callable[[Iterable[bytes], Callable[[bytes, bytes], None]], object]


def planned(
    get: Get, rows: Sequence[Row], removed: Sequence[bytes], gone: Sequence[bytes], sums: RowSums
) -> dict[bytes, bytes | None]:
    """Return every row that a change writes (None: removes), the store's own rows included.

    `get` reads the rows as they are before the change. `removed` is done first, then `rows`. Raises IntegrityError
    where the sums that it moves are gone.
    """
    before, after = _changed(get, rows, removed, gone)
    return {**after, **sums.moved(get, before, after)}


def folded(get: Get, rows: Sequence[Row], sums: RowSums) -> dict[bytes, bytes | None]:
    """Return every row of a change that also begins a new lineage, as `planned`. Raises IntegrityError where some
    bucket is not of this continuation."""
    return planned(get, [*rows, (FOLD_KEY, sums.fold(get))], (), (), sums)


def founded(rows: Sequence[Row], sums: RowSums) -> dict[bytes, bytes | None]:
    """Return every row of a new store that begins with these."""
    _, after = _changed(lambda _: None, [*rows, (FOLD_KEY, sums.first_fold())], (), ())
    return {**after, **sums.first(after)}


def _changed(
    get: Get, rows: Sequence[Row], removed: Sequence[bytes], gone: Sequence[bytes]
) -> tuple[Mapping[bytes, bytes | None], dict[bytes, bytes | None]]:
    """The rows of a change before it and after it, with the feed and the counts."""
    after: dict[bytes, bytes | None] = dict.fromkeys(removed)
    after.update(rows)
    after.update(_fed(get, gone))
    before = {key: get(key) for key in after}
    after.update(_counted(get, before, after))
    before.update({key: get(key) for key in after.keys() - before.keys()})
    return before, after


def _fed(get: Get, gone: Sequence[bytes]) -> Iterable[tuple[bytes, bytes | None]]:
    """The feed's new entries, the old ones that they push out, and its counter."""
    number = int.from_bytes(get(FEED_KEY) or b"", "big")
    for key_id in gone:
        number += 1
        yield _entry(number), key_id
        if number > KEPT:
            yield _entry(number - KEPT), None
    if gone:
        yield FEED_KEY, number.to_bytes(8, "big")


def _entry(number: int) -> bytes:
    return FEED_KEY + number.to_bytes(8, "big")


def _counted(
    get: Get, before: Mapping[bytes, bytes | None], after: Mapping[bytes, bytes | None]
) -> dict[bytes, bytes | None]:
    """The counts that a change moves; a count of 0 has no row."""
    moved: dict[bytes, int] = {}
    for key, new in after.items():
        group = COUNTED.get(key[:1])
        if group is None:
            continue
        for value, by in ((before[key], -1), (new, 1)):
            if value is not None:
                place = COUNT_PREFIX + key[:1] + value[group]
                moved[place] = moved.get(place, 0) + by
    counts = {place: int.from_bytes(get(place) or b"", "big") + by for place, by in moved.items() if by}
    return {place: max(count, 0).to_bytes(8, "big") if count > 0 else None for place, count in counts.items()}


def count_in(rows: Iterable[Row]) -> int:
    """Return the sum of these rows of counts."""
    return sum(int.from_bytes(value, "big") for _, value in rows)


def changes_after(get: Get, after: int) -> Changes:
    """Return the feed behind entry `after` from rows that `get` reads in one state."""
    number = int.from_bytes(get(FEED_KEY) or b"", "big")
    if after == number:
        return Changes(number, ())
    if after < 0 or not 0 <= number - after <= KEPT:
        return Changes(number, None)
    found = [get(_entry(each)) for each in range(after + 1, number + 1)]
    gone = [key_id for key_id in found if key_id is not None]
    return Changes(number, gone if len(gone) == len(found) else None)


def complaint_about(walk: Callable[[Callable[[bytes, bytes], None]], object], sums: RowSums | None) -> str | None:
    """Return how the rows differ from their sums and their counts, or None. `walk` visits every row in one state.
    Without `sums`, only an accident is found."""
    totals, counts = Totals(sums), Counter[bytes]()

    def add(key: bytes, value: bytes) -> None:
        totals.add(key, value)
        if key[:1] == COUNT_PREFIX:
            counts[key] -= int.from_bytes(value, "big")
        elif (group := COUNTED.get(key[:1])) is not None:
            counts[COUNT_PREFIX + key[:1] + value[group]] += 1

    walk(add)
    if totals.wrong(range(BUCKETS)):
        return str(altered())
    return "the keyring miscounts its keys" if any(counts.values()) else None


def require_right(buckets: Iterable[int], get: Get, walk: Walk, sums: RowSums) -> None:
    """Raise IntegrityError unless the rows of these buckets are those that were written. `get` and `walk` (every row
    under some prefixes) read one state; some 3 us a row, and 0.1 ms a bucket, or 3 us for each row that there is where
    most buckets are wanted. A row under anything but a letter is no keyring's, and only `complaint_about` finds it."""
    totals, wanted = Totals(sums), frozenset(buckets)
    totals.follow(get(FOLD_KEY))
    if len(wanted) > BUCKETS // 2:
        walk((bytes([letter]) for letter in LETTERS), totals.add)
    else:
        alone = {bytes([letter]): get(bytes([letter])) for letter in LETTERS} if 0 in wanted else {}
        for key, value in alone.items():
            if value is not None:
                totals.add(key, value)
        for bucket in wanted:
            walk(prefixes_of(bucket), totals.add)
    if totals.wrong(wanted):
        raise altered()
