"""What the index keeps of one instance: plain attribute values by level, its identity, and its pixel layout.

Rule: pure, total and bounded (`index.bounds`). The data set decides; the identity that the C-STORE request gave only
fills what the data set lacks. Odd values are indexed as they are. A value of another kind than its attribute, and what
goes beyond a bound, is left out and told in `problem`: the object is stored and found by the rest all the same, and a
data set that cannot be read at all still gives an entry that can be found by its SOP Instance UID.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from archive.pixels import PixelLayout
from index.attributes import (
    ATTRIBUTES,
    BINARY_VRS,
    ISSUER_OF_PATIENT_ID,
    ITEM_ATTRIBUTES,
    MODALITY,
    PATIENT_ID,
    SERIES_UID,
    SOP_CLASS,
    SOP_INSTANCE,
    STUDY_UID,
    Attribute,
    Item,
    Stored,
)
from index.bounds import ATTRIBUTE_BYTES, ENTRY_BYTES, MOST_ITEMS, MOST_VALUES, longest_of, most_values_of
from index.elements import Header
from index.values import decode_as, pack_numbers
from index.walk import Element, Elements

__all__ = ["Identity", "InstanceEntry", "extract", "pixel_layout"]

_ROWS, _COLUMNS, _FRAMES = 0x00280010, 0x00280011, 0x00280008
_SAMPLES, _BITS_ALLOCATED = 0x00280002, 0x00280100
_ACCESSION_NUMBER, _STUDY_ID, _ADMISSION_ID = 0x00080050, 0x00200010, 0x00380010
# The beginning of these is another one's name: better none than a wrong one.
_NAMING: Final = frozenset({PATIENT_ID, ISSUER_OF_PATIENT_ID, _ACCESSION_NUMBER, _STUDY_ID, _ADMISSION_ID, MODALITY})
_LONG_TEXTS: Final = frozenset({"LT", "ST", "UC", "UT"})


def _rank(attribute: Attribute) -> tuple[int, int]:
    """What comes first where not everything finds room: UIDs, IDs, then values by level, sequences, long texts."""
    if attribute.vr == "UI":
        return 0, attribute.level
    if attribute.tag in _NAMING:
        return 1, attribute.level
    return (4 if attribute.vr in _LONG_TEXTS else 3 if attribute.vr == "SQ" else 2), attribute.level


_BY_RANK: Final = tuple(
    (a.tag, a.vr, a.level, ENTRY_BYTES if a.vr in _LONG_TEXTS else ATTRIBUTE_BYTES)
    for a in sorted(ATTRIBUTES.values(), key=_rank)
)


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
    problem: str | None = None  # why something of it is not kept, free of data


def extract(header: Header, identity: Identity) -> InstanceEntry:
    """Return the index's view of a scanned header. Never raises."""
    keeper = _Keeper(header)
    by_level: tuple[Stored, Stored, Stored, Stored] = ({}, {}, {}, {})
    elements = header.elements
    for tag, vr, level, room in _BY_RANK:
        element = elements.get(tag)
        if element is not None and (element.raw or element.items):
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
        problem=keeper.problem,
    )


def _uid(values: tuple[str | Item, ...] | None) -> str:
    first = values[0] if values else ""
    return first if isinstance(first, str) else ""


class _Keeper:
    """Takes values in one after the other while there is room. `problem` is the first reason to leave one out."""

    def __init__(self, header: Header) -> None:
        self.problem: str | None = None
        self._charset = header.charset
        self._big_endian = header.big_endian
        self._left = ENTRY_BYTES

    def values(self, tag: int, vr: str, element: Element, room: int) -> tuple[str, ...]:
        """What is kept of one element in `room` bytes; () where it is of another kind, or finds no room."""
        values, spent = self._values(tag, vr, element, min(room, self._left))
        self._left -= spent
        return values

    def items(self, tag: int, element: Element) -> tuple[Item, ...]:
        """What is kept of one sequence; () where it is none."""
        if element.vr != "SQ":
            self._note_kind(element)
            return ()
        room = min(ATTRIBUTE_BYTES, self._left)
        if len(element.items) > MOST_ITEMS:
            self._note("a sequence has more items than the index keeps")
        out = []
        for elements in element.items[:MOST_ITEMS]:
            item, spent = self._item(ITEM_ATTRIBUTES[tag], elements, room)
            room -= spent
            self._left -= spent
            out.append(item)
        return tuple(out)

    def _item(self, wanted: Mapping[int, str], elements: Elements, room: int) -> tuple[Item, int]:
        item: Item = {}
        left = room
        for tag, element in elements.items():
            if tag in wanted:
                values, spent = self._values(tag, wanted[tag], element, left)
                left -= spent
                if values:
                    item[tag] = values
        return item, room - left

    def _values(self, tag: int, vr: str, element: Element, room: int) -> tuple[tuple[str, ...], int]:
        """The values of one element that are kept, and how many bytes they are."""
        values = decode_as(tag, vr, element.vr, element.raw, self._charset, big_endian=self._big_endian)
        if values is None:
            self._note_kind(element)
            return (), 0
        if not values:
            return (), 0
        if len(values) == 1 and len(values[0]) <= min(longest_of(tag, vr), room) and values[0].isascii():
            if vr in BINARY_VRS and element.vr != vr and pack_numbers(vr, values) is None:
                self._note("a number is beyond the range of its attribute")
                return (), 0
            return values, len(values[0])  # nearly all are so
        return self._several(tag, vr, values, room)

    def _several(self, tag: int, vr: str, values: tuple[str, ...], room: int) -> tuple[tuple[str, ...], int]:
        """As `_values`, of values that may be more, or longer, than what is kept."""
        if vr in BINARY_VRS and pack_numbers(vr, values[:MOST_VALUES]) is None:
            self._note("a number is beyond the range of its attribute")
            return (), 0
        most = most_values_of(tag, vr)
        if len(values) > most:
            self._note("an attribute has more values than the index keeps")
        kept, spent = [], 0
        for value in values[:most]:
            text = self._bounded(tag, vr, value)
            size = _size(text)
            if spent + size > room:
                self._note("the attributes are longer than the index keeps")
                if vr not in _LONG_TEXTS:
                    break
                text = text.encode()[: room - spent].decode("utf-8", "ignore")
                size = _size(text)
            spent += size
            kept.append(text)
        return (tuple(kept) if any(kept) else ()), spent

    def _bounded(self, tag: int, vr: str, value: str) -> str:
        longest = longest_of(tag, vr)
        if len(value) <= longest:
            return value
        self._note("a value is longer than the index keeps")
        return "" if vr == "UI" or tag in _NAMING else value[:longest].rstrip()

    def _note_kind(self, element: Element) -> None:
        if element.raw or element.items:
            self._note("a value is of another kind than its attribute")

    def _note(self, problem: str) -> None:
        self.problem = self.problem or problem


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


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
