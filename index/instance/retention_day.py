"""The day an object's retention starts: its study date, if that is plausible, or its receipt.

Rule: pure, and computed for each object alone, so that the latest day of many does not depend on the order in which
they came. When in doubt the later day counts: a retention may be too long, never too short.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

__all__ = ["parse_day", "retention_start"]

_FIRST: Final = dt.date(2025, 1, 1)  # nothing was received before this program existed: an earlier clock was wrong
_AHEAD: Final = dt.timedelta(days=5 * 366)
_EPOCH: Final = dt.date(1970, 1, 1)


def retention_start(study_dates: Iterable[str], received_ms: int) -> str:
    """The day, as YYYYMMDD, for an object with these values of Study Date, received at a time (ms since 1970 UTC).

    Without a valid date it is the day of receipt. A date after the receipt is accepted, because the clock here may have
    been slow. A date more than five years after it is taken for a mistake and replaced by the receipt: nobody is
    examined after the images arrived, and a mistyped year must not keep a study forever. If the receipt is before this
    program existed, any valid date is accepted.
    """
    receipt = _EPOCH + dt.timedelta(days=min(max(received_ms // 86_400_000, 0), (dt.date.max - _EPOCH).days))
    is_wrong = receipt < _FIRST
    receipt = max(receipt, _FIRST)
    limit = dt.date.max if is_wrong else receipt + min(_AHEAD, dt.date.max - receipt)
    dates = [found for found in map(parse_day, study_dates) if found is not None]
    latest = max((found if found <= limit else receipt for found in dates), default=receipt)
    return f"{latest:%Y%m%d}" if latest.year >= 1000 else f"{latest.year:04}{latest:%m%d}"


@lru_cache(maxsize=4096)
def parse_day(text: str) -> dt.date | None:
    """A date in DICOM's notation (PS3.5 6.2: VR DA, also with the dots of ACR-NEMA); None if it is not valid."""
    digits = text.strip(" \0").replace(".", "")
    if len(digits) != 8 or not (digits.isascii() and digits.isdigit()):
        return None
    try:
        return dt.date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
    except ValueError:
        return None
