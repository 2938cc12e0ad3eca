"""What the index keeps of one instance: plain attribute values by level, its identity, and its pixel layout.

Rule: pure. The data set decides; the identity that the C-STORE request gave only fills what the data set lacks.
Nothing is validated or corrected: odd values are indexed as they are, and a data set that cannot be read at all still
gives an entry that can be found by its SOP Instance UID.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from archive.pixels import PixelLayout
from index.attributes import (
    ATTRIBUTES,
    SERIES_UID,
    SOP_CLASS,
    SOP_INSTANCE,
    STUDY_UID,
    Item,
    Stored,
    vr_of,
)
from index.elements import Header
from index.values import decode_value
from index.walk import Elements

__all__ = ["Identity", "InstanceEntry", "extract", "pixel_layout"]

_ROWS, _COLUMNS, _FRAMES = 0x00280010, 0x00280011, 0x00280008
_SAMPLES, _BITS_ALLOCATED = 0x00280002, 0x00280100
_LONGEST_UID: Final = 128  # twice PS3.5's 64, so that an overlong one is still found by what it is
_LONGEST_ITEM_VALUE: Final = 1024
_MOST_VALUES: Final = 64
_FROM_DATA_SET: Final = {tag: a.level for tag, a in ATTRIBUTES.items()}


@dataclass(frozen=True, slots=True)
class Identity:
    """What the request said the object is: Affected SOP Class and Instance UID (PS3.7 9.3.1.1)."""

    sop_class: str
    sop_instance: str


@dataclass(frozen=True, slots=True)
class InstanceEntry:
    """One instance for the index. `patient` and `study` describe the study's row, `series` and `image` theirs."""

    study_uid: str  # "" where the data set has none: the instance is then found by SOP Instance UID only
    series_uid: str
    sop_instance: str
    sop_class: str
    study: Stored  # attributes of the patient and study levels
    series: Stored
    image: Stored
    layout: PixelLayout | None


def extract(header: Header, identity: Identity) -> InstanceEntry:
    """Return the index's view of a scanned header. Never raises."""
    charset = header.charset
    by_level: tuple[Stored, Stored, Stored, Stored] = ({}, {}, {}, {})
    for tag, element in header.elements.items():
        level = _FROM_DATA_SET.get(tag)
        if level is None:
            continue
        if element.vr == "SQ":
            items = tuple(_item(item, charset, header.big_endian) for item in element.items)
            if items:
                by_level[level][tag] = items
        else:
            values = decode_value(tag, element.vr, element.raw, charset, big_endian=header.big_endian)
            if values:
                by_level[level][tag] = values[:_MOST_VALUES]
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
    )


def _uid(values: tuple[str | Item, ...] | None) -> str:
    first = values[0] if values else ""
    return first[:_LONGEST_UID] if isinstance(first, str) else ""


def _item(elements: Elements, charset: tuple[str, ...], big_endian: bool) -> Item:
    out: Item = {}
    for tag, element in elements.items():
        if element.vr != "SQ" and len(element.raw) <= _LONGEST_ITEM_VALUE and vr_of(tag) != "SQ":
            values = decode_value(tag, element.vr, element.raw, charset, big_endian=big_endian)
            if values:
                out[tag] = values[:_MOST_VALUES]
    return out


def pixel_layout(header: Header) -> PixelLayout | None:
    """The codec's hint for native pixels; None where they are encapsulated, cut, deflated, or not described."""
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
