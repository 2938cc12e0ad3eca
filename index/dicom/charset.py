"""Text in and out of DICOM character sets (PS3.5 6.1, PS3.3 C.12.1.1.2).

Rule: decoding never raises, and one bad byte never loses the rest of a value; encoding either carries every character
or reports that it cannot. Only the sets of PS3.3 are used: a name from the data never reaches Python's codec registry,
which also has decompressors and slow codecs. It does not split values or trim padding (`index.dicom.values`), nor
choose the set of a response. Values with code extensions are left to pydicom, which the first of them imports.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from coffer.index.dicom.bounds import CHARSET_CHARACTERS, MOST_CHARSETS, MOST_ESCAPES

__all__ = ["charset_of", "decode_text", "encode_text"]

# Python's codec for each defined term of PS3.3 C.12.1.1.2, and for what pydicom forgives.
_CODECS: Final = {
    "": "iso8859",
    "ISO_IR 6": "iso8859",
    "ISO_IR 13": "shift_jis",
    "ISO_IR 100": "latin_1",
    "ISO_IR 101": "iso8859_2",
    "ISO_IR 109": "iso8859_3",
    "ISO_IR 110": "iso8859_4",
    "ISO_IR 126": "iso_ir_126",
    "ISO_IR 127": "iso_ir_127",
    "ISO_IR 138": "iso_ir_138",
    "ISO_IR 144": "iso_ir_144",
    "ISO_IR 148": "iso_ir_148",
    "ISO_IR 166": "iso_ir_166",
    "ISO 2022 IR 6": "iso8859",
    "ISO 2022 IR 13": "shift_jis",
    "ISO 2022 IR 87": "iso2022_jp",
    "ISO 2022 IR 100": "latin_1",
    "ISO 2022 IR 101": "iso8859_2",
    "ISO 2022 IR 109": "iso8859_3",
    "ISO 2022 IR 110": "iso8859_4",
    "ISO 2022 IR 126": "iso_ir_126",
    "ISO 2022 IR 127": "iso_ir_127",
    "ISO 2022 IR 138": "iso_ir_138",
    "ISO 2022 IR 144": "iso_ir_144",
    "ISO 2022 IR 148": "iso_ir_148",
    "ISO 2022 IR 149": "euc_kr",
    "ISO 2022 IR 159": "iso2022_jp_2",
    "ISO 2022 IR 166": "iso_ir_166",
    "ISO 2022 IR 58": "iso_ir_58",
    "ISO_IR 192": "UTF8",
    "GB18030": "GB18030",
    "ISO 2022 GBK": "GBK",
    "ISO 2022 58": "GB2312",
    "GBK": "GBK",
}
_STAND_ALONE: Final = ("ISO_IR 192", "GBK", "GB18030")  # PS3.5 6.1.2.5.4 d: no code extensions
_TEXT_DELIMITERS: Final = frozenset(b"\r\n\t\f")  # PS3.5 6.1.2.5.3: each resets code extensions
_COMPONENT_DELIMITERS: Final = frozenset(b"^")  # and in a name, this
_DEFAULT: Final = "iso8859"  # as pydicom: a superset of the default repertoire that never fails
_ESC: Final = b"\x1b"
_MISSPELT: Final = re.compile(r"ISO[ _-]?(2022)?[ _-]?IR[ _-]?(\d+)")
_VALUE_DELIMITERS: Final = re.compile(r"([\\\r\n\t\f])")
_NAME_DELIMITERS: Final = re.compile(r"([\\^=])")
_LONGEST_SWITCHED: Final = 1024  # characters; finding the best set for each run takes quadratic time


def charset_of(raw: bytes) -> tuple[str, ...]:
    """Return the values of Specific Character Set (0008,0005), as many and as long as can be meaningful.

    Its VR is CS, whatever the data set says: plain text that needs no character set itself.
    """
    terms = raw[: MOST_CHARSETS * (CHARSET_CHARACTERS + 1)].decode("latin-1").strip(" \0").split("\\")
    kept = tuple(term.strip(" \0")[:CHARSET_CHARACTERS] for term in terms[:MOST_CHARSETS])
    return kept if any(kept) else ()


@lru_cache(maxsize=256)
def _encodings(charset: tuple[str, ...]) -> tuple[str, ...]:
    terms = charset or ("",)
    known = tuple(_encoding(term) for term in terms[:MOST_CHARSETS])
    if terms[0] in _STAND_ALONE:
        return known[:1]
    extensions = (e for term, e in zip(terms[1:], known[1:], strict=False) if term not in _STAND_ALONE)
    return (known[0], *extensions)


def _encoding(term: str) -> str:
    found = _CODECS.get(term)
    if found is None and (spelt := _MISSPELT.fullmatch(term.strip())) is not None:
        found = _CODECS.get(f"ISO {spelt[1]} IR {spelt[2]}" if spelt[1] else f"ISO_IR {spelt[2]}")
    return str(found or _DEFAULT)


def decode_text(raw: bytes, charset: tuple[str, ...], vr: str = "LO") -> str:
    """Return the text of a value encoded by Specific Character Set `charset` (its values, possibly none).

    Never raises: bytes that cannot be decoded become U+FFFD, an unknown character set is read as ISO 8859-1. A value
    that switches its set more than 128 times is decoded in the first one.
    """
    if _ESC not in raw:
        # ASCII is the same in every set: the common case, and cheap.
        return raw.decode("ascii") if raw.isascii() else raw.decode(_encodings(charset)[0], "replace")
    if raw.count(_ESC) > MOST_ESCAPES:
        return raw.decode(_encodings(charset)[0], "replace")
    from pydicom.charset import decode_bytes

    delimiters = _TEXT_DELIMITERS | _COMPONENT_DELIMITERS if vr == "PN" else _TEXT_DELIMITERS
    try:
        return str(decode_bytes(raw, _encodings(charset), delimiters))
    except (UnicodeError, LookupError, ValueError):
        return raw.decode(_DEFAULT, "replace")


def encode_text(text: str, charset: Sequence[str], vr: str) -> bytes | None:
    """Return `text` in the character set, or None if that cannot carry every character. Also takes \\-joined values."""
    if text.isascii():
        return text.encode("ascii")
    encodings = _encodings(tuple(charset))
    if len(encodings) == 1:
        try:
            return text.encode(encodings[0]) if charset else None
        except UnicodeError:
            return None
    if len(text) > _LONGEST_SWITCHED:
        return None
    from pydicom.charset import encode_string

    # Every delimiter resets code extensions (PS3.5 6.1.2.5.3), so each run between two is encoded separately.
    runs = (_NAME_DELIMITERS if vr == "PN" else _VALUE_DELIMITERS).split(text)
    try:
        raw = b"".join(run.encode("ascii") if run.isascii() else encode_string(run, encodings) for run in runs)
    except (UnicodeError, LookupError, ValueError):
        return None
    return raw if decode_text(raw, tuple(charset), vr) == text else None
