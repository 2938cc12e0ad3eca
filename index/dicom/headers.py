"""Headers of data sets and identifiers of queries, read within limits.

Rule: `scan` takes any bytes and returns what it could read plus a `problem`, a sentence without data of the object;
`decode_identifier` takes only well-formed ones, because a half-understood query would answer the wrong question. Pixel
data is located, never read. This module does not decide what an attribute means (`index.instance.entry`).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Final

from coffer.index.dicom.attributes import (
    ITEM_ATTRIBUTES,
    SPECIFIC_CHARACTER_SET,
    STUDY_UID,
    WANTED,
    Values,
    is_supported,
    vr_of,
)
from coffer.index.dicom.charset import charset_of
from coffer.index.dicom.elements import Element, Elements, HeaderLimits, PixelValue, Read
from coffer.index.dicom.parser import Walk
from coffer.index.dicom.values import decode_as
from coffer.keys.buffer import Buffer
from coffer.keys.errors import IdentifierError, InputError

__all__ = [
    "QUERY_LIMITS",
    "DataSetHeader",
    "Identifier",
    "decode_identifier",
    "scan",
    "scan_early",
]

_IMPLICIT_LE: Final = "1.2.840.10008.1.2"
_EXPLICIT_BE: Final = "1.2.840.10008.1.2.2"
_GE_PRIVATE: Final = "1.2.840.113619.5.2"  # Implicit VR Little Endian with big-endian pixel data
# Deflated Explicit VR and the JPIP forms that deflate the data set (PS3.5 A.5, A.7, A.9).
_DEFLATED: Final = frozenset({"1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.4.205"})
_INFLATE_STEP: Final = 64 << 10
_MOST_INFLATED: Final = 16 << 20
_NO_END: Final = 1 << 62
# Where the header of an element of the identity's groups may begin, Explicit VR Little Endian.
_HEADING: Final = re.compile(rb"[\x08\x10\x18\x20]\x00..(?:AE|AS|CS|DA|DT|IS|LO|LT|PN|SH|ST|TM|UI)", re.DOTALL)
_RESUME_WITHIN: Final = 64 << 10
_MOST_RESUMED: Final = 64
_RESUME_LIMITS: Final = HeaderLimits(bytes=1 << 20, elements=2000, seconds=0.1)

QUERY_LIMITS: Final = HeaderLimits(bytes=4 << 20, depth=8, elements=1000, seconds=1.0, value=1 << 20, items=1)
_LONGEST_IDENTIFIER: Final = 1 << 20
_MOST_VALUES: Final = 10_000


@dataclass(frozen=True, slots=True)
class DataSetHeader:
    """What was read of a data set: wanted elements by tag, the place of the pixel data, and the first problem."""

    elements: Mapping[int, Element]
    pixel: PixelValue | None
    problem: str | None
    big_endian: bool  # of the header's own binary values
    pixel_big_endian: bool
    inflated: bool  # offsets count in the inflated data set, not in the stored bytes

    @property
    def charset(self) -> tuple[str, ...]:
        """The values of Specific Character Set (0008,0005)."""
        element = self.elements.get(SPECIFIC_CHARACTER_SET)
        return charset_of(element.raw) if element is not None else ()

    def values(self, tag: int) -> tuple[str, ...]:
        """The values of an element as text; () if it is absent, empty, or of another kind than its attribute."""
        element = self.elements.get(tag)
        if element is None or not element.raw:
            return ()
        # ASCII without an escape sequence is the same in every set.
        charset = () if element.raw.isascii() and b"\x1b" not in element.raw else self.charset
        return decode_as(tag, vr_of(tag), element.vr, element.raw, charset, big_endian=self.big_endian) or ()

    def text(self, tag: int) -> str:
        """The first value of an element as text, or ""."""
        values = self.values(tag)
        return values[0] if values else ""


class _Inflated:
    """A deflated data set as a `Read`, inflated up to a limit."""

    def __init__(self, read: Read, length: int, limit: int) -> None:
        self._read = read
        self._length = length
        self._limit = limit
        self._taken = 0
        self._plain = bytearray()
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)  # PS3.5 A.5: no zlib header
        self.problem: str | None = None

    def read(self, start: int, stop: int) -> bytes:
        """Return inflated bytes [start, stop), as many as there are."""
        while len(self._plain) < stop and self._more():
            pass
        with memoryview(self._plain) as whole:  # a slice of it is no second copy
            return bytes(whole[start:stop])

    def _more(self) -> bool:
        """Inflate one step; False at the end, on damage, or at the limit."""
        if self._inflater.eof or self.problem is not None:
            return False
        if len(self._plain) >= self._limit:
            self.problem = "inflated header is larger than the limit"
            return False
        data = self._inflater.unconsumed_tail
        if not data:
            data = self._read(self._taken, min(self._taken + _INFLATE_STEP, self._length))
            self._taken += len(data)
        if not data:
            self.problem = "deflated data set ends early"
            return False
        try:
            self._plain += self._inflater.decompress(data, _INFLATE_STEP)
        except zlib.error:
            self.problem = "deflated data set does not inflate"
            return False
        return True

    def end(self) -> int:
        """Inflate to the end, the limit or the first damage, and return the number of bytes."""
        while self._more():
            pass
        return len(self._plain)


def scan(
    read: Read,
    length: int,
    transfer_syntax: str,
    limits: HeaderLimits | None = None,
    *,
    wanted: frozenset[int] = WANTED,
) -> DataSetHeader:
    """Read the header of a data set of `length` bytes, of which `read(start, stop)` returns any part. Never raises.

    Only windows around the wanted elements are read, so an object of any size costs a few tens of KiB. An unknown
    transfer syntax is read as Explicit VR Little Endian, which PS3.5 A.4 prescribes for every encapsulated one.
    """
    limits = limits or HeaderLimits()
    inflated = _Inflated(read, length, min(limits.bytes, _MOST_INFLATED)) if transfer_syntax in _DEFLATED else None
    source = inflated.read if inflated else read
    end = inflated.end() if inflated else length
    walk = _walk(source, end, transfer_syntax, limits, wanted, stop_at_pixels=inflated is not None)
    walk.run()
    pixel, problem = walk.pixel, walk.problem
    if problem is not None and pixel is None and STUDY_UID in wanted:
        pixel = _resume(walk, source, end, transfer_syntax, wanted, stop_at_pixels=inflated is not None)
    if inflated is not None and pixel is None:
        problem = inflated.problem or problem  # once pixel data is found, the header is known to be complete
    if length == 0:
        problem = "data set is empty"
    return _header(walk, pixel, transfer_syntax, problem, inflated=inflated is not None)


def _resume(
    walk: Walk, read: Read, length: int, transfer_syntax: str, wanted: frozenset[int], *, stop_at_pixels: bool
) -> PixelValue | None:
    """Read on behind an element that no reading gets past, if the study's identity is still to come; its pixel data.

    An object without it would be in no study, and nobody would find it. What is taken up has to lie at the root: it
    reads to the end without a problem, and its tags ascend from those before (PS3.5 7.1).
    """
    if STUDY_UID in walk.elements:
        return None
    start = walk.position
    for found in islice(_HEADING.finditer(read(start, min(start + _RESUME_WITHIN, length))), _MOST_RESUMED):
        begin = start + found.start()
        rest = _walk(
            partial(_from, read, begin), length - begin, transfer_syntax, _RESUME_LIMITS, wanted,
            stop_at_pixels=stop_at_pixels,
        )  # fmt: skip
        rest.run()
        tags = [*walk.elements, *rest.elements]
        if rest.problem is None and STUDY_UID in rest.elements and tags == sorted(set(tags)):
            walk.elements.update(rest.elements)
            return None if rest.pixel is None else rest.pixel._replace(offset=rest.pixel.offset + begin)
    return None


def _from(read: Read, begin: int, start: int, stop: int) -> bytes:
    return read(begin + start, begin + stop)


def scan_early(read: Read, transfer_syntax: str, limits: HeaderLimits) -> DataSetHeader | None:
    """The header of a data set that is still arriving, as `scan` would read it if nothing followed the pixel data.

    None until the pixel data begins, and always for a deflated data set. Never raises.
    """
    if transfer_syntax in _DEFLATED:
        return None
    walk = _walk(read, _NO_END, transfer_syntax, limits, WANTED, stop_at_pixels=True, arriving=True)
    walk.run()
    return None if walk.pixel is None else _header(walk, walk.pixel, transfer_syntax, walk.problem, inflated=False)


def _walk(
    read: Read,
    length: int,
    transfer_syntax: str,
    limits: HeaderLimits,
    wanted: frozenset[int],
    *,
    stop_at_pixels: bool,
    arriving: bool = False,
) -> Walk:
    return Walk(
        read,
        length,
        explicit=transfer_syntax not in (_IMPLICIT_LE, _GE_PRIVATE),
        big_endian=transfer_syntax == _EXPLICIT_BE,
        wanted=wanted,
        wanted_in_items=ITEM_ATTRIBUTES,
        limits=limits,
        stop_at_pixels=stop_at_pixels,
        arriving=arriving,
    )


def _header(
    walk: Walk, pixel: PixelValue | None, transfer_syntax: str, problem: str | None, *, inflated: bool
) -> DataSetHeader:
    big = transfer_syntax == _EXPLICIT_BE
    return DataSetHeader(walk.elements, pixel, problem, big, big or transfer_syntax == _GE_PRIVATE, inflated)


@dataclass(frozen=True, slots=True)
class Identifier:
    """A decoded query identifier: text or items by tag, and the character set of its sender."""

    values: Mapping[int, Values]
    charset: tuple[str, ...]

    def text(self, tag: int) -> tuple[str, ...]:
        """The values of a key as text; () if it is absent, empty or a sequence."""
        return tuple(v for v in self.values.get(tag, ()) if isinstance(v, str))


def decode_identifier(identifier: Buffer, *, implicit: bool, big_endian: bool = False) -> Identifier:
    """Decode the identifier of a C-FIND, C-MOVE or C-GET request (PS3.4 C.4.1.1.3).

    Takes at most 1 MiB, 8 nested sequences, 1000 elements, 10 000 values of one key. Raises InputError beyond that and
    for anything that is not well formed, IdentifierError if it can name the key. Group lengths are dropped: they are no
    keys.
    """
    data = bytes(identifier)
    if len(data) > _LONGEST_IDENTIFIER:
        raise InputError("the identifier is larger than 1 MiB", hint="query fewer unique keys at once")
    walk = Walk(
        lambda start, stop: data[start:stop],
        len(data),
        explicit=not implicit,
        big_endian=big_endian,
        wanted=None,
        limits=QUERY_LIMITS,
    )
    walk.run()
    if walk.problem is not None:
        raise InputError(f"the identifier is not a well-formed data set: {walk.problem}")
    named = walk.elements.get(SPECIFIC_CHARACTER_SET)
    charset = charset_of(named.raw) if named else ()
    values = _decoded(walk.elements, charset, big_endian)
    for tag, given in values.items():
        if len(given) > _MOST_VALUES:
            raise IdentifierError(
                f"({tag >> 16:04X},{tag & 0xFFFF:04X}) takes at most {_MOST_VALUES} values",
                offending=(tag,),
                hint="query fewer unique keys at once",
            )
    return Identifier(values, charset)


def _decoded(elements: Elements, charset: tuple[str, ...], big_endian: bool) -> dict[int, Values]:
    out: dict[int, Values] = {}
    for tag, element in elements.items():
        if tag & 0xFFFF == 0:
            continue
        if element.vr == "SQ" or vr_of(tag) == "SQ":
            out[tag] = tuple(_decoded(item, charset, big_endian) for item in element.items)
            continue
        values = decode_as(tag, vr_of(tag), element.vr, element.raw, charset, big_endian=big_endian)
        if values is None and element.raw and is_supported(tag):
            raise IdentifierError(
                f"({tag >> 16:04X},{tag & 0xFFFF:04X}) has another kind of VR than in PS3.6",
                offending=(tag,),
                hint="send it with the VR of PS3.6",
            )
        out[tag] = values or ()
    return out
