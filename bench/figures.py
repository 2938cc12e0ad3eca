"""The lines of a measurement, asked for medians, ranges and ratios. Pure: rows in, numbers and short texts out."""

import math
import statistics
from collections.abc import Sequence
from typing import Any


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` percent of them do not exceed (nearest rank). Raises ValueError for none."""
    if not values or not 0 <= share <= 100:
        raise ValueError("a percentile is of some values and between 0 and 100")
    return sorted(values)[max(math.ceil(len(values) * share / 100), 1) - 1]


def figure(value: float | None) -> str:
    """A number with three significant digits at most, and no digits that say nothing."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


class Figures:
    """Asked by bench, peer and what was measured."""

    def __init__(self, rows: Sequence[dict[str, Any]]) -> None:
        self.rows = rows

    def values(self, key: str, **where: object) -> list[float]:
        """All values of `key` in the rows that match, in the order of the run."""
        hit = (r for r in self.rows if all(r.get(k) == v for k, v in where.items()))
        return [r[key] for r in hit if r.get(key) is not None]

    def median(self, key: str, **where: object) -> float | None:
        """The median, or None where nothing was measured."""
        values = self.values(key, **where)
        return statistics.median(values) if values else None

    def highest(self, key: str, **where: object) -> float | None:
        """The largest, or None where nothing was measured."""
        return max(self.values(key, **where), default=None)

    def spread(self, key: str, **where: object) -> str:
        """Median with the range of the runs."""
        values = self.values(key, **where)
        if len(values) < 2:
            return figure(self.median(key, **where))
        return f"{figure(statistics.median(values))} ({figure(min(values))}–{figure(max(values))})"

    def peers(self, **where: object) -> list[str]:
        """Peers that appear, in the order of the run."""
        return list(dict.fromkeys(r["peer"] for r in self.rows if all(r.get(k) == v for k, v in where.items())))

    def errors(self) -> list[str]:
        """What went wrong, so that no gap in a table stays unexplained."""
        keys = ("bench", "peer", "corpus", "assoc", "query")
        found = [(r, str(r["error"])) for r in self.rows if r.get("error")]
        failed = [(r, f"{r['failed']} instances refused") for r in self.rows if r.get("failed")]
        return [" ".join(str(r[k]) for k in keys if k in r) + ": " + text[:200] for r, text in found + failed]

    def ratio(self, key: str, ours: str, theirs: str, *, more_is_better: bool = True, **where: object) -> float | None:
        """How many times better `ours` is than `theirs`; below 1 it is worse.

        The median over the runs, each compared with the one beside it: a machine that slows down meets both.
        """
        pairs = zip(self.values(key, peer=ours, **where), self.values(key, peer=theirs, **where), strict=False)
        each = [(a / b if more_is_better else b / a) for a, b in pairs if a and b]
        return statistics.median(each) if each else None
