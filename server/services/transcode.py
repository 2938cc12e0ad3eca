"""Re-encode a data set between Implicit and Explicit VR Little Endian, for a peer that refused the stored syntax.

Rule: values are copied untouched; only element headers change, so a converted copy differs from the stored object only
in its transfer syntax (PS3.5 7.1, A.1, A.2). Pixel data streams through: memory is bounded by the largest
sequence. It never touches the stored bytes, decodes no pixels and changes no byte order.
"""

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

from coffer.index.dicom.dictionary import dictionary_vr
from coffer.keys.errors import InputError

IMPLICIT_LE = "1.2.840.10008.1.2"
EXPLICIT_LE = "1.2.840.10008.1.2.1"
CONVERTIBLE = frozenset({IMPLICIT_LE, EXPLICIT_LE})

_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_PIXEL_REPRESENTATION = 0x00280103
_MAX_DEPTH = 64
_MAX_SEQUENCE_BYTES = 64 << 20
_PIECE = 1 << 20
_TAG_LENGTH = struct.Struct("<HHI")
_SHORT = struct.Struct("<HH2sH")
_LONG = struct.Struct("<HH2sxxI")
# PS3.5 7.1.2: these carry two reserved bytes and a 32-bit length in Explicit VR.
_LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_HINT = "request the stored transfer syntax, in which the object is returned unchanged"


class _Element(NamedTuple):
    tag: int
    vr: bytes
    length: int


class Converter:
    """One conversion of one data set.

    `read(start, stop)` returns bytes of the data set and `length` is its size in bytes. Iterate `chunks()` once.
    """

    def __init__(self, read: Callable[[int, int], bytes], length: int, *, to_explicit: bool) -> None:
        self._read = read
        self._end = length
        self._at = 0
        self._explicit_in = not to_explicit
        self._to_explicit = to_explicit
        self._signed = False

    def chunks(self) -> Iterator[bytes]:
        """The converted data set, piece by piece. Raises InputError if the data set is not well formed."""
        while self._at < self._end:
            element = self._next(self._end, explicit=self._explicit_in)
            if element.vr == b"SQ" or element.length == _UNDEFINED:
                out = bytearray()
                self._sequence(out, element, self._end, 1, explicit=self._explicit_in)
                yield bytes(out)
            else:
                yield self._header(element)
                yield from self._value(element, self._end)

    def _next(self, stop: int, *, explicit: bool) -> _Element:
        head = self._read(self._at, min(self._at + 12, stop))
        if len(head) < 8:
            raise InputError("the stored data set ends inside an element header", hint=_HINT)
        group, number, length = _TAG_LENGTH.unpack_from(head)
        tag = group << 16 | number
        if group == 0xFFFE:
            self._at += 8
            return _Element(tag, b"", length)
        if not explicit:
            self._at += 8
            return _Element(tag, self._vr_of(tag, length), length)
        vr = head[4:6]
        if not (vr.isalpha() and vr.isupper()):
            raise InputError(f"element ({group:04X},{number:04X}) has no valid VR", hint=_HINT)
        if vr in _LONG_VRS:
            if len(head) < 12:
                raise InputError("the stored data set ends inside an element header", hint=_HINT)
            self._at += 12
            return _Element(tag, vr, _LONG.unpack(head)[3])
        self._at += 8
        return _Element(tag, vr, _SHORT.unpack_from(head)[3])

    def _value(self, element: _Element, stop: int) -> Iterator[bytes]:
        end = self._at + element.length
        if end > stop:
            raise InputError("an element is longer than the stored data set", hint=_HINT)
        while self._at < end:
            piece = self._read(self._at, min(self._at + _PIECE, end))
            if element.tag == _PIXEL_REPRESENTATION:
                self._signed = piece[:1] == b"\x01"
            self._at += len(piece)
            yield piece

    def _sequence(self, out: bytearray, element: _Element, stop: int, depth: int, *, explicit: bool) -> None:
        """Append the sequence with undefined lengths throughout, so that its converted size need not be known first."""
        if depth > _MAX_DEPTH:
            raise InputError(f"sequences nest deeper than {_MAX_DEPTH}", hint=_HINT)
        if element.tag >> 16 == 0x7FE0:
            raise InputError("encapsulated pixel data in an uncompressed transfer syntax", hint=_HINT)
        # PS3.5 6.2.2 note 2: the items of a UN sequence of undefined length are always Implicit VR.
        explicit = explicit and element.vr != b"UN"
        defined = element.length != _UNDEFINED
        end = self._at + element.length if defined else stop
        if end > stop:
            raise InputError("a sequence is longer than the stored data set", hint=_HINT)
        out += self._header(_Element(element.tag, b"SQ", _UNDEFINED))
        while not defined or self._at < end:
            item = self._next(end, explicit=explicit)
            if item.tag == _SEQUENCE_END and not defined:
                break
            if item.tag != _ITEM:
                raise InputError("a sequence holds something other than an item", hint=_HINT)
            self._item(out, item.length, end, depth, explicit=explicit)
        out += _TAG_LENGTH.pack(0xFFFE, 0xE0DD, 0)

    def _item(self, out: bytearray, length: int, stop: int, depth: int, *, explicit: bool) -> None:
        defined = length != _UNDEFINED
        end = self._at + length if defined else stop
        if end > stop:
            raise InputError("an item is longer than its sequence", hint=_HINT)
        out += _TAG_LENGTH.pack(0xFFFE, 0xE000, _UNDEFINED)
        while not defined or self._at < end:
            element = self._next(end, explicit=explicit)
            if element.tag == _ITEM_END and not defined:
                break
            if element.vr == b"SQ" or element.length == _UNDEFINED:
                self._sequence(out, element, end, depth + 1, explicit=explicit)
            else:
                out += self._header(element)
                for piece in self._value(element, end):
                    out += piece
            if len(out) > _MAX_SEQUENCE_BYTES:
                raise InputError("a sequence exceeds 64 MiB", hint=_HINT)
        out += _TAG_LENGTH.pack(0xFFFE, 0xE00D, 0)

    def _header(self, element: _Element) -> bytes:
        group, number = element.tag >> 16, element.tag & 0xFFFF
        if not self._to_explicit:
            return _TAG_LENGTH.pack(group, number, element.length)
        if element.vr in _LONG_VRS:
            return _LONG.pack(group, number, element.vr, element.length)
        if element.length > 0xFFFF:  # PS3.5 6.2.2 note: a value too long for its VR's 16-bit length is sent as UN
            return _LONG.pack(group, number, b"UN", element.length)
        return _SHORT.pack(group, number, element.vr, element.length)

    def _vr_of(self, tag: int, length: int) -> bytes:
        """The VR of an Implicit VR element by PS3.6; an ambiguous one by PS3.5 A.1 and the context."""
        if tag & 0xFFFF == 0:
            return b"UL"
        if tag & 0x10000:
            return b"LO" if 0x10 <= tag & 0xFFFF <= 0xFF else b"UN"
        name = dictionary_vr(tag) or "UN"
        if name.startswith("US or SS"):
            short = b"SS" if self._signed else b"US"
            return b"OW" if name.endswith("OW") and length > 2 else short
        if name == "US or OW":
            return b"OW" if length > 2 else b"US"
        return b"OW" if name == "OB or OW" else name.encode()
