"""Elements that PS3.5 forbids and real writers make: what stands behind them is found all the same."""

import struct

import pytest

from coffer.index.dicom.elements import HeaderLimits
from coffer.index.dicom.headers import scan_early

from .test_elements import EXPLICIT, ITEM_END, SEQUENCE_END, UNDEFINED, element, header_of, item

STUDY = element(0x0020000D, "UI", b"1.2.3.4\0")
BEFORE = element(0x00080060, "CS", b"CT")
AFTER = element(0x00100020, "LO", b"42") + STUDY + element(0x7FE00010, "OW", b"\1\2\3\4")
CODE = element(0x00080100, "SH", b"CODE") + element(0x00080104, "LO", b"what it means ")
OPEN_ITEM = item(CODE, UNDEFINED) + ITEM_END
PRIVATE = 0x00091010


def odd(vr: bytes, *, wide: bool = False, number: int = 0x1001) -> bytes:
    """A private element of an invalid VR, with a length of 16 or 32 bits."""
    return (
        struct.pack("<HH", 0x0009, number)
        + vr
        + struct.pack("<HI" if wide else "<H", *([0, 4] if wide else [4]))
        + b"abcd"
    )


def implicit(tag: int, value: bytes) -> bytes:
    return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value)) + value


def unknown(tag: int, *items: bytes) -> bytes:
    """A sequence of VR UN and undefined length."""
    return element(tag, "UN", b"".join(items) + SEQUENCE_END, UNDEFINED)


ODD = {
    **{
        f"{vr!r} {wide=}": odd(vr, wide=wide)
        for wide in (False, True)
        for vr in (b"??", b"--", b"lo", b"ZZ", b"\0\0", b"  ", b"Sq", b"\xff\xfe", b"O?")
    },
    "several": odd(b"??") + odd(b"zz", number=0x1002) + odd(b"--", wide=True, number=0x1003),
    "implicit": implicit(0x00091001, b"abcd"),
    "implicit, a run": implicit(0x00091001, b"abcd") + implicit(0x00091002, b"ab"),
    "UN, item and value of undefined length": unknown(PRIVATE, OPEN_ITEM),
    "UN, value of undefined length": unknown(PRIVATE, item(CODE)),
    "UN, a known sequence of undefined length": unknown(0x00081140, OPEN_ITEM),
    "UN, a known sequence": element(0x00081032, "UN", item(CODE)),
    "UN, two items": unknown(PRIVATE, OPEN_ITEM, OPEN_ITEM),
    "UN in UN": unknown(PRIVATE, item(unknown(0x00091011, OPEN_ITEM), UNDEFINED) + ITEM_END),
    "UN, Implicit as PS3.5 6.2.2 says": unknown(PRIVATE, item(implicit(0x00080100, b"CODE"), UNDEFINED) + ITEM_END),
    "no reading goes on": odd(b"??")[:8] + b"\xff" * 37,
    "a sequence that holds no item": element(PRIVATE, "SQ", b"no item at all, and some more", UNDEFINED),
}


@pytest.mark.parametrize("element_before", ODD.values(), ids=ODD.keys())
def test_a_study_is_found_behind_an_odd_element(element_before: bytes) -> None:
    data = BEFORE + element_before + AFTER
    header = header_of(data)
    assert [header.text(tag) for tag in (0x00080060, 0x00100020, 0x0020000D)] == ["CT", "42", "1.2.3.4"]
    assert header.pixel is not None
    assert data[header.pixel.offset :] == b"\1\2\3\4"
    for arrived in range(len(data)):
        early = scan_early(lambda start, stop, here=data[:arrived]: here[start:stop], EXPLICIT, HeaderLimits())
        assert early is None or early == header


@pytest.mark.parametrize("length", [None, UNDEFINED])
def test_no_identity_is_taken_from_inside_a_sequence(length: int | None) -> None:
    """(0008,1200) names other studies: behind a broken element its items must not pass for the object's own."""
    inside = item(element(0x0020000D, "UI", b"6.6.6\0")) + (SEQUENCE_END if length else b"")
    others = element(0x00081200, "SQ", inside, length)
    broken = element(0x00080070, "LO", b"x", 0xFFF0 if length else 0x7FF0)
    assert header_of(BEFORE + broken + others + AFTER).text(0x0020000D) == "1.2.3.4"
    assert header_of(BEFORE + broken + others + element(0x00100020, "LO", b"42")).text(0x0020000D) == ""
