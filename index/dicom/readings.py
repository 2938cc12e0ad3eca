"""Which reading of an odd element header goes on: elements whose VR is not in PS3.5, and items of unknown VR.

Rule: looks at headers only, never at values; each question costs a few reads of 12 bytes. Where no reading is followed
by an element that may follow, it says so and does not choose.
"""

from __future__ import annotations

import re
import struct
from typing import Final, NamedTuple

from coffer.index.dicom.attributes import vr_of
from coffer.index.dicom.elements import Read

__all__ = ["HEAD_OF", "Heading", "items_are_explicit", "odd_heading"]

# Bytes of an Explicit VR element's header: 12 for the VRs with a 32-bit length (PS3.5 7.1.2).
HEAD_OF: Final = {vr.encode(): 8 for vr in re.findall("..", "AEASATCSDADSDTFDFLISLOLTPNSHSLSSSTTMUIULUS")} | {
    vr.encode(): 12 for vr in re.findall("..", "OBODOFOLOVOWSQSVUCUNURUTUV")
}
_UNDEFINED: Final = 0xFFFFFFFF
_ENDS: Final = (0xFFFEE00D, 0xFFFEE0DD)
_NESTED: Final = (b"SQ", b"UN", b"OB", b"OW")


class Heading(NamedTuple):
    """An element's header as one reading has it: its own bytes, the VR it is taken for, and the value's length."""

    size: int
    vr: bytes
    length: int


def odd_heading(read: Read, position: int, stop: int, *, big_endian: bool) -> Heading | None:
    """The reading of an element whose VR is none of PS3.5 after which the data set goes on; None if none does.

    In the order of likelihood: an element of Implicit VR among explicit ones (its "VR" is half of a 32-bit length); an
    unknown VR with a 16-bit length, as most writers make them; one with a 32-bit length, as PS3.5 7.1.2 has it for VRs
    that are to come. Letters are more likely a VR than a length.
    """
    order = ">" if big_endian else "<"
    head = read(position, min(position + 12, stop))
    if len(head) < 8:
        return None
    group, number, written, short = struct.unpack_from(f"{order}HH2sH", head)
    tag = group << 16 | number
    implicit = Heading(8, b"", struct.unpack_from(f"{order}I", head, 4)[0])
    unknown = [Heading(8, b"UN", short)]
    if len(head) == 12 and short == 0:
        unknown.append(Heading(12, b"UN", struct.unpack_from(f"{order}I", head, 8)[0]))
    readings = [*unknown, implicit] if written.isalpha() and written.isupper() else [implicit, *unknown]
    for reading in readings:
        end = position + reading.size + reading.length
        if _goes_on(read, end, stop, tag, explicit=True, order=order):
            return reading
        if not reading.vr and _goes_on(read, end, stop, tag, explicit=False, order=order):
            return reading  # a run of several
    return None


def items_are_explicit(read: Read, position: int, stop: int) -> bool:
    """Whether an item at `position`, inside a value of VR UN, holds Explicit VR although PS3.5 6.2.2 forbids it.

    Only if its first element does not go on when it is read as PS3.5 says.
    """
    head = read(position, min(position + 12, stop))
    if len(head) < 8:
        return False
    group, number, length = struct.unpack_from("<HHI", head)
    tag = group << 16 | number
    if group == 0xFFFE or length == _UNDEFINED:
        return False
    if _goes_on(read, position + 8 + length, stop, tag, explicit=False, order="<"):
        return False
    written = head[4:6]
    size = HEAD_OF.get(written, 0)
    if size == 0 or len(head) < size:
        return False
    length = struct.unpack_from("<I", head, 8)[0] if size == 12 else struct.unpack_from("<H", head, 6)[0]
    if length == _UNDEFINED:
        return written in _NESTED
    return _goes_on(read, position + size + length, stop, tag, explicit=True, order="<")


def _goes_on(read: Read, position: int, stop: int, after: int, *, explicit: bool, order: str) -> bool:
    """Whether what is enclosed ends at `position`, or a header stands there that may follow the tag `after`."""
    if position >= stop:
        return position == stop
    head = read(position, min(position + 8, stop))
    if len(head) < 8:
        return False
    group, number, length = struct.unpack(f"{order}HHI", head)
    tag = group << 16 | number
    if tag in _ENDS:
        return bool(length == 0)
    if group == 0xFFFE or tag <= after:  # PS3.5 7.1: tags ascend
        return False
    if explicit:
        return head[4:6] in HEAD_OF or vr_of(tag) != "UN" or group == after >> 16
    return bool(length == _UNDEFINED or position + 8 + length <= stop)
