"""What the index keeps of one instance: plain attribute values by level, its identity, and its pixel layout.

Rule: pure, total and bounded (`index.dicom.bounds`). The data set decides; the identity from the C-STORE request only
fills what the data set lacks. Odd values are indexed as they are. A value of another kind than its attribute, or beyond
a bound, is left out and reported in `problem`: the object is stored and found by the rest nevertheless, and a data set
that cannot be read at all still gives an entry that is found by its SOP Instance UID.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from coffer.archive.codec.layout import PixelLayout
from coffer.index.dicom.attributes import (
    ATTRIBUTES,
    ISSUER_OF_PATIENT_ID,
    ITEM_ATTRIBUTES,
    PATIENT_ID,
    SERIES_UID,
    SOP_CLASS,
    SOP_INSTANCE,
    STUDY_UID,
    Attribute,
    Item,
    QueryLevel,
    Stored,
)
from coffer.index.dicom.bounds import (
    ATTRIBUTE_BYTES,
    ENTRY_BYTES,
    MOST_ITEMS,
    MOST_VALUES,
    longest_of,
    most_values_of,
)
from coffer.index.dicom.headers import DataSetHeader
from coffer.index.instance.kept_values import LONG_TEXTS, NAMING, ValueKeeper
from coffer.index.instance.patient_id import LONGEST_IDENTITY, identity_of

__all__ = ["Identity", "InstanceEntry", "could_be_extracted", "extract", "pixel_layout"]

_ROWS, _COLUMNS, _FRAMES = 0x00280010, 0x00280011, 0x00280008
_SAMPLES, _BITS_ALLOCATED = 0x00280002, 0x00280100
_STUDY_LEVELS: Final = frozenset({QueryLevel.PATIENT, QueryLevel.STUDY})
_TOO_MUCH: Final = 1 << 30


def _rank(attribute: Attribute) -> tuple[int, int]:
    """What takes precedence if there is no room for everything: UIDs, IDs, values by level, sequences, long texts."""
    if attribute.vr == "UI":
        return 0, attribute.level
    if attribute.tag in NAMING:
        return 1, attribute.level
    return (4 if attribute.vr in LONG_TEXTS else 3 if attribute.vr == "SQ" else 2), attribute.level


_RANKED: Final = {
    a.tag: (rank, a.tag, a.vr, a.level, ENTRY_BYTES if a.vr in LONG_TEXTS else ATTRIBUTE_BYTES)
    for rank, a in enumerate(sorted(ATTRIBUTES.values(), key=_rank))
}


@dataclass(frozen=True, slots=True)
class Identity:
    """The object's identity as the request gave it: Affected SOP Class and Instance UID (PS3.7 9.3.1.1)."""

    sop_class: str
    sop_instance: str


@dataclass(frozen=True, slots=True)
class InstanceEntry:
    """One instance for the index. `study` describes the study's row, `series` and `image` theirs.

    Patient and issuer are distinguished by `patient_id` and `issuer` (`index.instance.patient_id`), which are complete
    even if the values in `study` are not.
    """

    study_uid: str  # "" if the data set has none: the instance is then found by SOP Instance UID only
    series_uid: str
    sop_instance: str
    sop_class: str
    study: Stored  # attributes of the patient and study levels
    series: Stored
    image: Stored
    layout: PixelLayout | None
    patient_id: str
    issuer: str
    problem: str | None = None  # why something was left out, without data of the object


