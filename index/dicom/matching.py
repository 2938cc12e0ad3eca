"""Attribute matching of PS3.4 C.2.2.2: single value, list of UID, universal, wildcard, range, and sequence.

Rule: pure, and the only judge: whatever narrows candidates elsewhere may let too many through, never too few. Work is
linear in the length of the value and in the number of patterns, and both are bounded (`index.dicom.bounds`); there is
no backtracking, and the only regular expressions over stored text are those of dates and times, without a choice.
Choices where PS3.4 leaves them: PN ignores case and Unicode compatibility forms, everything else is case-sensitive; IS,
DS and binary numbers compare as numbers (CP-2305); several values in a key of any VR mean "any of them". It knows no
levels and no rows, and does no fuzzy, empty-value or multiple-value matching (none is negotiated).
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from coffer.index.dicom.attributes import BINARY_VRS, Item, Values, vr_of
from coffer.index.dicom.bounds import KEY_CHARACTERS, MOST_PATTERNS
from coffer.index.dicom.wildcards import compile_wildcards
from coffer.keys.errors import IdentifierError

__all__ = ["WILDCARD_VRS", "Key", "compile_key", "fold_name"]

WILDCARD_VRS: Final = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})  # PS3.4 C.2.2.2.4
_NUMBER_VRS: Final = frozenset({"IS", "DS"}) | frozenset(BINARY_VRS)
_RANGE_VRS: Final = frozenset({"DA", "TM", "DT"})
_DATE: Final = re.compile(r"(\d{4})[.]?(\d{2})[.]?(\d{2})", re.ASCII)  # with the ACR-NEMA dots of PS3.5 6.2
_TIME: Final = re.compile(r"(\d{2})(?::?(\d{2})(?::?(\d{2})(?:\.(\d{1,6}))?)?)?", re.ASCII)
_DATETIME: Final = re.compile(r"(\d{4}(?:\d{2}){0,5})(?:\.(\d{1,6}))?([+-]\d{4})?", re.ASCII)
_OFFSET_AT_END: Final = re.compile(r"-\d{4}$", re.ASCII)
_PADDED_END: Final = re.compile(r"[*^]*$")

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
    """Return the key for one attribute of a query; its VR is that of PS3.6.

    Raises IdentifierError for items where text belongs or text where items do, for a value beyond 4096 characters, and
    for more than 32 names, ranges or values with wildcards: they must be tried one after the other.
    """
    vr = vr_of(tag)
    if vr == "SQ":
        return _sequence_key(tag, values)
    if any(not isinstance(v, str) for v in values):
        raise _refused(tag, "takes no sequence", "send it with the VR of PS3.6")
    text = tuple(v for v in values if isinstance(v, str) and v)
    _check_size(tag, vr, text)
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


def _refused(tag: int, what: str, hint: str) -> IdentifierError:
    return IdentifierError(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) {what}", hint=hint, offending=(tag,))


def _check_size(tag: int, vr: str, text: tuple[str, ...]) -> None:
    if any(len(v) > KEY_CHARACTERS for v in text):
        raise _refused(tag, f"takes at most {KEY_CHARACTERS} characters a value", "shorten the value of this key")
    if any(not v.isascii() and not _is_text(v) for v in text):
        raise _refused(tag, "holds bytes that are no text", "give the value in the character set of the query")
    listed = vr != "PN" and vr not in _RANGE_VRS and not (vr in WILDCARD_VRS and _has_wildcards(text))
    if not listed and len(text) > MOST_PATTERNS:
        raise _refused(
            tag,
            f"takes at most {MOST_PATTERNS} values of this kind",
            "ask for fewer names, ranges or wildcards at once",
        )


def _is_text(value: str) -> bool:
    """Whether it can be encoded: a command line turns bytes that are no UTF-8 into lone surrogates."""
    return not any("\ud800" <= c <= "\udfff" for c in value)


def _has_wildcards(text: tuple[str, ...]) -> bool:
    return any("*" in v or "?" in v for v in text)


def _text_key(tag: int, vr: str, text: tuple[str, ...]) -> Key:
    if vr in WILDCARD_VRS and _has_wildcards(text):
        tests = tuple(compile_wildcards(pattern) for pattern in text)
        return Key(tag, vr, universal=False, patterns=text, test=lambda v: any(test(v) for test in tests))
    listed = frozenset(text)
    return Key(tag, vr, universal=False, exact=text, test=lambda v: v in listed)


def _sequence_key(tag: int, values: Values) -> Key:
    """PS3.4 C.2.2.2.6: one item; an entity matches when any of its items satisfies every key of that item."""
    if any(isinstance(v, str) and v for v in values):
        raise _refused(tag, "takes a sequence, no text", "send it with the VR of PS3.6")
    item = next((v for v in values if not isinstance(v, str)), None)
    inner = tuple(compile_key(t, v) for t, v in item.items()) if item is not None else ()
    inner = tuple(key for key in inner if not key.universal)
    return Key(tag, "SQ", universal=not inner, items=inner)


def fold_name(name: str) -> tuple[str, ...]:
    """Return the component groups of a PN, folded for comparison: NFKC, no case, no padding, no empty tail.

    Used for keys and stored values alike; `*` and `?` pass through unchanged.
    """
    if name.isascii():
        folded = name.lower()
    else:
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    groups = ["^".join(part.strip() for part in group.split("^")).rstrip("^") for group in folded.split("=")]
    while groups and not groups[-1]:
        groups.pop()
    return tuple(groups)


@dataclass(frozen=True, slots=True)
class _NamePattern:
    """One component group of a key. `core` is what every group that matches must hold; `tests` are alternatives.

    Without tests any group matches, also one that is absent.
    """

    core: str
    tests: tuple[Test, ...]

    @staticmethod
    def of(group: str) -> _NamePattern:
        """The pattern of a folded group of a key.

        Components that are empty at the end may be written or left out (PS3.5 6.2.1.1): SMITH is SMITH^^^^ on both
        sides. So carets and stars at the end of a key may also stand for such carets: what is before them may be all
        of the name, or the carets up to the first star are there and anything follows. A `?` is one character that
        the name has.
        """
        core = group[: _PADDED_END.search(group).start()]  # type: ignore[union-attr]  # it matches the empty end
        carets, star, _ = group[len(core) :].partition("*")
        if not core and not carets:
            return _NamePattern("", ())
        patterns = [core] if carets or not star else []
        if star:
            patterns.append(f"{core}{carets}*")
        return _NamePattern(core, tuple(map(compile_wildcards, patterns)))

    def matches(self, group: str) -> bool:
        """Whether a folded group of a value matches."""
        return not self.tests or any(test(group) for test in self.tests)


def _name_key(tag: int, text: tuple[str, ...]) -> Key:
    """Each group given in the key against its group; one group alone is matched against any group of the value."""
    keys = tuple(tuple(_NamePattern.of(group) for group in fold_name(v)) for v in text)
    if any(not any(group.tests for group in key) for key in keys):
        return Key(tag, "PN", universal=True)
    cores = tuple("=".join(group.core for group in key) for key in keys)
    return Key(tag, "PN", universal=False, patterns=cores, test=lambda v: _name_matches(keys, fold_name(v)))


def _name_matches(keys: tuple[tuple[_NamePattern, ...], ...], groups: tuple[str, ...]) -> bool:
    for key in keys:
        if len(key) == 1:
            if any(key[0].matches(group) for group in groups or ("",)):
                return True
        elif all(pattern.matches(groups[i] if i < len(groups) else "") for i, pattern in enumerate(key)):
            return True
    return False


def _canonical_number(text: str) -> str | float:
    try:
        number = float(text) if len(text) <= 64 else math.nan
    except ValueError:
        return text
    return text if math.isnan(number) else number  # what is no number equals what is written alike


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
