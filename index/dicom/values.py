"""Element values as text: one `str` per value, padding trimmed, numbers in decimal (PS3.5 6.2).

Rule: pure and total; any bytes give some text. Leading and trailing spaces go where PS3.5 calls them padding, only
trailing ones for LT, ST and UT. It validates nothing: what was stored is what is shown.
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
PADDING: Final = " \0"  # around values, as PS3.5 6.2 has it and as devices write it
_LOST: Final = "\ufffd"
_TELL_APART: Final = frozenset({PATIENT_ID, ISSUER_OF_PATIENT_ID})


def _kind(vr: str) -> str:
    if vr in BINARY_VRS:
        return "number"
    if vr == "SQ":
        return "sequence"
    return "opaque" if vr in _OPAQUE or vr == "AT" else "text"


def pack_numbers(vr: str, values: Sequence[str]) -> bytes | None:
    """Return numbers as Little Endian binary of a VR of BINARY_VRS; None where one is no number, or beyond its range.

    An empty value makes no number.
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
    """Return the values of one element; `vr` is what the data set said ("" for Implicit VR). Empty gives ()."""
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
    if tag in _TELL_APART and _LOST in text:  # a wrong Specific Character Set must not make two patients one
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
    """Return the values of an element that was written with one VR ("" in Implicit VR) and whose attribute has `vr`.

    None where they cannot be one: text, number and sequence stay what they are. Text under the name of another text VR
    is text all the same, and so are numbers; what the VR is unknown of is read as what it should be.
    """
    if written in ("", "UN", vr) or (_kind(written) == _kind(vr) != "opaque"):
        return decode_value(tag, written if vr in BINARY_VRS else vr, raw, charset, big_endian=big_endian)
    return None
