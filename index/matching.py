"""Attribute matching of PS3.4 C.2.2.2: single value, list of UID, universal, wildcard, range, and sequence.

Rule: pure, and the only judge: whatever narrows candidates elsewhere may let too many through, never too few. Work is
bounded by (length of key) x (length of value); there is no backtracking and no regular expression over stored text.
Choices where PS3.4 leaves them: PN ignores case and Unicode compatibility forms, everything else is case-sensitive;
IS, DS and binary numbers compare as numbers (CP-2305); several values in a key of any VR mean "any of them".
It knows no levels and no rows, and does no fuzzy, empty-value or multiple-value matching (none is negotiated).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from index.attributes import BINARY_VRS, Item, Values, vr_of

__all__ = ["WILDCARD_VRS", "Key", "compile_key", "fold_name", "wildcard_matches"]

WILDCARD_VRS: Final = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})  # PS3.4 C.2.2.2.4
_NUMBER_VRS: Final = frozenset({"IS", "DS"}) | frozenset(BINARY_VRS)
_RANGE_VRS: Final = frozenset({"DA", "TM", "DT"})
_LONGEST_KEY: Final = 4096  # characters of one key value that are looked at; no stored value of a key VR is longer
_DATE: Final = re.compile(r"(\d{4})[.]?(\d{2})[.]?(\d{2})")  # with the ACR-NEMA dots of PS3.5 6.2
_TIME: Final = re.compile(r"(\d{2})(?::?(\d{2})(?::?(\d{2})(?:\.(\d{1,6}))?)?)?")
_DATETIME: Final = re.compile(r"(\d{4}(?:\d{2}){0,5})(?:\.(\d{1,6}))?([+-]\d{4})?")
_OFFSET_AT_END: Final = re.compile(r"-\d{4}$")

Test: TypeAlias = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Key:
    """One compiled key. `matches` decides; the rest tells a table what it may narrow by.

    `exact`: stored values that are the only ones that can match (None: cannot be listed). `span`: inclusive bounds of
    a date. `universal`: matches every entity, also one without the attribute.
    """

    tag: int
    vr: str
    universal: bool
    test: Test | None = None
    exact: tuple[str, ...] | None = None
    patterns: tuple[str, ...] = ()
    span: tuple[str, str] | None = None
    items: tuple[Key, ...] = ()

    def matches(self, values: Sequence[str | Item] | Values | None) -> bool:
        """Whether an entity whose attribute has these values (None or empty: it has none) matches the key."""
        if self.universal:
            return True
        if not values:
            return False
        if self.items:
            return any(not isinstance(v, str) and self._item_matches(v) for v in values)
        test = self.test
        return test is not None and any(isinstance(v, str) and test(v) for v in values)

    def _item_matches(self, item: Mapping[int, Values] | Item) -> bool:
        return all(key.matches(item.get(key.tag)) for key in self.items)


def compile_key(tag: int, values: Values) -> Key:
    """Return the key for one attribute of a query; its VR is that of PS3.6. Never raises."""
    vr = vr_of(tag)
    if vr == "SQ":
        return _sequence_key(tag, values)
    text = tuple(v[:_LONGEST_KEY] for v in values if isinstance(v, str) and v)
    if not text or ((vr in WILDCARD_VRS or vr == "UI") and any(v.strip("*") == "" for v in text)):
        return Key(tag, vr, universal=True)
    if vr in _RANGE_VRS:
        return _range_key(tag, vr, text)
    if vr == "PN":
        return _name_key(tag, text)
    if vr in _NUMBER_VRS:
        numbers = frozenset(_canonical_number(v) for v in text)
        return Key(tag, vr, universal=False, test=lambda v: _canonical_number(v) in numbers)
    return _text_key(tag, vr, text)


def _text_key(tag: int, vr: str, text: tuple[str, ...]) -> Key:
    if vr in WILDCARD_VRS and any("*" in v or "?" in v for v in text):
        return Key(
            tag,
            vr,
            universal=False,
            patterns=text,
            test=lambda v: any(wildcard_matches(pattern, v) for pattern in text),
        )
    listed = frozenset(text)
    return Key(tag, vr, universal=False, exact=text, test=lambda v: v in listed)


def _sequence_key(tag: int, values: Values) -> Key:
    """PS3.4 C.2.2.2.6: one item; an entity matches when any of its items satisfies every key of that item."""
    item = next((v for v in values if not isinstance(v, str)), None)
    inner = tuple(compile_key(t, v) for t, v in item.items()) if item is not None else ()
    inner = tuple(key for key in inner if not key.universal)
    return Key(tag, "SQ", universal=not inner, items=inner)


def wildcard_matches(pattern: str, text: str) -> bool:
    """Match `*` (any run, also empty) and `?` (exactly one character) over the whole text, without backtracking.

    The first piece is anchored left, the last right, and every piece between them is taken at its leftmost place,
    which is right because a later place could only leave less text for the rest.
    """
    pieces = pattern.split("*")
    if len(pieces) == 1:
        return len(text) == len(pattern) and _piece_at(pattern, text, 0)
    first, last = pieces[0], pieces[-1]
    stop = len(text) - len(last)
    if len(first) > stop or not _piece_at(first, text, 0) or not _piece_at(last, text, stop):
        return False
    at = len(first)
    for piece in pieces[1:-1]:
        if piece:
            found = _find_piece(piece, text, at, stop)
            if found < 0:
                return False
            at = found + len(piece)
    return True


def _piece_at(piece: str, text: str, at: int) -> bool:
    if "?" not in piece:
        return text.startswith(piece, at)
    return at + len(piece) <= len(text) and all(p in ("?", text[at + i]) for i, p in enumerate(piece))


def _find_piece(piece: str, text: str, at: int, stop: int) -> int:
    if "?" not in piece:
        return text.find(piece, at, stop)
    return next((i for i in range(at, stop - len(piece) + 1) if _piece_at(piece, text, i)), -1)


def fold_name(name: str) -> tuple[str, ...]:
    """Return the component groups of a PN, folded for comparison: NFKC, no case, no padding, no empty tail.

    Used for keys and stored values alike; `*` and `?` pass through unchanged.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    groups = []
    for group in folded.split("="):
        parts = [part.strip() for part in group.split("^")]
        while parts and not parts[-1]:
            parts.pop()
        groups.append("^".join(parts))
    while groups and not groups[-1]:
        groups.pop()
    return tuple(groups)


