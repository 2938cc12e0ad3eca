"""Make `archive/codec/dictionary-1.bin`: headers of a made-up CT, MR and report, by the standard's own data dictionary.

    python -m tests.vectors.make_dictionary

No value comes from anybody's images: they are defined terms, round numbers and the arcs of well-known UIDs. The most
useful bytes stand last, because zstd gives the nearest ones the shortest names.
"""

import struct
from pathlib import Path

from pydicom.datadict import dictionary_VR

PLACE = Path(__file__).parents[2] / "archive" / "codec" / "dictionary-1.bin"
LONG = ("OB", "OW", "SQ", "UN", "UT")  # PS3.5 7.1.2: two reserved bytes and four of length
TIME, DAY, UID = "120000.000000", "20200101", "1.2.840.113619.2."

IMAGE: dict[int, str | int] = {
    0x00080005: "ISO_IR 100", 0x00080008: "ORIGINAL\\PRIMARY\\AXIAL", 0x00080012: DAY, 0x00080013: TIME,
    0x00080016: "1.2.840.10008.5.1.4.1.1.2", 0x00080018: UID, 0x00080020: DAY, 0x00080021: DAY, 0x00080022: DAY,
    0x00080023: DAY, 0x00080030: TIME, 0x00080031: TIME, 0x00080032: TIME, 0x00080033: TIME, 0x00080050: "",
    0x00080060: "CT", 0x00080064: "WSD", 0x00080070: "GE MEDICAL SYSTEMS", 0x00080080: "HOSPITAL", 0x00080081: "",
    0x00080090: "", 0x00081010: "STATION", 0x00081030: "HEAD ROUTINE", 0x0008103E: "AX T1", 0x00081050: "",
    0x00081070: "", 0x00081090: "DISCOVERY", 0x00100010: "", 0x00100020: "", 0x00100030: "19500101", 0x00100040: "M",
    0x00101010: "050Y", 0x00101020: "1.75", 0x00101030: "75", 0x00180010: "", 0x00180015: "HEAD", 0x00180020: "SE",
    0x00180021: "SK\\SP", 0x00180022: "FS", 0x00180023: "3D", 0x00180025: "N", 0x00180050: "5.000000",
    0x00180060: "120", 0x00180080: "500", 0x00180081: "20", 0x00180082: "0", 0x00180083: "1", 0x00180084: "63.86",
    0x00180085: "1H", 0x00180086: "1", 0x00180087: "1.5", 0x00180088: "5.000000", 0x00180090: "500.000000",
    0x00180091: "1", 0x00180093: "100", 0x00180094: "100", 0x00180095: "122.109", 0x00181000: "000000",
    0x00181020: "syngo", 0x00181030: "PROTOCOL", 0x00181100: "240", 0x00181120: "0.000000", 0x00181130: "100.0",
    0x00181140: "CW", 0x00181150: "1000", 0x00181151: "200", 0x00181152: "100", 0x00181160: "BODY FILTER",
    0x00181170: "30", 0x00181190: "1.2", 0x00181210: "STANDARD", 0x00181250: "HEAD", 0x00181310: "",
    0x00181312: "ROW", 0x00181314: "90", 0x00185100: "HFS", 0x0020000D: UID, 0x0020000E: UID, 0x00200010: "1",
    0x00200011: "1", 0x00200012: "1", 0x00200013: "1", 0x00200032: "-120.000000\\-120.000000\\-60.000000",
    0x00200037: "1.000000\\0.000000\\0.000000\\0.000000\\1.000000\\0.000000", 0x00200052: UID, 0x00200060: "",
    0x00201040: "", 0x00201041: "-60.000000", 0x00280002: 1, 0x00280004: "MONOCHROME2", 0x00280010: 512,
    0x00280011: 512, 0x00280030: "0.468750\\0.468750", 0x00280100: 16, 0x00280101: 16, 0x00280102: 15, 0x00280103: 1,
    0x00280106: 0, 0x00281050: "40", 0x00281051: "400", 0x00281052: "-1024", 0x00281053: "1", 0x00281054: "HU",
    0x00281055: "", 0x00400244: DAY, 0x00400245: "120000", 0x00400253: "", 0x7FE00010: "",
}  # fmt: skip


def element(tag: int, value: str | int) -> bytes:
    """One element in Explicit VR Little Endian; of alternatives the first VR."""
    vr = dictionary_VR(tag)[:2]
    data = value.encode() if isinstance(value, str) else struct.pack("<H", value)
    data += (b"\0" if vr == "UI" else b" ") * (len(data) % 2)
    length = struct.pack("<xxI" if vr in LONG else "<H", len(data))
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode() + length + data


def header(sop_class: str, modality: str) -> bytes:
    """A header of one class."""
    return b"".join(element(*each) for each in {**IMAGE, 0x00080016: sop_class, 0x00080060: modality}.items())


def content() -> bytes:
    """The dictionary's bytes."""
    report = header("1.2.840.10008.5.1.4.1.1.88.11", "SR")
    return report[:600] + header("1.2.840.10008.5.1.4.1.1.4", "MR")[:900] + header("1.2.840.10008.5.1.4.1.1.2", "CT")


if __name__ == "__main__":
    PLACE.write_bytes(content())
