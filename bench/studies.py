"""Header-only studies by number: what fills an archive fast, and what the growth of a cost is measured with. Pure.

Study `n` is one object of one series, about 700 bytes, the same bytes at every call. Numbers from 0 up; its patient has
two studies. UIDs lie under a root that no other corpus of the bench uses.
"""

from typing import Final, NamedTuple

from coffer.index.dicom.identifier import encode_identifier
from coffer.server.access.principal import Principal
from coffer.server.services.api import StoreRequest

EXPLICIT_LE: Final = "1.2.840.10008.1.2.1"
_ROOT: Final = "1.2.826.0.1.3680043.10.1339."
_CLASSES: Final = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "DX": "1.2.840.10008.5.1.4.1.1.1.1",
    "US": "1.2.840.10008.5.1.4.1.1.6.1",
    "CR": "1.2.840.10008.5.1.4.1.1.1",
}
_SURNAMES: Final = (
    *("SMITH", "SMIRNOV", "JONES", "TAYLOR", "BROWN", "WILSON", "GARCIA", "MULLER", "SCHMIDT", "FISCHER", "WEBER"),
    *("ROSSI", "RUSSO", "KOVACS", "NAGY", "NOVAK", "HANSEN", "NIELSEN", "AMITAI", "DMITRIEV", "HAMMITT", "KIM"),
    *("PARK", "LEE", "NGUYEN", "TRAN", "WANG", "ZHANG", "TANAKA", "SATO", "SILVA", "SANTOS", "COSTA", "OKAFOR"),
)
_GIVEN: Final = ("ANNA", "BEN", "CARLA", "DAVID", "EVA", "FRANK", "GRETA", "HANS", "IDA", "JOHN", "KIRA", "LEO")


class HeaderOnly(NamedTuple):
    """One object without pixels: its identity and its data set, Explicit VR Little Endian."""

    sop_class: str
    sop_instance: str
    study_uid: str
    patient_id: str
    data: bytes

    def request(self, calling_ae: str = "BENCH") -> StoreRequest:
        """What a C-STORE of it says."""
        return StoreRequest(self.sop_class, self.sop_instance, EXPLICIT_LE, Principal.peer(calling_ae))


def study_uid(number: int) -> str:
    """The Study Instance UID of study `number`."""
    return f"{_ROOT}{number}"


def date_of(number: int) -> str:
    """The Study Date of study `number`: days of twenty-eight-day months over ten years."""
    return f"{2015 + number % 10:04d}{1 + number // 28 % 12:02d}{1 + number % 28:02d}"


def header_only(number: int, instance: int = 1) -> HeaderOnly:
    """Object `instance` of study `number`."""
    modality = tuple(_CLASSES)[number * 7 % len(_CLASSES)]
    patient, study = number // 2, study_uid(number)
    surname, given = _SURNAMES[patient % len(_SURNAMES)], _GIVEN[patient // len(_SURNAMES) % len(_GIVEN)]
    sop = f"{study}.1.{instance}"
    values = {
        0x00080005: "ISO_IR 100", 0x00080016: _CLASSES[modality], 0x00080018: sop, 0x00080020: date_of(number),
        0x00080030: f"{number % 24:02d}{number % 60:02d}00", 0x00080050: f"B{number:09d}", 0x00080060: modality,
        0x00080080: "General Hospital", 0x00080090: "HOUSE^GREGORY", 0x00081030: f"{modality} routine {number % 97}",
        0x0008103E: "series 1", 0x00100010: f"{surname}^{given}", 0x00100020: f"Q{patient:08d}",
        0x00100030: f"{1930 + patient % 80:04d}{1 + patient % 12:02d}{1 + patient % 28:02d}",
        0x00100040: "MF"[patient % 2], 0x0020000D: study, 0x0020000E: f"{study}.1", 0x00200010: str(number),
        0x00200011: "1", 0x00200013: str(instance),
    }  # fmt: skip
    data = encode_identifier({tag: (value,) for tag, value in values.items()}, ("ISO_IR 100",), implicit=False)
    return HeaderOnly(_CLASSES[modality], sop, study, values[0x00100020], data)
