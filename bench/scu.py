"""A DICOM client of very low cost: sockets, struct, and no data set objects (PS3.7 9.1, PS3.8 9.3).

For measurements only: it trusts the server. Where it matters, messages are built before the clock starts.
"""

import itertools
import socket
import struct
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Self

from bench.studies import EXPLICIT_LE, HeaderOnly

IMPLICIT_LE: Final = "1.2.840.10008.1.2"
VERIFICATION: Final = "1.2.840.10008.1.1"
STUDY_ROOT_FIND: Final = "1.2.840.10008.5.1.4.1.2.2.1"
_APPLICATION: Final = b"1.2.840.10008.3.1.1.1"
_IMPLEMENTATION: Final = b"1.2.826.0.1.3680043.10.1339.1"
_PDU: Final = 128 << 10
_PDV_HEAD: Final = struct.Struct(">BBIIBB")
_STATUS, _HAS_DATA, _MESSAGE = 0x0900, 0x0800, 0x0110
_PENDING: Final = (0xFF00, 0xFF01)


class Refused(Exception):  # noqa: N818
    """The server did not carry out a request."""


def elements(values: Mapping[int, bytes]) -> bytes:
    """Encode elements in Implicit VR Little Endian, in tag order; values are padded with a space, UIDs with NUL."""
    out = []
    for tag, value in sorted(values.items()):
        pad = b"\0" if tag >> 16 in (0x0000, 0x0020) else b" "
        padded = value + pad * (len(value) % 2)
        out.append(struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(padded)) + padded)
    return b"".join(out)


def command(field: int, message: int, *, has_data: bool, **more: bytes) -> bytes:
    """Encode a request's command set; `more` gives elements as `t00000002=...`."""
    values = {
        0x0100: struct.pack("<H", field),
        0x0110: struct.pack("<H", message),
        0x0800: struct.pack("<H", 0 if has_data else 0x0101),
    }
    if has_data:
        values[0x0700] = bytes(2)
    body = elements(values | {int(tag[1:], 16): value for tag, value in more.items()})
    return elements({0: struct.pack("<I", len(body))}) + body


def fragments(context: int, data: bytes, *, is_command: bool) -> bytes:
    """Return the P-DATA-TF PDUs that carry one command or data set."""
    room, out = _PDU - 6, []
    for at in range(0, max(len(data), 1), room):
        piece = data[at : at + room]
        flags = is_command | 2 * (at + room >= len(data))
        out += [_PDV_HEAD.pack(4, 0, len(piece) + 6, len(piece) + 2, context, flags), piece]
    return b"".join(out)


def associate_request(called: str, contexts: Iterable[tuple[str, str]]) -> bytes:
    """Return an A-ASSOCIATE-RQ; contexts are numbered 1, 3, 5 … in order."""
    items = [_item(0x10, _APPLICATION)]
    for number, (abstract, transfer) in enumerate(contexts):
        syntaxes = _item(0x30, abstract.encode()) + _item(0x40, transfer.encode())
        items.append(_item(0x20, bytes((2 * number + 1, 0, 0, 0)) + syntaxes))
    items.append(_item(0x50, _item(0x51, struct.pack(">I", _PDU)) + _item(0x52, _IMPLEMENTATION)))
    body = struct.pack(">HH16s16s32x", 1, 0, called.encode().ljust(16), b"BENCH".ljust(16)) + b"".join(items)
    return struct.pack(">BBI", 1, 0, len(body)) + body


def _item(kind: int, value: bytes) -> bytes:
    return struct.pack(">BBH", kind, 0, len(value)) + value


