"""Attribute matching of PS3.4 C.2.2.2: single value, list of UID, universal, wildcard, range, and sequence.

Rule: pure, and the only place that decides a match: whatever narrows candidates elsewhere may let too many through,
never too few. Work is linear in the length of the value and in the number of patterns, and both are bounded
(`index.dicom.bounds`); there is no backtracking. Choices that PS3.4 leaves open: PN ignores case and Unicode
compatibility forms, everything else is case-sensitive; IS, DS and binary numbers compare as numbers (CP-2305); several
values in a key of any VR mean "any of them". It knows no levels and no rows, and does no fuzzy, empty-value or
multiple-value matching (none is negotiated).
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
from coffer.index.dicom.date_ranges import RANGE_VRS, bounds, first_moment
from coffer.index.dicom.wildcards import compile_wildcards
from coffer.keys.errors import IdentifierError

__all__ = ["WILDCARD_VRS", "MatchingKey", "compile_key", "fold_name"]

WILDCARD_VRS: Final = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})  # PS3.4 C.2.2.2.4
_NUMBER_VRS: Final = frozenset({"IS", "DS"}) | frozenset(BINARY_VRS)
_PADDED_END: Final = re.compile(r"[*^]*$")

Test: TypeAlias = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class MatchingKey:
    """One compiled key. `matches` decides; the other members show a table what it may narrow by.

    `exact`: the only stored values that can match (None: they cannot be listed). `span`: inclusive bounds of a date.
    `universal`: matches every entity, even one without the attribute.
    """

    tag: int
    vr: str
    universal: bool
    test: Test | None = None
    exact: tuple[str, ...] | None = None
    patterns: tuple[str, ...] = ()
    span: tuple[str, str] | None = None
    items: tuple[MatchingKey, ...] = ()

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


def compile_key(tag: int, values: Values) -> MatchingKey:
    """Return the key for one attribute of a query; its VR is that of PS3.6.

    Raises IdentifierError for items instead of text or text instead of items, for a value of more than 4096 characters,
    and for more than 32 names, ranges or values with wildcards, which must be tried one by one.
    """
    vr = vr_of(tag)
    if vr == "SQ":
        return _sequence_key(tag, values)
    if any(not isinstance(v, str) for v in values):
        raise _refused(tag, "does not take a sequence", "send it with the VR of PS3.6")
    text = tuple(v for v in values if isinstance(v, str) and v)
    _check_size(tag, vr, text)
    if not text or any(v.strip("*") == "" for v in text):  # in any VR: workstations fill every empty field with a star
        return MatchingKey(tag, vr, universal=True)
    if vr in RANGE_VRS:
        return _range_key(tag, vr, text)
    if vr == "PN":
        return _name_key(tag, text)
    if vr in _NUMBER_VRS:
        numbers = frozenset(_canonical_number(v) for v in text)
        return MatchingKey(tag, vr, universal=False, test=lambda v: _canonical_number(v) in numbers)
    return _text_key(tag, vr, text)


def _refused(tag: int, what: str, hint: str) -> IdentifierError:
    return IdentifierError(f"({tag >> 16:04X},{tag & 0xFFFF:04X}) {what}", hint=hint, offending=(tag,))


def _check_size(tag: int, vr: str, text: tuple[str, ...]) -> None:
    if any(len(v) > KEY_CHARACTERS for v in text):
        raise _refused(tag, f"takes at most {KEY_CHARACTERS} characters a value", "shorten the value of this key")
    if any(not v.isascii() and not _is_text(v) for v in text):
        raise _refused(tag, "holds bytes that are not text", "give the value in the character set of the query")
    listed = vr != "PN" and vr not in RANGE_VRS and not (vr in WILDCARD_VRS and _has_wildcards(text))
    if not listed and len(text) > MOST_PATTERNS:
        raise _refused(
            tag,
            f"takes at most {MOST_PATTERNS} values of this kind",
            "query fewer names, ranges or wildcards at once",
        )


def _is_text(value: str) -> bool:
    """Whether it can be encoded: on a command line, bytes that are not UTF-8 become lone surrogates."""
    return not any("\ud800" <= c <= "\udfff" for c in value)


def _has_wildcards(text: tuple[str, ...]) -> bool:
    return any("*" in v or "?" in v for v in text)


def _text_key(tag: int, vr: str, text: tuple[str, ...]) -> MatchingKey:
    if vr in WILDCARD_VRS and _has_wildcards(text):
        tests = tuple(compile_wildcards(pattern) for pattern in text)
        return MatchingKey(tag, vr, universal=False, patterns=text, test=lambda v: any(test(v) for test in tests))
    listed = frozenset(text)
    return MatchingKey(tag, vr, universal=False, exact=text, test=lambda v: v in listed)


def _sequence_key(tag: int, values: Values) -> MatchingKey:
    """PS3.4 C.2.2.2.6: one item; an entity matches when any of its items satisfies every key of that item."""
    if any(isinstance(v, str) and v for v in values):
        raise _refused(tag, "takes a sequence, not text", "send it with the VR of PS3.6")
    item = next((v for v in values if not isinstance(v, str)), None)
    inner = tuple(compile_key(t, v) for t, v in item.items()) if item is not None else ()
    inner = tuple(key for key in inner if not key.universal)
    return MatchingKey(tag, "SQ", universal=not inner, items=inner)


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
    """One component group of a key. Every matching group contains `core`; `tests` are alternatives.

    Without tests any group matches, even an absent one.
    """

    core: str
    tests: tuple[Test, ...]

    @staticmethod
    def of(group: str) -> _NamePattern:
        """The pattern of a folded group of a key.

        Empty components at the end may be written or left out (PS3.5 6.2.1.1): SMITH equals SMITH^^^^ in keys and
        values. So carets and stars at the end of a key may stand for such carets: either the part before them is the
        whole name, or the carets up to the first star are present and anything follows. A `?` stands for one character
        that the name has.
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


def _name_key(tag: int, text: tuple[str, ...]) -> MatchingKey:
    """Each group of the key is matched against the same group; a single group against any group of the value."""
    keys = tuple(tuple(_NamePattern.of(group) for group in fold_name(v)) for v in text)
    if any(not any(group.tests for group in key) for key in keys):
        return MatchingKey(tag, "PN", universal=True)
    cores = tuple("=".join(group.core for group in key) for key in keys)
    return MatchingKey(tag, "PN", universal=False, patterns=cores, test=lambda v: _name_matches(keys, fold_name(v)))


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
    return text if math.isnan(number) else number  # text that is no number equals only the same text


def _parts(vr: str, found: tuple[str | None, str | None] | None) -> tuple[tuple[str | None, str | None], ...]:
    """The ranges that the bounds of a key stand for: none, one, or for a range of times over midnight two."""
    if found is None:
        return ()
    low, high = found
    return ((low, None), (None, high)) if vr == "TM" and low and high and low > high else (found,)


def _range_key(tag: int, vr: str, text: tuple[str, ...]) -> MatchingKey:
    limits = tuple(part for v in text for part in _parts(vr, bounds(vr, v)))
    if any(low is None and high is None for low, high in limits):
        return MatchingKey(tag, vr, universal=True)

    def test(value: str) -> bool:
        at = first_moment(vr, value)
        if at is None:
            return value in text
        return any((low is None or low <= at) and (high is None or at <= high) for low, high in limits)

    span = None
    if vr == "DA" and len(limits) == len(text) == 1:
        span = (limits[0][0] or "", limits[0][1] or "99999999")
    return MatchingKey(tag, vr, universal=False, test=test, span=span)
