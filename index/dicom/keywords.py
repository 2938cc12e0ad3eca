"""The keywords of PS3.6, by which people name attributes.

Rule: those that the index knows are here; for any other one pydicom is imported, which costs a process 0.2 s.
"""

from difflib import get_close_matches
from typing import Final

from coffer.index.dicom.attributes import vr_of

__all__ = ["KEYWORDS", "MULTIPLE", "closest", "is_multiple", "keyword_of", "tag_of"]

KEYWORDS: Final = {
    0x00080005: "SpecificCharacterSet",
    0x00080008: "ImageType",
    0x00080016: "SOPClassUID",
    0x00080018: "SOPInstanceUID",
    0x00080020: "StudyDate",
    0x00080021: "SeriesDate",
    0x00080022: "AcquisitionDate",
    0x00080023: "ContentDate",
    0x0008002A: "AcquisitionDateTime",
    0x00080030: "StudyTime",
    0x00080031: "SeriesTime",
    0x00080032: "AcquisitionTime",
    0x00080033: "ContentTime",
    0x00080050: "AccessionNumber",
    0x00080051: "IssuerOfAccessionNumberSequence",
    0x00080052: "QueryRetrieveLevel",
    0x00080060: "Modality",
    0x00080061: "ModalitiesInStudy",
    0x00080062: "SOPClassesInStudy",
    0x00080070: "Manufacturer",
    0x00080080: "InstitutionName",
    0x00080090: "ReferringPhysicianName",
    0x00080100: "CodeValue",
    0x00080102: "CodingSchemeDesignator",
    0x00080103: "CodingSchemeVersion",
    0x00080104: "CodeMeaning",
    0x00080119: "LongCodeValue",
    0x00080120: "URNCodeValue",
    0x00080201: "TimezoneOffsetFromUTC",
    0x00081010: "StationName",
    0x00081030: "StudyDescription",
    0x00081032: "ProcedureCodeSequence",
    0x0008103E: "SeriesDescription",
    0x00081040: "InstitutionalDepartmentName",
    0x00081048: "PhysiciansOfRecord",
    0x00081050: "PerformingPhysicianName",
    0x00081060: "NameOfPhysiciansReadingStudy",
    0x00081070: "OperatorsName",
    0x00081080: "AdmittingDiagnosesDescription",
    0x00081090: "ManufacturerModelName",
    0x00083002: "AvailableTransferSyntaxUID",
    0x00100010: "PatientName",
    0x00100020: "PatientID",
    0x00100021: "IssuerOfPatientID",
    0x00100030: "PatientBirthDate",
    0x00100032: "PatientBirthTime",
    0x00100040: "PatientSex",
    0x00101010: "PatientAge",
    0x00101020: "PatientSize",
    0x00101030: "PatientWeight",
    0x00102160: "EthnicGroup",
    0x00104000: "PatientComments",
    0x00180015: "BodyPartExamined",
    0x00181000: "DeviceSerialNumber",
    0x00181030: "ProtocolName",
    0x00185100: "PatientPosition",
    0x0020000D: "StudyInstanceUID",
    0x0020000E: "SeriesInstanceUID",
    0x00200010: "StudyID",
    0x00200011: "SeriesNumber",
    0x00200012: "AcquisitionNumber",
    0x00200013: "InstanceNumber",
    0x00200052: "FrameOfReferenceUID",
    0x00200060: "Laterality",
    0x00201200: "NumberOfPatientRelatedStudies",
    0x00201202: "NumberOfPatientRelatedSeries",
    0x00201204: "NumberOfPatientRelatedInstances",
    0x00201206: "NumberOfStudyRelatedSeries",
    0x00201208: "NumberOfStudyRelatedInstances",
    0x00201209: "NumberOfSeriesRelatedInstances",
    0x00280002: "SamplesPerPixel",
    0x00280004: "PhotometricInterpretation",
    0x00280008: "NumberOfFrames",
    0x00280010: "Rows",
    0x00280011: "Columns",
    0x00280100: "BitsAllocated",
    0x00280101: "BitsStored",
    0x00321060: "RequestedProcedureDescription",
    0x00380010: "AdmissionID",
    0x00400007: "ScheduledProcedureStepDescription",
    0x00400009: "ScheduledProcedureStepID",
    0x00400031: "LocalNamespaceEntityID",
    0x00400032: "UniversalEntityID",
    0x00400033: "UniversalEntityIDType",
    0x00400244: "PerformedProcedureStepStartDate",
    0x00400245: "PerformedProcedureStepStartTime",
    0x00400253: "PerformedProcedureStepID",
    0x00400254: "PerformedProcedureStepDescription",
    0x00400275: "RequestAttributesSequence",
    0x00401001: "RequestedProcedureID",
    0x00401002: "ReasonForTheRequestedProcedure",
    0x0040A043: "ConceptNameCodeSequence",
    0x0040A491: "CompletionFlag",
    0x0040A493: "VerificationFlag",
    0x00420010: "DocumentTitle",
    0x00700080: "ContentLabel",
    0x00700081: "ContentDescription",
}
# Of these, the ones that may have several values.
MULTIPLE: Final = frozenset(
    {
        0x00080005,
        0x00080008,
        0x00080061,
        0x00080062,
        0x00081048,
        0x00081050,
        0x00081060,
        0x00081070,
        0x00081080,
        0x00083002,
    }
)
_TAGS: Final = {keyword: tag for tag, keyword in KEYWORDS.items()}


def tag_of(keyword: str) -> int | None:
    """The tag of a keyword; None if PS3.6 has none of that name."""
    if keyword in _TAGS:
        return _TAGS[keyword]
    from pydicom.datadict import tag_for_keyword

    tag = tag_for_keyword(keyword)
    return None if tag is None else int(tag)


def keyword_of(tag: int) -> str:
    """The keyword of a tag, empty if it has none."""
    if tag in KEYWORDS:
        return KEYWORDS[tag]
    from pydicom.datadict import keyword_for_tag

    return str(keyword_for_tag(tag))


def closest(word: str) -> str | None:
    """The keyword that looks most like a word that is none."""
    from pydicom.datadict import keyword_dict

    return next(iter(get_close_matches(word, keyword_dict, 1, 0.6)), None)


def is_multiple(tag: int) -> bool:
    """Whether an attribute may have several values or items; not if it is unknown."""
    if tag in KEYWORDS:
        return tag in MULTIPLE or vr_of(tag) == "SQ"
    from pydicom.datadict import dictionary_VM

    try:
        return str(dictionary_VM(tag)) != "1" or vr_of(tag) == "SQ"
    except KeyError:
        return False
