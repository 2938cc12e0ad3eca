"""Element values as text: one `str` per value, padding trimmed, numbers in decimal (PS3.5 6.2).

Rule: pure and total; any bytes give some text. Leading and trailing spaces are removed where PS3.5 calls them padding,
for LT, ST and UT only trailing ones. It validates nothing: what was stored is shown.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from coffer.index.dicom.attributes import BINARY_VRS, ISSUER_OF_PATIENT_ID, PATIENT_ID, TEXT_VRS, vr_of
from coffer.index.dicom.charset import decode_text

__all__ = ["PADDING", "decode_as", "decode_value", "pack_numbers"]

_UNSPLIT: Final = frozenset({"LT", "ST", "UT", "UR"})  # a backslash is text in these
_STRUCTS: Final = {
    (vr, big): struct.Struct((">" if big else "<") + code) for vr, code in BINARY_VRS.items() for big in (False, True)
}
_TAG: Final = {False: struct.Struct("<HH"), True: struct.Struct(">HH")}
_OPAQUE: Final = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "SQ"})
PADDING: Final = " \0"  # around values, as PS3.5 6.2 defines it and as devices write it
_REPLACEMENT: Final = "\ufffd"
_IDENTIFYING: Final = frozenset({PATIENT_ID, ISSUER_OF_PATIENT_ID})


def _kind(vr: str) -> str:
    if vr in BINARY_VRS:
        return "number"
    if vr == "SQ":
        return "sequence"
    return "opaque" if vr in _OPAQUE or vr == "AT" else "text"


def pack_numbers(vr: str, values: Sequence[str]) -> bytes | None:
    """Return numbers as little-endian binary of a VR of BINARY_VRS; None if one is no number or out of range.

    Empty values are left out.
    """
    number = float if vr in ("FL", "FD") else int
    code = _STRUCTS[vr, False]
    try:
        return b"".join(code.pack(number(value)) for value in values if value)
    except (ValueError, OverflowError, struct.error):
        return None


def decode_value(
    tag: int, vr: str, raw: bytes, charset: tuple[str, ...], *, big_endian: bool = False
) -> tuple[str, ...]:
    """Return the values of one element, () if it is empty; `vr` is that of the data set ("" for Implicit VR)."""
    if vr in ("", "UN"):
        vr = vr_of(tag)
    if vr in BINARY_VRS:
        code = _STRUCTS[vr, big_endian]
        whole = len(raw) - len(raw) % code.size
        return tuple(str(value) for (value,) in code.iter_unpack(raw[:whole]))
    if vr == "AT":
        whole = len(raw) - len(raw) % 4
        return tuple(f"{group:04X}{number:04X}" for group, number in _TAG[big_endian].iter_unpack(raw[:whole]))
    if vr in _OPAQUE:
        return ()
    text = decode_text(raw, charset, vr) if vr in TEXT_VRS else raw.decode("latin-1")
    if tag in _IDENTIFYING and _REPLACEMENT in text:  # a wrong Specific Character Set must not merge two patients
        text = raw.decode("latin-1")
    if vr in _UNSPLIT:
        text = text.rstrip(PADDING)
        return (text,) if text else ()
    text = text.strip(PADDING)
    if not text:
        return ()
    return tuple(part.strip(PADDING) for part in text.split("\\")) if "\\" in text else (text,)


def decode_as(
    tag: int, vr: str, written: str, raw: bytes, charset: tuple[str, ...], *, big_endian: bool = False
) -> tuple[str, ...] | None:
    """Return the values of an element that was `written` with one VR ("" in Implicit VR) and whose attribute has `vr`.

    None if the kinds differ: text, number and sequence are never converted into each other. Another text VR is still
    text, and another number VR a number. A value of unknown VR is read with the VR of its attribute.
    """
    if written in ("", "UN", vr) or (_kind(written) == _kind(vr) != "opaque"):
        return decode_value(tag, written if vr in BINARY_VRS else vr, raw, charset, big_endian=big_endian)
    return None
