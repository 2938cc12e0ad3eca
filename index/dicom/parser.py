"""The bounded walk over a data set's elements (PS3.5 chapter 7): iterative, lazy, and total.

Rule: the limits, not the data, decide how much memory, time and depth is used. Values and sequences that are not wanted
are skipped by their length. An error stops the walk with one fixed sentence in `problem`, never with an exception, and
everything read until then is kept. It interprets no values and knows no attribute but Pixel Data.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping
from typing import Final

from coffer.index.dicom.attributes import vr_of
from coffer.index.dicom.elements import Element, Elements, HeaderLimits, PixelValue, Read
from coffer.index.dicom.readings import HEAD_OF, items_are_explicit, odd_heading

__all__ = ["Walk"]

_UNDEFINED: Final = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_PIXEL_DATA: Final = 0x7FE00010
_EXPLICIT: Final = {False: struct.Struct("<HH2sH"), True: struct.Struct(">HH2sH")}
_U32: Final = {False: struct.Struct("<I"), True: struct.Struct(">I")}
_TAG_LENGTH: Final = {False: struct.Struct("<HHI"), True: struct.Struct(">HHI")}
_WINDOW: Final = 32 << 10
_DEADLINE_EVERY: Final = 512


class _Stop(Exception):  # noqa: N818  # leaves nested loops; never leaves this module
    """The walk ends here."""


class _Frame:
    """A data set, item, or sequence being walked. `stop` is the nearest enclosing end that is known."""

    __slots__ = (
        "collected", "explicit", "is_sequence", "opaque", "sink", "stop", "tag", "undefined", "unknown", "wanted"
    )  # fmt: skip

    def __init__(
        self,
        stop: int,
        *,
        explicit: bool,
        undefined: bool,
        sink: Elements | None,
        wanted: Collection[int] | None = (),
    ) -> None:
        self.stop = stop
        self.explicit = explicit
        self.undefined = undefined
        self.sink = sink  # where the elements of a data set or item go; None: they are skipped
        self.wanted = wanted  # which of them; None: all
        self.is_sequence = False
        self.opaque = False  # fragments: items hold bytes, not elements
        self.unknown = False  # a sequence of VR UN in an Explicit VR data set
        self.collected: list[Elements] | None = None  # the wanted items of a sequence
        self.tag = 0


class Walk:
    """One walk over one data set; call `run()` once, then read `elements`, `pixel` and `problem`."""

    def __init__(
        self,
        read: Read,
        length: int,
        *,
        explicit: bool,
        big_endian: bool,
        wanted: frozenset[int] | None,
        limits: HeaderLimits,
        wanted_in_items: Mapping[int, Collection[int]] | None = None,
        stop_at_pixels: bool = False,
        arriving: bool = False,
    ) -> None:
        self.elements: Elements = {}
        self.pixel: PixelValue | None = None
        self.problem: str | None = None
        self.position = 0
        self._read = read
        self._length = length
        self._explicit = explicit
        self._big = big_endian
        self._wanted = wanted  # None: every tag at every depth, as for a query identifier
        self._wanted_in_items = wanted_in_items or {}  # by the tag of their sequence at the root
        self._limits = limits
        self._stop_at_pixels = stop_at_pixels  # what follows has not arrived yet, or would have to be inflated
        self._arriving = arriving  # how an odd element is to be read depends on what follows it: the walk ends there
        self._window = b""
        self._base = 0
        self._bytes_left = limits.bytes
        self._elements_left = limits.elements
        self._deadline = limits.clock() + limits.seconds
        self._stack: list[_Frame] = []

    def run(self) -> None:
        """Walk to the end of the data set, the first limit, or the first part that cannot be skipped."""
        if self._length == 0:
            return
        try:
            self._fill(0, 8)
            self._detect_vr()
            root = _Frame(
                self._length, explicit=self._explicit, undefined=False, sink=self.elements, wanted=self._wanted
            )
            self._stack.append(root)
            while self._stack:
                frame = self._stack[-1]
                if frame.is_sequence:
                    self._walk_items(frame)
                else:
                    self._walk_elements(frame)
        except _Stop:
            # Items that were complete when the walk stopped are kept.
            while self._stack:
                self._pop()

    def _note(self, problem: str) -> None:
        self.problem = self.problem or problem

    def _fail(self, problem: str) -> _Stop:
        self._note(problem)
        return _Stop()

    def _fill(self, position: int, least: int) -> None:
        """Move the window to `position`. Raises _Stop if fewer than `least` bytes are left or a limit is reached."""
        if self._limits.clock() > self._deadline:
            raise self._fail("took longer to read than the time limit")
        self._window = self._read(position, min(position + _WINDOW, self._length))
        self._base = position
        self._bytes_left -= len(self._window)
        if self._bytes_left < 0:
            raise self._fail("header is larger than the byte limit")
        if len(self._window) < least:
            raise self._fail("data set ends inside an element header")

    def _count(self, spent: int) -> None:
        self._elements_left -= spent
        if self._elements_left < 0:
            raise self._fail("more elements than the limit")
        if self._limits.clock() > self._deadline:
            raise self._fail("took longer to read than the time limit")

    def _detect_vr(self) -> None:
        """Senders mislabel Implicit and Explicit VR; the first element decides (as in pydicom and DCMTK)."""
        vr = self._window[4:6]
        looks_explicit = vr in HEAD_OF
        if looks_explicit and not self._explicit:
            group, number, length = _TAG_LENGTH[self._big].unpack_from(self._window)
            if length > self._length or vr_of(group << 16 | number).encode() == vr:
                self._explicit = True
                self._note("Explicit VR under an Implicit VR transfer syntax")
        elif self._explicit and not (vr.isalpha() and vr.isupper()):
            self._explicit = False
            self._note("Implicit VR under an Explicit VR transfer syntax")

    # One loop over local names: a call per element would double the cost of a header.
    def _walk_elements(self, frame: _Frame) -> None:  # noqa: C901, PLR0912, PLR0915
        """Walk elements until the frame ends or a sequence must be entered."""
        unpack = (_EXPLICIT if frame.explicit else _TAG_LENGTH)[self._big].unpack_from
        explicit, stop, sink, big, wanted = frame.explicit, frame.stop, frame.sink, self._big, frame.wanted
        window, base, position = self._window, self._base, self.position
        spent = 0
        while position < stop:
            offset = position - base
            if offset + 12 > len(window) or offset < 0:
                self._fill(position, 8)
                window, base, offset = self._window, self._base, 0
            spent += 1
            if spent == _DEADLINE_EVERY:
                self._count(spent)
                spent = 0
            if explicit:
                group, number, written, length = unpack(window, offset)
                head = HEAD_OF.get(written, 0)
                if head == 12:
                    if len(window) < offset + 12:
                        raise self._fail("data set ends inside an element header")
                    (length,) = _U32[big].unpack_from(window, offset + 8)
                elif head == 0:
                    head, written, length = self._odd_header(frame, group, window, offset)
            else:
                group, number, length = unpack(window, offset)
                head, written = 8, b""
            tag = group << 16 | number
            end = position + head + length
            if length == _UNDEFINED or group == 0xFFFE or end > stop or tag == _PIXEL_DATA:
                self.position = position
                self._count(spent)
                if self._special(frame, tag, written, head, length):
                    return
                position, spent = self.position, 0
                window, base = self._window, self._base
                continue
            if sink is not None and (wanted is None or tag in wanted):
                vr = written.decode("ascii")
                if vr == "SQ" or (vr in ("", "UN") and vr_of(tag) == "SQ"):
                    self.position = position + head
                    self._count(spent)
                    self._enter_sequence(frame, tag, vr, end, undefined=False)
                    return
                if length <= self._limits.value:
                    start = offset + head
                    raw = window[start : start + length]
                    sink[tag] = Element(vr, raw if len(raw) == length else self._value(position + head, end))
                else:
                    self._note("a value is longer than the limit")
            position = end
        self.position = position
        self._count(spent)
        if frame.undefined:
            self._note("an item ends without its delimiter")
        self._pop()

    def _odd_header(self, frame: _Frame, group: int, window: bytes, offset: int) -> tuple[int, bytes, int]:
        """An element whose VR is not in PS3.5: a delimiter, or the reading of it that goes on."""
        if group == 0xFFFE:
            return 8, b"", int(_U32[self._big].unpack_from(window, offset + 4)[0])
        self._note("an element has no valid VR")
        if self._arriving:
            raise _Stop
        self.position = self._base + offset
        heading = odd_heading(self._read, self.position, frame.stop, big_endian=self._big)
        if heading is None:
            raise self._fail("an element has no valid VR")
        return heading

    def _value(self, start: int, stop: int) -> bytes:
        self._bytes_left -= stop - start
        if self._bytes_left < 0:
            raise self._fail("header is larger than the byte limit")
        return self._read(start, stop)

    def _special(self, frame: _Frame, tag: int, written: bytes, head: int, length: int) -> bool:
        """Handle delimiters, Pixel Data, undefined lengths and overlong values; True if the frame changed."""
        if tag >> 16 == 0xFFFE:
            return self._delimiter(frame, tag)
        start = self.position + head
        if tag == _PIXEL_DATA and frame.sink is self.elements:
            return self._pixel_data(frame, start, length)
        if length == _UNDEFINED:
            vr = written.decode("ascii")
            self.position = start
            self._enter_sequence(frame, tag, vr, frame.stop, undefined=True)
            return True
        if start + length > frame.stop:
            if frame.stop == self._length:
                raise self._fail("an element is longer than the data set")
            self._note("an element is longer than its item")
            self.position = frame.stop
        else:  # Pixel Data inside an item, as in icons
            self.position = start + length
        return False

    def _delimiter(self, frame: _Frame, tag: int) -> bool:
        if tag == _ITEM_END and frame.undefined:
            self.position += 8
            self._pop()
            return True
        if tag == _SEQUENCE_END and len(self._stack) > 1:
            self._note("an item ends without its delimiter")
            self._pop()  # the sequence below reads the delimiter again
            return True
        self._note("a delimiter is out of place")
        self.position += 8
        return False

    def _pixel_data(self, frame: _Frame, start: int, length: int) -> bool:
        if self._stop_at_pixels:
            undefined = length == _UNDEFINED
            whole = not undefined and start + length <= self._length
            self.pixel = PixelValue(start, length, encapsulated=undefined, whole=whole)
            raise _Stop
        if length != _UNDEFINED:
            whole = start + length <= self._length
            self.pixel = PixelValue(start, min(length, self._length - start), encapsulated=False, whole=whole)
            if not whole:
                raise self._fail("an element is longer than the data set")
            self.position = start + length
            return False
        self.pixel = PixelValue(start, self._length - start, encapsulated=True, whole=True)
        tail = self._read(self._length - 8, self._length)
        if _TAG_LENGTH[self._big].unpack(tail) == (0xFFFE, 0xE0DD, 0):
            raise _Stop  # ends with its delimiter: walking thousands of fragments would add nothing
        self.position = start
        self._enter_sequence(frame, _PIXEL_DATA, "OB", frame.stop, undefined=True)
        return True

    def _enter_sequence(self, frame: _Frame, tag: int, vr: str, stop: int, *, undefined: bool) -> None:
        if len(self._stack) > 2 * self._limits.depth:
            raise self._fail("sequences nest deeper than the limit")
        # PS3.5 6.2.2 note: the items of a UN element of undefined length are Implicit VR Little Endian.
        below = _Frame(stop, explicit=frame.explicit and vr != "UN", undefined=undefined, sink=None)
        below.is_sequence = True
        below.unknown = vr == "UN" and frame.explicit and not self._big
        below.opaque = tag == _PIXEL_DATA or vr not in ("SQ", "UN", "")
        below.tag = tag
        wanted = frame.sink is not None and (frame.wanted is None or tag in frame.wanted)
        if wanted and not below.opaque:
            below.collected = []
        self._stack.append(below)

    def _walk_items(self, frame: _Frame) -> None:
        """Walk items until the sequence ends or an item must be entered."""
        while self.position < frame.stop:
            offset = self.position - self._base
            if offset + 8 > len(self._window) or offset < 0:
                self._fill(self.position, 8)
                offset = 0
            group, number, length = _TAG_LENGTH[self._big].unpack_from(self._window, offset)
            tag = group << 16 | number
            self._count(1)
            if tag == _SEQUENCE_END:
                self.position += 8
                if not frame.undefined:
                    self._note("a delimiter is out of place")
                    continue
                if frame.tag == _PIXEL_DATA and self.pixel is not None and len(self._stack) == 2:
                    self.pixel = self.pixel._replace(length=self.position - self.pixel.offset)
                self._pop()
                return
            if tag != _ITEM:
                if frame.undefined or frame.stop == self._length:
                    raise self._fail("a sequence holds something that is no item")
                self._note("a sequence holds something that is no item")
                self.position = frame.stop
                break
            self.position += 8
            if self._enter_item(frame, length):
                return
        else:
            if frame.undefined:
                self._note("a sequence ends without its delimiter")
        self._pop()

    def _enter_item(self, frame: _Frame, length: int) -> bool:
        """Skip an item that is not wanted by its length; True if it must be walked."""
        undefined = length == _UNDEFINED
        end = frame.stop if undefined else self.position + length
        if end > frame.stop:
            if frame.stop == self._length:
                raise self._fail("an item is longer than the data set")
            self._note("an item is longer than its sequence")
            end = frame.stop
        full = frame.collected is not None and len(frame.collected) >= self._limits.items
        if full and self._wanted is not None:
            self._note("a sequence holds more items than the limit")
        if not undefined and (frame.collected is None or full):
            self.position = end
            return False
        if frame.opaque:
            raise self._fail("a fragment has no length")
        sink: Elements | None = None
        if frame.collected is not None and not full:
            sink = {}
            frame.collected.append(sink)
        inside = None if self._wanted is None else self._wanted_in_items.get(frame.tag, ())
        explicit = frame.explicit or (frame.unknown and self._is_explicit(end))
        self._stack.append(_Frame(end, explicit=explicit, undefined=undefined, sink=sink, wanted=inside))
        return True

    def _is_explicit(self, end: int) -> bool:
        """Whether the item that begins here holds Explicit VR, as some writers' UN does against PS3.5 6.2.2."""
        if self._read(self.position + 4, self.position + 6) not in HEAD_OF:
            return False
        if self._arriving:
            raise _Stop
        explicit = items_are_explicit(self._read, self.position, end)
        if explicit:
            self._note("Explicit VR inside an element of unknown VR")
        return explicit

    def _pop(self) -> None:
        frame = self._stack.pop()
        if frame.is_sequence and frame.collected is not None and self._stack:
            sink = self._stack[-1].sink
            if sink is not None:
                sink[frame.tag] = Element("SQ", b"", tuple(frame.collected))