def _name_key(tag: int, text: tuple[str, ...]) -> Key:
    """Each group given in the key against its group; one group alone is matched against any group of the value."""
    keys = tuple(fold_name(v) for v in text)
    if any(all(not group.strip("*") for group in key) for key in keys):
        return Key(tag, "PN", universal=True)
    patterns = tuple("=".join(key) for key in keys)
    return Key(tag, "PN", universal=False, patterns=patterns, test=lambda v: _name_matches(keys, fold_name(v)))


def _name_matches(keys: tuple[tuple[str, ...], ...], groups: tuple[str, ...]) -> bool:
    for key in keys:
        if len(key) == 1:
            if any(wildcard_matches(key[0], group) for group in groups):
                return True
        elif all(
            not pattern or (i < len(groups) and wildcard_matches(pattern, groups[i])) for i, pattern in enumerate(key)
        ):
            return True
    return False


def _canonical_number(text: str) -> str | float:
    try:
        return float(text) if len(text) <= 64 else text
    except ValueError:
        return text


def _range_key(tag: int, vr: str, text: tuple[str, ...]) -> Key:
    bounds = tuple(b for b in (_bounds(vr, v) for v in text) if b is not None)
    if any(low is None and high is None for low, high in bounds):
        return Key(tag, vr, universal=True)
    first = _FIRST[vr]

    def test(value: str) -> bool:
        at = first(value)
        if at is None:
            return value in text
        return any((low is None or low <= at) and (high is None or at <= high) for low, high in bounds)

    span = None
    if vr == "DA" and len(bounds) == len(text) == 1:
        span = (bounds[0][0] or "", bounds[0][1] or "99999999")
    return Key(tag, vr, universal=False, test=test, span=span)


def _bounds(vr: str, text: str) -> tuple[str | None, str | None] | None:
    """The inclusive bounds of a key, in the comparable form of `_FIRST`; None when it is neither value nor range."""
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
    """PS3.4 C.2.2.2.5: the hyphen that separates; in DT one before four digits may be a time zone offset."""
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
    """HHMMSSffffff, with absent parts as the first or the last moment they leave open."""
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
    """YYYYMMDDHHMMSSffffff in UTC where an offset is given, else as written."""
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
    """Move YYYYMMDDHHMMSS by minutes, through days counted so that no calendar error can be raised."""
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
