"""Which day an object's retention counts from: its study date, as far as that can be believed, or its receipt.

Rule: pure, of one object by itself, so that the latest day of many is the same in whatever order they came, and no
object takes back what another one says. When in doubt the later day: a retention may be too long, never too short.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

__all__ = ["counts_from", "day_of"]

_FIRST: Final = dt.date(2025, 1, 1)  # nothing was received before this program existed: such a clock was wrong
_AHEAD: Final = dt.timedelta(days=5 * 366)
_EPOCH: Final = dt.date(1970, 1, 1)


def counts_from(study_dates: Iterable[str], received_ms: int) -> str:
    """The day, as YYYYMMDD, for an object with these values of Study Date, received at a time (ms since 1970 UTC).

    Without a valid date it is the day of receipt. A date counts as it says, also one that is ahead of the receipt, as
    the clock here may have been behind; but one that is more than five years ahead is taken for a mistake and counts as
    the receipt: nobody is examined after the images came, and a mistyped year must not keep a study for ever. A receipt
    before this program existed says nothing: then the date counts as it says.
    """
    receipt = _EPOCH + dt.timedelta(days=min(max(received_ms // 86_400_000, 0), (dt.date.max - _EPOCH).days))
    is_wrong = receipt < _FIRST
    receipt = max(receipt, _FIRST)
    limit = dt.date.max if is_wrong else receipt + min(_AHEAD, dt.date.max - receipt)
    dates = [found for found in map(day_of, study_dates) if found is not None]
    latest = max((found if found <= limit else receipt for found in dates), default=receipt)
    return f"{latest:%Y%m%d}" if latest.year >= 1000 else f"{latest.year:04}{latest:%m%d}"


@lru_cache(maxsize=4096)
def day_of(text: str) -> dt.date | None:
    """A date as it is written (PS3.5 6.2: VR DA, and the dots of ACR-NEMA); None where it is none."""
    digits = text.strip(" \0").replace(".", "")
    if len(digits) != 8 or not (digits.isascii() and digits.isdigit()):
        return None
    try:
        return dt.date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    except ValueError:
        return None
