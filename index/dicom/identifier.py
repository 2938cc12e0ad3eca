"""Encode the identifier of a C-FIND response or a Failed SOP Instance UID List (PS3.4 C.4.1.1.3, PS3.5 7.1).

Rule: pure and total: every row can be answered, whatever it holds. Values come as text by tag; text is encoded in the
character set of the request if that can carry every value, otherwise as UTF-8 with (0008,0005) ISO_IR 192, so that no
letter of a name is lost.
"""

import struct
from collections.abc import Mapping, Sequence

from coffer.index.dicom.attributes import BINARY_VRS, SPECIFIC_CHARACTER_SET, Values, vr_of
from coffer.index.dicom.charset import encode_text
from coffer.index.dicom.values import pack_numbers

__all__ = ["UTF_8", "encode_identifier"]

UTF_8 = "ISO_IR 192"
_CHARACTER_SET_VRS = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})  # PS3.5 6.1.2.3
_LONG_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV"})
_OPAQUE_VRS = frozenset({"AT", "OB", "OD", "OF", "OL", "OV", "OW"})  # such an attribute is not indexed
_LONGEST_SHORT = 0xFFFF
_TAG_LENGTH = struct.Struct("<HHI")
_SHORT = struct.Struct("<HH2sH")
_LONG = struct.Struct("<HH2sxxI")


def encode_identifier(values: Mapping[int, Values], charset: Sequence[str], *, implicit: bool) -> bytes:
    """The identifier with `values` in tag order; `charset` are the values of the request's (0008,0005), if any."""
    text = [v for tag, vs in values.items() if vr_of(tag) != "SQ" for v in vs if isinstance(v, str)]
    if all(v.isascii() for v in text) and not _has_items(values):
        chosen: Sequence[str] = ()
    else:
        chosen = charset if charset and _representable(values, charset) else (UTF_8,)
    body = dict(values)
    body.pop(SPECIFIC_CHARACTER_SET, None)
    if chosen or SPECIFIC_CHARACTER_SET in values:
        body[SPECIFIC_CHARACTER_SET] = tuple(chosen)
    return _elements(body, chosen, implicit=implicit)


def _has_items(values: Mapping[int, Values]) -> bool:
    return any(not isinstance(v, str) for vs in values.values() for v in vs)


def _representable(values: Mapping[int, Values], charset: Sequence[str]) -> bool:
    for tag, vs in values.items():
        for value in vs:
            if not isinstance(value, str):
                if not _representable(value, charset):
                    return False
            elif not value.isascii() and encode_text(value, charset, vr_of(tag)) is None:
                return False
    return True


def _elements(values: Mapping[int, Values], charset: Sequence[str], *, implicit: bool) -> bytes:
    return b"".join(_element(tag, values[tag], charset, implicit=implicit) for tag in sorted(values))


def _element(tag: int, values: Values, charset: Sequence[str], *, implicit: bool) -> bytes:
    vr = vr_of(tag)
    raw = _items(values, charset, implicit=implicit) if vr == "SQ" else _value(values, vr, charset)
    group, number = tag >> 16, tag & 0xFFFF
    if implicit:
        return _TAG_LENGTH.pack(group, number, len(raw)) + raw
    if len(raw) > _LONGEST_SHORT and vr not in _LONG_VRS:
        vr = "UN"  # PS3.5 6.2.2 note: too long for the VR's 16-bit length; `server.services.transcode` does the same
    if vr in _LONG_VRS:
        return _LONG.pack(group, number, vr.encode(), len(raw)) + raw
    return _SHORT.pack(group, number, vr.encode(), len(raw)) + raw


def _items(values: Values, charset: Sequence[str], *, implicit: bool) -> bytes:
    out = []
    for item in values:
        if not isinstance(item, str):
            raw = _elements(item, charset, implicit=implicit)
            out.append(_TAG_LENGTH.pack(0xFFFE, 0xE000, len(raw)) + raw)
    return b"".join(out)


def _value(values: Values, vr: str, charset: Sequence[str]) -> bytes:
    """The bytes of one value field; empty for numbers that are invalid or do not fit: no value may end an answer."""
    text = [v for v in values if isinstance(v, str)]
    if vr in BINARY_VRS:
        return pack_numbers(vr, text) or b""
    if vr in _OPAQUE_VRS:
        return b""
    joined = "\\".join(text)
    # Bytes beyond the default repertoire are sent as they were received: `index.dicom.values` reads them as Latin-1.
    plain = "ascii" if vr in _CHARACTER_SET_VRS else "latin-1"
    raw = encode_text(joined, charset, vr) if vr in _CHARACTER_SET_VRS else None
    if raw is None:
        raw = joined.encode(plain, "replace")
    return raw if len(raw) % 2 == 0 else raw + (b"\0" if vr == "UI" else b" ")
