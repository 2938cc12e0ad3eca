"""Keys that are dates, times or ranges of them (PS3.4 C.2.2.2.5; PS3.5 6.2: VR DA, TM, DT).

Rule: pure. Values and bounds become text that sorts by time; anything else gives None. These are the only regular
expressions over stored text, and they have no alternatives to backtrack into.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

__all__ = ["RANGE_VRS", "bounds", "first_moment"]

RANGE_VRS: Final = frozenset({"DA", "TM", "DT"})
_DATE: Final = re.compile(r"(\d{4})[.]?(\d{2})[.]?(\d{2})", re.ASCII)  # with the ACR-NEMA dots of PS3.5 6.2
_TIME: Final = re.compile(r"(\d{2})(?::?(\d{2})(?::?(\d{2})(?:\.(\d{1,6}))?)?)?", re.ASCII)
_DATETIME: Final = re.compile(r"(\d{4}(?:\d{2}){0,5})(?:\.(\d{1,6}))?([+-]\d{4})?", re.ASCII)
_OFFSET_AT_END: Final = re.compile(r"-\d{4}$", re.ASCII)


def bounds(vr: str, text: str) -> tuple[str | None, str | None] | None:
    """The inclusive bounds of a key, in the form of `first_moment`; None if it is neither a value nor a range."""
    low_text, dash, high_text = _split_range(vr, text)
    if not dash:
        low, high = _FIRST[vr](text), _LAST[vr](text)
        return None if low is None else (low, high)
    low = _FIRST[vr](low_text) if low_text else None
    high = _LAST[vr](high_text) if high_text else None
    if (low_text and low is None) or (high_text and high is None):
        return None
    return low, high


def _split_range(vr: str, text: str) -> tuple[str, str, str]:
    """Split at the hyphen of PS3.4 C.2.2.2.5; in DT a hyphen before four digits may be a time zone offset."""
    if vr != "DT" or "-" not in text:
        return tuple(part.strip() for part in text.partition("-"))  # type: ignore[return-value]
    for at in (i for i, c in enumerate(text) if c == "-"):
        low, high = text[:at].strip(), text[at + 1 :].strip()
        if (not low or _DATETIME.fullmatch(low)) and (not high or _DATETIME.fullmatch(high)):
            if _OFFSET_AT_END.search(text) and low and len(high) == 4 and _is_offset(high):
                continue  # "20240101120000-0500" is one moment, not a range up to the year 500
            return low, "-", high
    return text, "", ""


def _is_offset(digits: str) -> bool:
    return digits.isdigit() and int(digits) <= 1400  # PS3.5 6.2: -1200 to +1400


def _date(text: str) -> str | None:
    found = _DATE.fullmatch(text.strip())
    return "".join(found.groups()) if found else None


def _time(text: str, filler: str) -> str | None:
    """HHMMSSffffff; absent parts become those of the first (filler 0) or last (filler 9) possible moment."""
    found = _TIME.fullmatch(text.strip())
    if not found:
        return None
    hours, minutes, seconds, fraction = found.groups()
    last = filler == "9"
    return (
        hours
        + (minutes or ("59" if last else "00"))
        + (seconds or ("59" if last else "00"))
        + (fraction or "").ljust(6, filler)
    )


def _datetime(text: str, filler: str) -> str | None:
    """YYYYMMDDHHMMSSffffff, in UTC if an offset is given, otherwise as written."""
    found = _DATETIME.fullmatch(text.strip())
    if not found:
        return None
    digits, fraction, offset = found.groups()
    open_end = "99991231235959" if filler == "9" else "00000101000000"
    full = digits + open_end[len(digits) :]
    if offset:
        full = _shifted(full, -(int(offset[:3]) * 60 + int(offset[0] + offset[3:])))
    return full + (fraction or "").ljust(6, filler)


def _shifted(full: str, minutes: int) -> str:
    """Move YYYYMMDDHHMMSS by minutes; all months have 31 days here, so that no calendar error can be raised."""
    day = int(full[:4]) * 372 + (int(full[4:6]) - 1) * 31 + int(full[6:8]) - 1
    minute = int(full[8:10]) * 60 + int(full[10:12]) + minutes
    day += minute // 1440
    minute %= 1440
    year, rest = divmod(day, 372)
    return f"{year:04d}{rest // 31 + 1:02d}{rest % 31 + 1:02d}{minute // 60:02d}{minute % 60:02d}{full[12:]}"


_FIRST: Final[Mapping[str, Callable[[str], str | None]]] = {
    "DA": _date,
    "TM": lambda text: _time(text, "0"),
    "DT": lambda text: _datetime(text, "0"),
}
_LAST: Final[Mapping[str, Callable[[str], str | None]]] = {
    "DA": _date,
    "TM": lambda text: _time(text, "9"),
    "DT": lambda text: _datetime(text, "9"),
}


def first_moment(vr: str, text: str) -> str | None:
    """The first moment that a value of a VR of `RANGE_VRS` stands for, comparable as text; None if it is not valid."""
    return _FIRST[vr](text)
