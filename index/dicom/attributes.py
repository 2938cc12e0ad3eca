"""The attributes the index keeps: which tag, at which level of the information model, and how its value is matched.

Rule: one table for the scanner (what to keep), the entry (at which level) and the query (which keys are supported).
Levels follow PS3.4 C.6.1.1 and C.6.2.1; keys are those of its tables plus what users of DCMTK and dcm4chee query.
It holds no values and does not compute keys (counts, Modalities in Study): `index.query.query` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Final, TypeAlias

from coffer.index.dicom.dictionary import dictionary_vr

__all__ = [
    "ATTRIBUTES",
    "BINARY_VRS",
    "COMPUTED",
    "ITEM_ATTRIBUTES",
    "LEVEL_TAGS",
    "TEXT_VRS",
    "WANTED",
    "Attribute",
    "Item",
    "QueryLevel",
    "Stored",
    "Values",
    "is_supported",
    "vr_of",
]

# What a query takes and returns: text by tag, or items for a sequence.
Values: TypeAlias = "Sequence[str] | Sequence[Mapping[int, Values]]"
# What a row holds: sequences of sequences are not indexed, so one level of items is enough.
Item: TypeAlias = dict[int, tuple[str, ...]]
Stored: TypeAlias = dict[int, tuple[str | Item, ...]]


class QueryLevel(IntEnum):
    """Query/Retrieve levels, top first (PS3.4 C.6)."""

    PATIENT = 0
    STUDY = 1
    SERIES = 2
    IMAGE = 3


@dataclass(frozen=True, slots=True)
class Attribute:
    """One indexed attribute: tag number, VR of PS3.6, level of the entity it describes."""

    tag: int
    vr: str
    level: QueryLevel


PATIENT_ID: Final = 0x00100020
ISSUER_OF_PATIENT_ID: Final = 0x00100021
PATIENT_NAME: Final = 0x00100010
BIRTH_DATE: Final = 0x00100030
STUDY_DATE: Final = 0x00080020
STUDY_DESCRIPTION: Final = 0x00081030
ACCESSION_NUMBER: Final = 0x00080050
STUDY_ID: Final = 0x00200010
ADMISSION_ID: Final = 0x00380010
STUDY_UID: Final = 0x0020000D
SERIES_UID: Final = 0x0020000E
SOP_INSTANCE: Final = 0x00080018
SOP_CLASS: Final = 0x00080016
MODALITY: Final = 0x00080060
SPECIFIC_CHARACTER_SET: Final = 0x00080005
QUERY_RETRIEVE_LEVEL: Final = 0x00080052
FAILED_SOP_INSTANCES: Final = 0x00080058  # Failed SOP Instance UID List
MODALITIES_IN_STUDY: Final = 0x00080061
SOP_CLASSES_IN_STUDY: Final = 0x00080062
AVAILABLE_TRANSFER_SYNTAX: Final = 0x00083002
PATIENT_STUDIES: Final = 0x00201200
PATIENT_SERIES: Final = 0x00201202
PATIENT_INSTANCES: Final = 0x00201204
STUDY_SERIES: Final = 0x00201206
STUDY_INSTANCES: Final = 0x00201208
SERIES_INSTANCES: Final = 0x00201209

_TABLE: Final[dict[QueryLevel, dict[int, str]]] = {
    QueryLevel.PATIENT: {
        PATIENT_NAME: "PN",
        PATIENT_ID: "LO",
        ISSUER_OF_PATIENT_ID: "LO",
        BIRTH_DATE: "DA",
        0x00100032: "TM",  # Patient's Birth Time
        0x00100040: "CS",  # Patient's Sex
        0x00102160: "SH",  # Ethnic Group
        0x00104000: "LT",  # Patient Comments
    },
    QueryLevel.STUDY: {
        STUDY_UID: "UI",
        STUDY_DATE: "DA",
        0x00080030: "TM",  # Study Time
        ACCESSION_NUMBER: "SH",
        0x00080051: "SQ",  # Issuer of Accession Number Sequence
        0x00080090: "PN",  # Referring Physician's Name
        0x00080201: "SH",  # Timezone Offset From UTC
        STUDY_DESCRIPTION: "LO",
        0x00081032: "SQ",  # Procedure Code Sequence
        0x00081048: "PN",  # Physician(s) of Record
        0x00081060: "PN",  # Name of Physician(s) Reading Study
        0x00081080: "LO",  # Admitting Diagnoses Description
        0x00101010: "AS",  # Patient's Age
        0x00101020: "DS",  # Patient's Size
        0x00101030: "DS",  # Patient's Weight
        STUDY_ID: "SH",
        ADMISSION_ID: "LO",
    },
    QueryLevel.SERIES: {
        SERIES_UID: "UI",
        MODALITY: "CS",
        0x00080021: "DA",  # Series Date
        0x00080031: "TM",  # Series Time
        0x00080070: "LO",  # Manufacturer
        0x00080080: "LO",  # Institution Name
        0x00081010: "SH",  # Station Name
        0x0008103E: "LO",  # Series Description
        0x00081040: "LO",  # Institutional Department Name
        0x00081050: "PN",  # Performing Physician's Name
        0x00081070: "PN",  # Operators' Name
        0x00081090: "LO",  # Manufacturer's Model Name
        0x00180015: "CS",  # Body Part Examined
        0x00181000: "LO",  # Device Serial Number
        0x00181030: "LO",  # Protocol Name
        0x00185100: "CS",  # Patient Position
        0x00200011: "IS",  # Series Number
        0x00200052: "UI",  # Frame of Reference UID
        0x00200060: "CS",  # Laterality
        0x00400244: "DA",  # Performed Procedure Step Start Date
        0x00400245: "TM",  # Performed Procedure Step Start Time
        0x00400253: "SH",  # Performed Procedure Step ID
        0x00400254: "LO",  # Performed Procedure Step Description
        0x00400275: "SQ",  # Request Attributes Sequence
    },
    QueryLevel.IMAGE: {
        SOP_INSTANCE: "UI",
        SOP_CLASS: "UI",
        0x00080008: "CS",  # Image Type
        0x00080022: "DA",  # Acquisition Date
        0x00080023: "DA",  # Content Date
        0x0008002A: "DT",  # Acquisition DateTime
        0x00080032: "TM",  # Acquisition Time
        0x00080033: "TM",  # Content Time
        0x00200012: "IS",  # Acquisition Number
        0x00200013: "IS",  # Instance Number
        0x00280002: "US",  # Samples per Pixel
        0x00280004: "CS",  # Photometric Interpretation
        0x00280008: "IS",  # Number of Frames
        0x00280010: "US",  # Rows
        0x00280011: "US",  # Columns
        0x00280100: "US",  # Bits Allocated
        0x00280101: "US",  # Bits Stored
        0x0040A043: "SQ",  # Concept Name Code Sequence
        0x0040A491: "CS",  # Completion Flag
        0x0040A493: "CS",  # Verification Flag
        0x00420010: "ST",  # Document Title
        0x00700080: "CS",  # Content Label
        0x00700081: "LO",  # Content Description
    },
}

ATTRIBUTES: Final[Mapping[int, Attribute]] = {
    tag: Attribute(tag, vr, level) for level, table in _TABLE.items() for tag, vr in table.items()
}
LEVEL_TAGS: Final[Mapping[QueryLevel, frozenset[int]]] = {level: frozenset(table) for level, table in _TABLE.items()}
WANTED: Final[frozenset[int]] = frozenset(ATTRIBUTES) | {SPECIFIC_CHARACTER_SET}

_CODE: Final = {
    0x00080100: "SH",  # Code Value
    0x00080102: "SH",  # Coding Scheme Designator
    0x00080103: "SH",  # Coding Scheme Version
    0x00080104: "LO",  # Code Meaning
    0x00080119: "UC",  # Long Code Value
    0x00080120: "UR",  # URN Code Value
}
# The attributes of a sequence's items that are matched and returned (PS3.3 8.8, 10.6, 10.14; PS3.4 C.6.2.1). Nothing
# else of an item is kept, or the sender would decide how large a row gets.
ITEM_ATTRIBUTES: Final[Mapping[int, Mapping[int, str]]] = {
    0x00080051: {
        0x00400031: "UT",  # Local Namespace Entity ID
        0x00400032: "UT",  # Universal Entity ID
        0x00400033: "CS",  # Universal Entity ID Type
    },
    0x00081032: _CODE,
    0x0040A043: _CODE,
    0x00400275: {
        ACCESSION_NUMBER: "SH",
        STUDY_UID: "UI",
        0x00321060: "LO",  # Requested Procedure Description
        0x00400007: "LO",  # Scheduled Procedure Step Description
        0x00400009: "SH",  # Scheduled Procedure Step ID
        0x00401001: "SH",  # Requested Procedure ID
        0x00401002: "LO",  # Reason for the Requested Procedure
    },
}

# Keys whose value is computed from rows, by the lowest level at which they can be returned.
COMPUTED: Final[Mapping[int, QueryLevel]] = {
    PATIENT_STUDIES: QueryLevel.PATIENT,
    PATIENT_SERIES: QueryLevel.PATIENT,
    PATIENT_INSTANCES: QueryLevel.PATIENT,
    MODALITIES_IN_STUDY: QueryLevel.STUDY,
    SOP_CLASSES_IN_STUDY: QueryLevel.STUDY,
    STUDY_SERIES: QueryLevel.STUDY,
    STUDY_INSTANCES: QueryLevel.STUDY,
    SERIES_INSTANCES: QueryLevel.SERIES,
    AVAILABLE_TRANSFER_SYNTAX: QueryLevel.IMAGE,
}

TEXT_VRS: Final = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})  # PS3.5 6.1.2.3: affected by (0008,0005)
BINARY_VRS: Final[Mapping[str, str]] = {
    "US": "H",
    "SS": "h",
    "UL": "I",
    "SL": "i",
    "UV": "Q",
    "SV": "q",
    "FL": "f",
    "FD": "d",
}


@lru_cache(maxsize=8192)
def is_supported(tag: int) -> bool:
    """Whether a query may use this key: it is matched, or at least returned."""
    return tag in ATTRIBUTES or tag in COMPUTED


def vr_of(tag: int) -> str:
    """Return the VR of a tag in PS3.6; the first one if PS3.6 has several, "UN" if the tag is unknown."""
    known = ATTRIBUTES.get(tag)
    if known is not None:
        return known.vr
    if tag & 0xFFFF == 0:
        return "UL"
    if tag & 0x10000:
        return "LO" if 0x10 <= tag & 0xFFFF <= 0xFF else "UN"  # PS3.5 7.8.1: private creator
    return (dictionary_vr(tag) or "UN")[:2]
