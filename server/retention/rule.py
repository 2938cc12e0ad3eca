"""How long a study must be kept ([retention] years): from the latest day that any of its parts counts from.

Rule: pure. The day that an object counts from is decided when it is stored (`index.instance.retention_day`). A part
keeps the latest day of everything it has or had: nothing stored later shortens a retention.
"""

import datetime as dt
from collections.abc import Iterable
from typing import Final

from coffer.index.query.parts import Part
from coffer.keys.errors import AccessDeniedError

__all__ = ["last_day", "require_over"]

_YEAR_DAYS: Final = 365.2425


def last_day(parts: Iterable[Part], years: float) -> dt.date:
    """Return the last day on which a study with these parts (at least one) must be kept."""
    begin = dt.datetime.strptime(max(part.latest_date for part in parts), "%Y%m%d").replace(tzinfo=dt.UTC).date()
    return begin + min(dt.timedelta(days=round(years * _YEAR_DAYS)), dt.date.max - begin)


def require_over(parts: Iterable[Part], years: float, day: dt.date) -> None:
    """Raise AccessDeniedError, naming the last day, if a study with these parts must be kept on `day`."""
    if not years:
        return
    last = last_day(parts, years)
    if day <= last:
        raise AccessDeniedError(
            f"the retention of {years:g} years ([retention] years in coffer.toml) keeps this study until {last}",
            hint="wait, or have the retention changed by the person responsible for it",
        )
