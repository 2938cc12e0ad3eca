"""How much of one object the index keeps, and how much of one key a query may hold.

Rule: constants only. They bound the values, items, characters and bytes of an object, so that no sender decides how
large a row or how slow an answer gets; what is left out is reported (`index.instance.entry`). Of 786 real and malformed
files the largest entry without an overlong value has 1,021 bytes. The bounds are well above those of PS3.5 6.2, because
real files exceed them: 26 characters in a CS, 67 in a UID.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

__all__ = [
    "ATTRIBUTE_BYTES",
    "CHARSET_CHARACTERS",
    "ENTRY_BYTES",
    "KEY_CHARACTERS",
    "MOST_CHARSETS",
    "MOST_ESCAPES",
    "MOST_ITEMS",
    "MOST_PATTERNS",
    "MOST_VALUES",
    "longest_of",
    "most_values_of",
]

ENTRY_BYTES: Final = 16 << 10  # of all values of one object, as UTF-8
ATTRIBUTE_BYTES: Final = 4 << 10  # of one attribute, items included; a single long text may be longer
MOST_VALUES: Final = 16  # of one attribute; real files have up to 9
MOST_ITEMS: Final = 16  # of one sequence
_CHARACTERS: Final = 256  # of one value: four times the maximum of LO
# A study's row counts every distinct one of these.
_BY_TAG: Final[Mapping[int, int]] = {0x00080016: 128, 0x00080060: 16}  # SOP Class UID, Modality
_BY_VR: Final[Mapping[str, int]] = {"UI": 1024, "LT": 10_240, "ST": 1024, "UC": 1024, "UR": 1024, "UT": 1024}

MOST_CHARSETS: Final = 16  # values of Specific Character Set that are used; PS3.3 C.12.1.1.2 defines no more
CHARSET_CHARACTERS: Final = 32
MOST_ESCAPES: Final = 128  # switches of the character set in one value; each costs another decoder

KEY_CHARACTERS: Final = 4096  # of one value of a key
MOST_PATTERNS: Final = 32  # values of a key that are tried one after the other: wildcards, names, ranges


@lru_cache(maxsize=1024)
def longest_of(tag: int, vr: str) -> int:
    """Return how many characters of one value of an attribute are kept."""
    return _BY_TAG.get(tag) or _BY_VR.get(vr, _CHARACTERS)


def most_values_of(tag: int, vr: str) -> int:
    """Return how many values of an attribute are kept: one of a UID, and one of what a study row counts."""
    return 1 if vr == "UI" or tag in _BY_TAG else MOST_VALUES
