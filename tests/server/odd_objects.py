"""Objects in which every indexed attribute is odd in every way there is, and healthy ones to stand beside them.

One object carries one oddity in each of its attributes, another one each: object n has oddity n + i in its i-th
attribute, so that as many objects as there are oddities cover every pair.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from coffer.index.dicom.attributes import ATTRIBUTES, ITEM_ATTRIBUTES
from coffer.index.dicom.headers import scan

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
ROOT = "1.2.826.0.1.3680043.8.498.88"
SOP_CLASS, SOP_INSTANCE, CHARSET, STUDY_UID, SERIES_UID = 0x00080016, 0x00080018, 0x00080005, 0x0020000D, 0x0020000E
LONG = ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV")
VRS = (
    "AE", "AS", "AT", "CS", "DA", "DS", "DT", "FD", "FL", "IS", "LO", "LT", "OB", "OD", "OF", "OL", "OV", "OW", "PN",
    "SH", "SL", "SQ", "SS", "ST", "SV", "TM", "UC", "UI", "UL", "UN", "UR", "US", "UT", "UV", "ZZ",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Object:
    """One data set and what its C-STORE request says of it."""

    sop_class: str
    sop_instance: str
    transfer_syntax: str
    data: bytes
    study_uid: str = ""
    series_uid: str = ""


def element(tag: int, vr: str, value: bytes, syntax: str = EXPLICIT) -> bytes:
    """One element; where its value is too long for a 16-bit length, its VR becomes UN."""
    if syntax == IMPLICIT:
        return struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value)) + value
    if len(value) > 0xFFFF and vr not in LONG:
        vr = "UN"
    head = struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr.encode())
    return head + struct.pack("<xxI" if vr in LONG else "<H", len(value)) + value


def item(content: bytes) -> bytes:
    """An item of defined length."""
    return struct.pack("<HHI", 0xFFFE, 0xE000, len(content)) + content


def open_item(content: bytes) -> bytes:
    """An item of undefined length."""
    end = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
    return struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + content + end


def _nested(depth: int) -> bytes:
    inner = element(0x00080100, "SH", b"DEEP")
    return item(element(0x00081032, "SQ", _nested(depth - 1)) + inner) if depth else item(inner)


_CODE = element(0x00080100, "US", b"\x01\x00") + element(0x00080104, "SQ", item(b"")) + element(0x00280010, "LO", b"X ")
# What stands in the value, under the VR that is written: "" for the attribute's own.
ODDITIES: tuple[tuple[str, bytes], ...] = (
    *(
        ("", raw)
        for raw in (
            b"", b" ", b"   ", b"\0", b"\0\0\0\0", b"ABC", b"A\0B\0", b"\x1b", b"\x1b ", b"A\x1b$BB\x1b(B",
            b"\x1b" * 9000,
            b"\xff\xfe\xc3(", "\U0010ffff".encode(), "A\U0010ffff\U0010ffff".encode(), b"\xf4\x90\x80\x80\xed\xa0\x80",
            b"x" * 300, b"y" * 8192, b"z" * 20_000, b"\\".join([b"1"] * 2000), b"\\\\\\\\", b"\\A\\\\B\\",
            ("a" + "\u0316\u0300" * 4000).encode(), "\ufdfa".encode() * 100, b"*?*", b"*", b"\x01\r\n\x07\x7f",
            b"^^^^=^^==", b"=", b"nan", b"1e999", b"-1", b"9" * 40, b"20240231-20249999", b"-", b"\xb2\xb2\xb2\xb2",
            b"%s%n{}", b"A'; DROP TABLE study; --", b"\x00\x00\x00\x80", b"\xff" * 16, item(_CODE),
        )
    ),
    *((vr, b"\x01\x00\x02\x00AB\x03\x04") for vr in VRS if vr != "SQ"),
    *((vr, b"") for vr in ("SQ", "OB", "UN", "AT", "FD")),
    *((vr, b"1.2\\3 ") for vr in ("IS", "DS", "LO", "UI", "UT", "OW", "UN")),
    *(("SQ", raw) for raw in (item(b""), item(_CODE), item(_CODE) * 70, open_item(_CODE) * 2, _nested(1), _nested(12))),
)  # fmt: skip


def odd_objects(*, named: bool = False) -> Iterator[Object]:
    """Every attribute with every oddity, in Explicit and, where a VR is not what is odd, in Implicit VR.

    With `named` their own UIDs are sound, and each is a study of its own under its SOP Instance UID.
    """
    for syntax in (EXPLICIT, IMPLICIT):
        oddities = ODDITIES if syntax == EXPLICIT else tuple(o for o in reversed(ODDITIES) if not o[0])
        for number in range(len(oddities)):
            name = f"{ROOT}.1.{len(syntax)}.{number}"
            sound = {SOP_CLASS: SECONDARY_CAPTURE, SOP_INSTANCE: name, STUDY_UID: name, SERIES_UID: name}
            yield _odd_object(name, number, oddities, syntax, sound if named else {})


def _odd_object(
    name: str, number: int, oddities: tuple[tuple[str, bytes], ...], syntax: str, sound: dict[int, str]
) -> Object:
    tags = sorted({*ATTRIBUTES, CHARSET})
    out = []
    for at, tag in enumerate(tags):
        written, raw = oddities[(number + at) % len(oddities)]
        own = ATTRIBUTES[tag].vr if tag in ATTRIBUTES else "CS"
        if own == "SQ" and not written:
            inside = ITEM_ATTRIBUTES[tag].items()
            raw = item(b"".join(element(t, vr, raw[:9000], syntax) for t, vr in inside))
        if tag in sound:
            written, raw = "UI", _even(sound[tag].encode())
        out.append(element(tag, written or own, raw, syntax))
    data = b"".join(out)
    header = scan(lambda start, stop: data[start:stop], len(data), syntax)
    # A request names the object as its data set does (PS3.4 B.2.3), cut where toolkits cut; else it says what that
    # does not.
    sop_class, sop_instance = header.text(SOP_CLASS), header.text(SOP_INSTANCE)
    sop_class = sop_class if len(sop_class) <= 128 else sop_class[:64]
    sop_instance = sop_instance if len(sop_instance) <= 1024 else sop_instance[:64]
    return Object(sop_class or SECONDARY_CAPTURE, sop_instance or name, syntax, data, sound.get(STUDY_UID, ""))


def healthy_objects(root: str = f"{ROOT}.2") -> Iterator[Object]:
    """Two patients, each with a study of two series with two instances, and a value in every attribute."""
    for patient in (1, 2):
        for series in (1, 2):
            for image in (1, 2):
                values = dict.fromkeys(ATTRIBUTES, b"") | {
                    tag: healthy_value(tag, patient) for tag, a in ATTRIBUTES.items() if a.vr not in ("SQ", "UI")
                }
                study = f"{root}.{patient}"
                values[STUDY_UID] = study.encode()
                values[SERIES_UID] = f"{study}.{series}".encode()
                values[SOP_CLASS] = SECONDARY_CAPTURE.encode()
                values[SOP_INSTANCE] = f"{study}.{series}.{image}".encode()
                data = b"".join(element(tag, ATTRIBUTES[tag].vr, _even(raw)) for tag, raw in sorted(values.items()))
                names = SECONDARY_CAPTURE, values[SOP_INSTANCE].decode()
                yield Object(*names, EXPLICIT, data, study, values[SERIES_UID].decode())


def healthy_value(tag: int, patient: int) -> bytes:
    """What a healthy object of a patient has in an attribute."""
    vr = ATTRIBUTES[tag].vr
    fixed = {"DA": b"2024013%d", "TM": b"1200%02d", "DT": b"2024013%d120000", "IS": b"%d", "DS": b"%d", "AS": b"04%dY"}
    if vr == "US":
        return struct.pack("<H", 512 + patient)
    return fixed.get(vr, b"HEALTHY%d") % patient


def _even(raw: bytes) -> bytes:
    return raw if len(raw) % 2 == 0 else raw + (b"\0" if raw[:4] == b"1.2." else b" ")
