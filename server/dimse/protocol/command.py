"""DIMSE command sets (PS3.7 6.3, E.1): group 0000 in Implicit VR Little Endian, with a codec of their own.

Rule: pure. A command set is small and has few elements; a general data set library spent half of the time of a C-STORE
on it. Unknown and empty elements are skipped, malformed ones are an error.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from coffer.server.dimse.protocol.pdu import INVALID_VALUE, ProtocolError

MAX_COMMAND_BYTES: Final = 64 << 10
NO_DATA_SET: Final = 0x0101

C_STORE, C_GET, C_FIND, C_MOVE, C_ECHO, C_CANCEL = 0x0001, 0x0010, 0x0020, 0x0021, 0x0030, 0x0FFF
RESPONSE: Final = 0x8000
MEDIUM: Final = 0x0000

AFFECTED_CLASS, FIELD, MESSAGE_ID, RESPONDED_ID = 0x0002, 0x0100, 0x0110, 0x0120
DESTINATION, PRIORITY, DATA_SET_TYPE, STATUS = 0x0600, 0x0700, 0x0800, 0x0900
OFFENDING, COMMENT, AFFECTED_INSTANCE = 0x0901, 0x0902, 0x1000
REMAINING, COMPLETED, FAILED, WARNING = 0x1020, 0x1021, 0x1022, 0x1023
ORIGINATOR_AE, ORIGINATOR_ID = 0x1030, 0x1031

_ELEMENT: Final = struct.Struct("<HHI")
_US: Final = struct.Struct("<H")
_NUMBERS: Final = frozenset(
    {
        FIELD,
        MESSAGE_ID,
        RESPONDED_ID,
        PRIORITY,
        DATA_SET_TYPE,
        STATUS,
        REMAINING,
        COMPLETED,
        FAILED,
        WARNING,
        ORIGINATOR_ID,
    }
)
_UIDS: Final = frozenset({AFFECTED_CLASS, AFFECTED_INSTANCE})

Value = int | str | tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Command:
    """A decoded command set: numbers and texts by element number of group 0000."""

    values: Mapping[int, int | str] = field(default_factory=dict)

    def number(self, element: int, default: int = 0) -> int:
        """A US element, or `default` if it is absent."""
        value = self.values.get(element, default)
        return value if isinstance(value, int) else default

    def text(self, element: int) -> str:
        """A text element without its padding, or an empty string."""
        value = self.values.get(element, "")
        return value if isinstance(value, str) else ""

    @property
    def has_data_set(self) -> bool:
        """Whether a data set follows."""
        return self.number(DATA_SET_TYPE, NO_DATA_SET) != NO_DATA_SET


def parse_command(data: bytes | bytearray) -> Command:
    """Decode a whole command set. Raises ProtocolError if it is none."""
    values: dict[int, int | str] = {}
    at, end = 0, len(data)
    while at < end:
        if end - at < _ELEMENT.size:
            raise ProtocolError("a command set is cut", INVALID_VALUE)
        group, element, length = _ELEMENT.unpack_from(data, at)
        at += _ELEMENT.size
        if group != 0 or length > end - at:
            raise ProtocolError("a command set has an element of another group or beyond its end", INVALID_VALUE)
        raw = data[at : at + length]
        at += length
        if not length:
            continue  # old devices send a Move Originator without a value: it has none
        if element in _NUMBERS:
            if length != _US.size:
                raise ProtocolError("a number in a command set has the wrong length", INVALID_VALUE)
            values[element] = _US.unpack(raw)[0]
        elif element != 0:
            values[element] = bytes(raw).decode("latin-1").strip(" \0")
    if FIELD not in values:
        raise ProtocolError("a command set has no Command Field", INVALID_VALUE)
    return Command(values)


def encode_command(values: Mapping[int, Value]) -> bytes:
    """Encode a command set in element order with its group length first (PS3.7 6.3.1)."""
    body = b"".join(_encoded(element, values[element]) for element in sorted(values))
    return _ELEMENT.pack(0, 0, 4) + struct.pack("<I", len(body)) + body


def _encoded(element: int, value: Value) -> bytes:
    if isinstance(value, int):
        raw = _US.pack(value)
    elif isinstance(value, str):
        raw = value.encode("latin-1", "replace")
        if len(raw) % 2:
            raw += b"\0" if element in _UIDS else b" "
    else:
        raw = b"".join(struct.pack("<HH", tag >> 16, tag & 0xFFFF) for tag in value)
    return _ELEMENT.pack(0, element, len(raw)) + raw