def extract(header: DataSetHeader, identity: Identity) -> InstanceEntry:
    """Return the index's view of a scanned header. Never raises."""
    keeper = ValueKeeper(header)
    by_level: tuple[Stored, Stored, Stored, Stored] = ({}, {}, {}, {})
    elements = header.elements
    for _, tag, vr, level, room in sorted(map(_RANKED.__getitem__, elements.keys() & _RANKED.keys())):
        element = elements[tag]
        if element.raw or element.items:
            values = keeper.items(tag, element) if vr == "SQ" else keeper.values(tag, vr, element, room)
            if values:
                by_level[level][tag] = values
    patient, study, series, image = by_level
    sop_class = _uid(image.get(SOP_CLASS)) or identity.sop_class
    sop_instance = _uid(image.get(SOP_INSTANCE)) or identity.sop_instance
    image[SOP_CLASS] = (sop_class,)
    image[SOP_INSTANCE] = (sop_instance,)
    return InstanceEntry(
        study_uid=_uid(study.pop(STUDY_UID, None)),
        series_uid=_uid(series.pop(SERIES_UID, None)),
        sop_instance=sop_instance,
        sop_class=sop_class,
        study=patient | study,
        series=series,
        image=image,
        layout=pixel_layout(header),
        patient_id=identity_of(PATIENT_ID, elements.get(PATIENT_ID), header.charset),
        issuer=identity_of(ISSUER_OF_PATIENT_ID, elements.get(ISSUER_OF_PATIENT_ID), header.charset),
        problem=keeper.problem,
    )


def could_be_extracted(entry: InstanceEntry) -> bool:
    """Whether `extract` can have made it: an entry that another process sends is checked before it is kept."""
    study_and_series = (STUDY_UID, entry.study_uid), (SERIES_UID, entry.series_uid)
    own = (SOP_INSTANCE, entry.sop_instance), (SOP_CLASS, entry.sop_class)
    if any(len(uid) > longest_of(tag, "UI") for tag, uid in (*study_and_series, *own)):
        return False
    if max(len(entry.patient_id), len(entry.issuer)) > LONGEST_IDENTITY:
        return False
    # The SOP UIDs may come from the request, beyond the room for the data set's values.
    left = ENTRY_BYTES + longest_of(SOP_INSTANCE, "UI") + longest_of(SOP_CLASS, "UI")
    levels = (entry.study, _STUDY_LEVELS), (entry.series, {QueryLevel.SERIES}), (entry.image, {QueryLevel.IMAGE})
    for stored, allowed in levels:
        for tag, values in stored.items():
            attribute = ATTRIBUTES.get(tag)
            if attribute is None or attribute.level not in allowed or not values:
                return False
            left -= _length(attribute, values)
    return left >= 0


def _length(attribute: Attribute, values: tuple[str | Item, ...]) -> int:
    """Characters of an attribute's values; more than there is room for if they are too many or of another kind."""
    if attribute.vr != "SQ":
        texts = [value for value in values if isinstance(value, str)]
        fits = len(texts) == len(values) <= most_values_of(attribute.tag, attribute.vr)
        return sum(map(len, texts)) if fits else _TOO_MUCH
    items = [value for value in values if not isinstance(value, str)]
    wanted = ITEM_ATTRIBUTES[attribute.tag]
    fits = len(items) == len(values) <= MOST_ITEMS and all(
        tag in wanted and len(texts) <= MOST_VALUES for item in items for tag, texts in item.items()
    )
    return sum(len(text) for item in items for texts in item.values() for text in texts) if fits else _TOO_MUCH


def _uid(values: tuple[str | Item, ...] | None) -> str:
    first = values[0] if values else ""
    return first if isinstance(first, str) else ""


def pixel_layout(header: DataSetHeader) -> PixelLayout | None:
    """The codec's hint for native pixels; None if they are encapsulated, cut, deflated, or not described."""
    pixel = header.pixel
    if pixel is None or not pixel.length or pixel.encapsulated or not pixel.whole or header.inflated:
        return None
    numbers = [_number(header.text(tag)) for tag in (_ROWS, _COLUMNS, _SAMPLES, _BITS_ALLOCATED)]
    rows, columns, samples, bits = numbers[0], numbers[1], numbers[2] or 1, numbers[3]
    if not (rows and columns and bits):
        return None
    return PixelLayout(
        offset=pixel.offset,
        length=pixel.length,
        rows=rows,
        columns=columns,
        samples=samples,
        bits_allocated=bits,
        frames=_number(header.text(_FRAMES)) or 1,
        big_endian=header.pixel_big_endian,
    )


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
