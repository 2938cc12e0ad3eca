"""Medians, ranges and ratios of the rows of a measurement. Pure: rows in, numbers and short texts out."""

import math
import statistics
from collections.abc import Sequence
from typing import Any


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that `share` percent do not exceed (nearest rank). Raises ValueError for no values."""
    if not values or not 0 <= share <= 100:
        raise ValueError("a percentile needs values and a share between 0 and 100")
    return sorted(values)[max(math.ceil(len(values) * share / 100), 1) - 1]


def figure(value: float | None) -> str:
    """Format a number with at most three significant digits, and none after the point from 100 on."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


class Figures:
    """The rows of a measurement, selected by bench, peer and other fields."""

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        self.rows = rows

    def values(self, key: str, **where: object) -> list[float]:
        """Return all values of `key` in the matching rows, in the order of the run."""
        hit = (r for r in self.rows if all(r.get(k) == v for k, v in where.items()))
        return [r[key] for r in hit if r.get(key) is not None]

    def median(self, key: str, **where: object) -> float | None:
        """Return the median, or None if nothing was measured."""
        values = self.values(key, **where)
        return statistics.median(values) if values else None

    def highest(self, key: str, **where: object) -> float | None:
        """Return the largest value, or None if nothing was measured."""
        return max(self.values(key, **where), default=None)

    def spread(self, key: str, **where: object) -> str:
        """Format the median with the range of the runs."""
        values = self.values(key, **where)
        if len(values) < 2:
            return figure(self.median(key, **where))
        return f"{figure(statistics.median(values))} ({figure(min(values))}–{figure(max(values))})"

    def peers(self, **where: object) -> list[str]:
        """Return the peers in the matching rows, in the order of the run."""
        return list(dict.fromkeys(r["peer"] for r in self.rows if all(r.get(k) == v for k, v in where.items())))

    def errors(self) -> list[str]:
        """Return the errors of the run, so that every gap in a table is explained."""
        keys = ("bench", "peer", "corpus", "assoc", "query")
        found = [(r, str(r["error"])) for r in self.rows if r.get("error")]
        failed = [(r, f"{r['failed']} instances refused") for r in self.rows if r.get("failed")]
        return [" ".join(str(r[k]) for k in keys if k in r) + ": " + text[:200] for r, text in found + failed]

    def ratio(self, key: str, ours: str, theirs: str, *, more_is_better: bool = True, **where: object) -> float | None:
        """Return how many times better `ours` is than `theirs`; below 1 it is worse.

        The median over the runs, each compared with the one beside it: a machine that slows down affects both.
        """
        pairs = zip(self.values(key, peer=ours, **where), self.values(key, peer=theirs, **where), strict=False)
        each = [(a / b if more_is_better else b / a) for a, b in pairs if a and b]
        return statistics.median(each) if each else None
