"""Which snapshots stay: the last of so many days, weeks and months, and so many of the newest.

Rule: pure. Only whole snapshots count; one with findings stays as long as there is no newer whole one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from coffer.archive.copies.snapshot import Snapshot

__all__ = ["Keep", "kept"]


@dataclass(frozen=True, slots=True)
class Keep:
    """How many of the newest snapshots stay, and of how many days, ISO weeks and months (UTC) the last one."""

    last: int
    daily: int
    weekly: int
    monthly: int


def kept(snapshots: Sequence[Snapshot], keep: Keep) -> set[str]:
    """The ids of those that stay."""
    newest_first = sorted(snapshots, key=lambda each: (each.made_ms, each.id), reverse=True)
    whole = [each for each in newest_first if not each.findings]
    found = {each.id for each in whole[: keep.last]}
    for count, period in ((keep.daily, _day), (keep.weekly, _week), (keep.monthly, _month)):
        found |= _last_of_each(whole, count, period)
    newest = newest_first.index(whole[0]) if whole else len(newest_first)
    return found | {each.id for each in newest_first[:newest]}


def _last_of_each(newest_first: Sequence[Snapshot], count: int, period: Callable[[datetime], object]) -> set[str]:
    found: dict[object, str] = {}
    for each in newest_first:
        found.setdefault(period(datetime.fromtimestamp(each.made_ms / 1000, UTC)), each.id)
    return set(list(found.values())[:count])


def _day(when: datetime) -> object:
    return when.date()


def _week(when: datetime) -> object:
    return when.isocalendar()[:2]


def _month(when: datetime) -> object:
    return when.year, when.month
