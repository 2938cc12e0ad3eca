"""Framing of upper layer PDUs (PS3.8 9.3): lengths and fields checked before anything is allocated or believed.

Rule: pure. Bytes in, values out; a peer's mistake is a ProtocolError that carries the A-ABORT that answers it. The
contents of association PDUs are decoded by `server.dimse.protocol.associate`.
"""

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from coffer.server.observe.reached import Abort

ASSOCIATE_RQ, ASSOCIATE_AC, ASSOCIATE_RJ, P_DATA, RELEASE_RQ, RELEASE_RP, ABORT = range(1, 8)
HEADER: Final = struct.Struct(">BxI")
_PDV: Final = struct.Struct(">IBB")
PDV_OVERHEAD: Final = _PDV.size
_COMMAND, _LAST = 1, 2

# Leaves ample room for 128 presentation contexts with many syntaxes and a user identity token.
MAX_ASSOCIATE_BYTES: Final = 1 << 20
# PS3.8 9.3.4, 9.3.6 to 9.3.8: these four have a fixed length.
_FIXED: Final = {ASSOCIATE_RJ: 4, RELEASE_RQ: 4, RELEASE_RP: 4, ABORT: 4}

# PS3.8 Table 9-26
USER, PROVIDER = 0, 2
NOT_SPECIFIED, UNRECOGNISED_PDU, UNEXPECTED_PDU, INVALID_VALUE = 0, 1, 2, 6


class ProtocolError(Exception):
    """The peer broke PS3.8; `source` and `reason` go into the A-ABORT that ends the association, `counted` is the word
    under which it is counted."""

    def __init__(self, what: str, reason: int, counted: Abort = Abort.PROTOCOL) -> None:
        super().__init__(what)
        self.source = PROVIDER
        self.reason = reason
        self.counted = counted


class Pdv(NamedTuple):
    """One presentation data value: `data` is a view into the buffer of its PDU."""

    context_id: int
    is_command: bool
    is_last: bool
    data: memoryview


def parse_header(header: bytes | bytearray | memoryview, max_data: int) -> tuple[int, int]:
    """PDU type and length of a 6-byte header. Raises ProtocolError for a PDU that must not be read any further.

    `max_data` is the maximum length that we announced for P-DATA-TF (PS3.8 D.1).
    """
    kind, length = HEADER.unpack(header)
    if not ASSOCIATE_RQ <= kind <= ABORT:
        raise ProtocolError("unknown PDU type", UNRECOGNISED_PDU)
    limit = _FIXED.get(kind) or (max_data if kind == P_DATA else MAX_ASSOCIATE_BYTES)
    if length > limit or (kind in _FIXED and length != limit):
        raise ProtocolError("a PDU has an impossible length", INVALID_VALUE, Abort.PDU_LENGTH)
    return kind, length


def split(body: memoryview) -> Iterator[Pdv]:
    """The presentation data values of a P-DATA-TF's body. Raises ProtocolError if they do not fill it exactly."""
    at, end = 0, len(body)
    while at < end:
        if end - at < _PDV.size:
            raise ProtocolError("a PDV header is cut", INVALID_VALUE)
        length, context_id, control = _PDV.unpack_from(body, at)
        stop = at + 4 + length
        if length < 2 or stop > end:
            raise ProtocolError("a PDV does not fit its PDU", INVALID_VALUE)
        if control & ~(_COMMAND | _LAST):
            raise ProtocolError("a PDV has unknown control bits", INVALID_VALUE)
        yield Pdv(context_id, bool(control & _COMMAND), bool(control & _LAST), body[at + _PDV.size : stop])
        at = stop


def data_header(context_id: int, size: int, *, is_command: bool, is_last: bool) -> bytes:
    """The 12 bytes before the `size` bytes of data in a P-DATA-TF with one PDV."""
    control = (_COMMAND if is_command else 0) | (_LAST if is_last else 0)
    return HEADER.pack(P_DATA, size + _PDV.size) + _PDV.pack(size + 2, context_id, control)


def release(kind: int) -> bytes:
    """An A-RELEASE-RQ or A-RELEASE-RP."""
    return HEADER.pack(kind, 4) + bytes(4)


def abort(source: int, reason: int) -> bytes:
    """An A-ABORT (PS3.8 9.3.8)."""
    return HEADER.pack(ABORT, 4) + bytes((0, 0, source, reason))
