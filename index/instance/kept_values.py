"""The values of one object that the index keeps, within the bounds of `index.dicom.bounds`.

Rule: pure and total. A value of another kind than its attribute (text, number, sequence), or without room, is left out
and reported; overlong text is cut, but never an identifier of a patient or an object. It knows no levels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from coffer.index.dicom.attributes import (
    ACCESSION_NUMBER,
    ADMISSION_ID,
    BINARY_VRS,
    ISSUER_OF_PATIENT_ID,
    ITEM_ATTRIBUTES,
    MODALITY,
    PATIENT_ID,
    STUDY_ID,
    Item,
)
from coffer.index.dicom.bounds import (
    ATTRIBUTE_BYTES,
    ENTRY_BYTES,
    MOST_ITEMS,
    MOST_VALUES,
    longest_of,
    most_values_of,
)
from coffer.index.dicom.elements import Element, Elements
from coffer.index.dicom.headers import DataSetHeader
from coffer.index.dicom.values import decode_as, pack_numbers

__all__ = ["LONG_TEXTS", "NAMING", "ValueKeeper"]


# A truncated value of these may identify somebody else: none is better than a wrong one.
NAMING: Final = frozenset({PATIENT_ID, ISSUER_OF_PATIENT_ID, ACCESSION_NUMBER, STUDY_ID, ADMISSION_ID, MODALITY})
LONG_TEXTS: Final = frozenset({"LT", "ST", "UC", "UT"})


class ValueKeeper:
    """Takes values one by one while there is room. `problem` is the first reason to leave one out."""

    def __init__(self, header: DataSetHeader) -> None:
        self.problem: str | None = None
        self._charset = header.charset
        self._big_endian = header.big_endian
        self._left = ENTRY_BYTES

    def values(self, tag: int, vr: str, element: Element, room: int) -> tuple[str, ...]:
        """The values of one element to keep in `room` bytes; () if it is of another kind, or there is no room."""
        values, spent = self._values(tag, vr, element, min(room, self._left))
        self._left -= spent
        return values

    def items(self, tag: int, element: Element) -> tuple[Item, ...]:
        """The items of one sequence to keep; () if it is none."""
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
        """The values of one element to keep, and their size in bytes."""
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
            return values, len(values[0])  # the common case
        return self._several(tag, vr, values, room)

    def _several(self, tag: int, vr: str, values: tuple[str, ...], room: int) -> tuple[tuple[str, ...], int]:
        """As `_values`, for values that may exceed the bounds in number or length."""
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
                if vr not in LONG_TEXTS:
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
        return "" if vr == "UI" or tag in NAMING else value[:longest].rstrip()

    def _note_kind(self, element: Element) -> None:
        if element.raw or element.items:
            self._note("a value is of another kind than its attribute")

    def _note(self, problem: str) -> None:
        self.problem = self.problem or problem


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
