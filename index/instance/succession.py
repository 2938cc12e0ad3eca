"""Whether the versions of one instance follow each other as each of them says: a chain by content ids.

Rule: pure. Only sealed values count: the order of first records, and what each version's meta says of its predecessor,
which whoever moves records cannot change. It knows of one instance at a time, and decides nothing about which version
is served.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from coffer.index.instance.order import Order

__all__ = ["Broken", "MayBeLost", "Succeeding", "broken"]


class Succeeding(NamedTuple):
    """One version: its order, the record that holds it, its content id as first stored, and that of its predecessor
    (empty: it says that there was none). Ids may be shortened, all alike."""

    order: Order
    seq: int
    content_id: bytes
    previous: bytes


class Broken(NamedTuple):
    """A version that does not name the one before it: the record of each; None: no version is before it."""

    seq: int
    before: int | None


MayBeLost = Callable[[Order | None, Order], bool]


def broken(versions: Iterable[Succeeding], may_be_lost: MayBeLost) -> Iterator[Broken]:
    """Yield every version of one instance that contradicts the order of all of them.

    An object that is in two records, because it was sealed again, counts once. A predecessor that is none of `versions`
    is accepted where `may_be_lost` says that a version between these two orders (None: from the beginning) may be one
    that no key opens.
    """
    by_order = {each.order: each for each in sorted(versions)}  # of two records of one object, the later one
    known = {each.content_id for each in by_order.values()}
    before: Succeeding | None = None
    for each in by_order.values():
        is_next = each.previous == (before.content_id if before is not None else b"")
        is_gone = bool(each.previous) and each.previous not in known
        if not is_next and not (is_gone and may_be_lost(before and before.order, each.order)):
            yield Broken(each.seq, before and before.seq)
        before = each