class Client:
    """One association, established on return. Raises Refused or OSError."""

    def __init__(
        self, port: int, contexts: Iterable[tuple[str, str]], *, called: str = "PEER", seconds: float = 60.0
    ) -> None:
        self.contexts = {context: 2 * n + 1 for n, context in enumerate(dict.fromkeys(contexts))}
        self._messages = itertools.count(1)
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=seconds)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self.socket.makefile("rb", 1 << 18)
        self.socket.sendall(associate_request(called, self.contexts))
        kind, body = self._pdu()
        if kind != 2:
            raise Refused(f"the association was answered by a PDU of type {kind}: {body[:4].hex()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the association."""
        try:
            self.socket.sendall(struct.pack(">BBII", 5, 0, 4, 0))
            self._pdu()
        except (OSError, Refused):
            pass
        self._file.close()
        self.socket.close()

    def drop(self) -> None:
        """Close the connection without a release or abort."""
        self.socket.shutdown(socket.SHUT_RDWR)
        self._file.close()
        self.socket.close()

    def _pdu(self) -> tuple[int, bytes]:
        head = self._file.read(6)
        if len(head) < 6:
            raise Refused("the server closed the connection")
        kind, length = struct.unpack(">BxI", head)
        return kind, self._file.read(length)

    def _message(self) -> tuple[dict[int, bytes], bytes]:
        """Return the next message: its command elements and its data set."""
        collected, data, parsed = b"", b"", {}
        while True:
            kind, body = self._pdu()
            if kind != 4:
                raise Refused(f"a PDU of type {kind} instead of an answer")
            at = 0
            while at < len(body):
                length, _, flags = struct.unpack_from(">IBB", body, at)
                piece, at = body[at + 6 : at + 4 + length], at + 4 + length
                if flags & 1:
                    collected += piece
                else:
                    data += piece
                if flags == 3:
                    parsed = _parse(collected)
                if flags == 2 or (flags == 3 and parsed[_HAS_DATA] == b"\x01\x01"):
                    return parsed, data

    def _number(self) -> int:
        return next(self._messages) % 0xFFFF + 1

    def store_message(self, item: HeaderOnly, transfer: str = EXPLICIT_LE) -> bytes:
        """Return the whole C-STORE-RQ with its data set, ready to be sent."""
        context = self.contexts[item.sop_class, transfer]
        head = command(
            1, self._number(), has_data=True, t00000002=item.sop_class.encode(), t00001000=item.sop_instance.encode()
        )
        return fragments(context, head, is_command=True) + fragments(context, item.data, is_command=False)

    def send(self, message: bytes) -> int:
        """Send a request and return the status of its only response."""
        self.socket.sendall(message)
        return _status(self._message()[0])

    def store(self, item: HeaderOnly) -> None:
        """Send a C-STORE; raises Refused for any status but success."""
        status = self.send(self.store_message(item))
        if status:
            raise Refused(f"C-STORE was answered {status:04X}")

    def find(self, keys: Mapping[int, bytes], sop: str = STUDY_ROOT_FIND) -> Iterator[bytes]:
        """Send a C-FIND; yields each match's identifier as it arrives. Raises Refused for a failure status."""
        context = self.contexts[sop, IMPLICIT_LE]
        head = command(0x20, self._number(), has_data=True, t00000002=sop.encode())
        body = fragments(context, head, is_command=True) + fragments(context, elements(keys), is_command=False)
        self.socket.sendall(body)
        while True:
            answer, data = self._message()
            status = _status(answer)
            if status not in _PENDING:
                break
            yield data
        if status:
            raise Refused(f"C-FIND was answered {status:04X}")

    def timed_find(self, keys: Mapping[int, bytes]) -> tuple[int, float, float]:
        """Send a C-FIND; returns the number of matches, and the seconds to the first and to the last response."""
        started, first, count = time.perf_counter(), 0.0, 0
        for _ in self.find(keys):
            if not count:
                first = time.perf_counter() - started
            count += 1
        ended = time.perf_counter() - started
        return count, first or ended, ended


def _parse(data: bytes) -> dict[int, bytes]:
    out, at = {}, 0
    while at + 8 <= len(data):
        group, number, length = struct.unpack_from("<HHI", data, at)
        out[group << 16 | number] = data[at + 8 : at + 8 + length]
        at += 8 + length
    return out


def _status(answer: Mapping[int, bytes]) -> int:
    return int(struct.unpack("<H", answer[_STATUS])[0])
