"""What an attacker without any right does to the doors, one act at a time, and what he is answered.

Each act opens what it needs from `source`, one of many addresses of the loopback, does its worst once, and returns the
reaction that it saw, in the words of docs/security/limits.md.
"""

import contextlib
import random
import socket
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from bench.scu import IMPLICIT_LE, STUDY_ROOT_FIND, VERIFICATION, associate_request, command, elements, fragments
from bench.studies import EXPLICIT_LE

DEFLATED: Final = "1.2.840.10008.1.2.1.99"
CT: Final = "1.2.840.10008.5.1.4.1.1.2"
_CONTEXTS: Final = ((VERIFICATION, IMPLICIT_LE), (STUDY_ROOT_FIND, IMPLICIT_LE), (CT, EXPLICIT_LE), (CT, DEFLATED))
_ECHO, _FIND, _STORE, _DEFLATED = 1, 3, 5, 7  # the ids of these contexts
_SECONDS: Final = 10.0
_DRIP_SECONDS: Final = 0.1
_ASKED: Final = associate_request("COFFER", _CONTEXTS)
_WRONG_CONTEXT: Final = _ASKED.replace(b"1.2.840.10008.3.1.1.1", b"1.2.840.10008.3.1.1.9")
_HEAD: Final = struct.Struct(">BxI")
_PIPELINED: Final = 50


@dataclass(frozen=True, slots=True)
class Doors:
    """The ports of a server."""

    dimse: int
    tls: int
    http: int


Act = Callable[[Doors, str, random.Random], str]


@contextlib.contextmanager
def _connected(port: int, source: str) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), _SECONDS, (source, 0)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield sock


@contextlib.contextmanager
def _associated(doors: Doors, source: str) -> Iterator[socket.socket]:
    """A connection with an association; raises _Answered with what came instead."""
    with _connected(doors.dimse, source) as sock:
        sock.sendall(_ASKED)
        kind, body = _pdu(sock)
        if kind != 2:
            raise _AnsweredError(_words(kind, body))
        yield sock


class _AnsweredError(Exception):
    """The door answered something else than what the act needs."""


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        if not piece:
            raise _AnsweredError("closed")
        data += piece
    return data


def _pdu(sock: socket.socket) -> tuple[int, bytes]:
    kind, length = _HEAD.unpack(_exactly(sock, _HEAD.size))
    return kind, _exactly(sock, length)


def _words(kind: int, body: bytes) -> str:
    """A PDU in words."""
    if kind == 3:
        return "A-ASSOCIATE-RJ {}/{}/{}".format(*body[1:4])
    if kind == 7:
        return "A-ABORT {}/{}".format(*body[2:4])
    at = body.find(b"\0\0\0\x09\x02\0\0\0")  # (0000,0900) Status, in Implicit VR Little Endian
    return f"{struct.unpack_from('<H', body, at + 8)[0]:04X}" if kind == 4 and at >= 0 else f"PDU {kind}"


def _answer(sock: socket.socket) -> str:
    return _words(*_pdu(sock))


def _drip(sock: socket.socket, data: bytes) -> str:
    """Send byte after byte, slowly, until the other side has enough of it."""
    sock.settimeout(_DRIP_SECONDS)
    for each in data:
        sock.sendall(bytes((each,)))
        try:
            return "closed" if not sock.recv(1) else "answered"
        except TimeoutError:
            continue
    return "taken to its end"


def slow_dimse(doors: Doors, source: str, _: random.Random) -> str:
    """Drip an A-ASSOCIATE-RQ."""
    with _connected(doors.dimse, source) as sock:
        return _drip(sock, _ASKED)


def slow_http(doors: Doors, source: str, _: random.Random) -> str:
    """Drip a request."""
    with _connected(doors.http, source) as sock:
        return _drip(sock, b"GET /healthz HTTP/1.1\r\n" + b"x: y\r\n" * 1000)


def slow_tls(doors: Doors, source: str, _: random.Random) -> str:
    """Drip a ClientHello."""
    with _connected(doors.tls, source) as sock:
        return _drip(sock, b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(500))


def connections(doors: Doors, source: str, _: random.Random) -> str:
    """Open a connection, say nothing, and see whether it is kept."""
    with _connected(doors.dimse, source) as sock:
        sock.settimeout(0.3)
        try:
            return _answer(sock)
        except TimeoutError:
            return "kept for a while"


def objects_that_do_not_come(doors: Doors, source: str, chance: random.Random) -> str:
    """Announce an object, and let its data set drip, or not come at all."""
    head = command(1, 1, has_data=True, t00000002=CT.encode(), t00001000=b"1.2.3")
    with _associated(doors, source) as sock:
        sock.sendall(fragments(_STORE, head, is_command=True))
        data, drips = fragments(_STORE, bytes(4096), is_command=False), chance.random() < 0.5
        sock.settimeout(_DRIP_SECONDS)
        for at in range(0, 24, 4):
            if drips:
                sock.sendall(data[at : at + 4])
            with contextlib.suppress(TimeoutError):
                return _answer(sock)
    return "kept for a while"


def rejected(doors: Doors, source: str, _: random.Random) -> str:
    """Ask for an association that is rejected."""
    with _connected(doors.dimse, source) as sock:
        sock.sendall(_WRONG_CONTEXT)
        return _answer(sock)


def http_requests(doors: Doors, source: str, _: random.Random) -> str:
    """Ask for the dearest page."""
    with _connected(doors.http, source) as sock:
        sock.sendall(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
        answer = sock.recv(12)
        while sock.recv(1 << 16):
            pass
        return answer[9:].decode() or "closed"


def tls_handshakes(doors: Doors, source: str, chance: random.Random) -> str:
    """Begin a handshake with noise."""
    with _connected(doors.tls, source) as sock:
        sock.sendall(b"\x16\x03\x01\x00\x80" + chance.randbytes(128))
        while sock.recv(1 << 10):
            pass
        return "closed"


def _bomb(name: bytes) -> bytes:
    """A deflated data set of this SOP Instance UID whose private element holds 64 MiB of zeros, in 65 KB."""
    head = b"".join((
        _explicit(0x0008, 0x0016, b"UI", CT.encode()), _explicit(0x0008, 0x0018, b"UI", name),
        _explicit(0x0009, 0x0010, b"LO", b"ZEROS"), struct.pack("<HH2sHI", 0x0009, 0x1010, b"OB", 0, _BOMB_BYTES),
    ))  # fmt: skip
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(head) + packer.flush(zlib.Z_SYNC_FLUSH) + _deflated_zeros()


@cache
def _deflated_zeros() -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    zeros = b"".join(packer.compress(_ZEROS) for _ in range(_BOMB_BYTES >> 20))
    study = _explicit(0x0020, 0x000D, b"UI", b"1.2.9") + _explicit(0x0020, 0x000E, b"UI", b"1.2.9.1")
    return zeros + packer.compress(study) + packer.flush()


_BOMB_BYTES: Final = 64 << 20
_ZEROS: Final = bytes(1 << 20)


def _explicit(group: int, number: int, vr: bytes, value: bytes) -> bytes:
    padded = value + (b"\0" if vr == b"UI" else b" ") * (len(value) % 2)
    return struct.pack("<HH2sH", group, number, vr, len(padded)) + padded


def _store(sock: socket.socket, context: int, data: bytes, name: bytes) -> str:
    head = command(1, 1, has_data=True, t00000002=CT.encode(), t00001000=name)
    sock.sendall(fragments(context, head, is_command=True) + fragments(context, data, is_command=False))
    return _answer(sock)


def deflate_bomb(doors: Doors, source: str, chance: random.Random) -> str:
    """Store a bomb."""
    name = f"1.2.9.{chance.randrange(10**9)}".encode()
    bomb = _bomb(name)
    with _associated(doors, source) as sock:
        return _store(sock, _DEFLATED, bomb, name)


def fuzzed_commands(doors: Doors, source: str, chance: random.Random) -> str:
    """Send a command set with three wrong bytes."""
    whole = bytearray(command(chance.choice((1, 0x20, 0x21, 0x30, 0x0FFF, 0x8001)), 1, has_data=False))
    for _ in range(3):
        whole[chance.randrange(len(whole))] = chance.randrange(256)
    with _associated(doors, source) as sock:
        sock.sendall(fragments(chance.choice((_ECHO, _FIND, _STORE)), bytes(whole), is_command=True))
        sock.shutdown(socket.SHUT_WR)
        return _answer(sock)


def foreign_contexts(doors: Doors, source: str, chance: random.Random) -> str:
    """Use a presentation context that was not accepted, or one in the middle of another one's message."""
    head = command(0x20, 1, has_data=True, t00000002=STUDY_ROOT_FIND.encode())
    with _associated(doors, source) as sock:
        if chance.random() < 0.5:
            sock.sendall(fragments(99, head, is_command=True))
        else:
            sock.sendall(fragments(_FIND, head, is_command=True) + fragments(_STORE, b"data", is_command=False))
        return _answer(sock)


def other_syntax(doors: Doors, source: str, chance: random.Random) -> str:
    """Send a data set in another transfer syntax than the context's."""
    keys = elements({0x00080016: CT.encode(), 0x0020000D: b"1.2.8", 0x0020000E: b"1.2.8.1"})
    with _associated(doors, source) as sock:
        return _store(sock, _DEFLATED, keys, f"1.2.8.{chance.randrange(10**9)}".encode())


def identifiers(doors: Doors, source: str, chance: random.Random) -> str:
    """Ask with an identifier that is too deep, too wide or too long."""
    nested = struct.pack("<HHIHHI", 0x0008, 0x1140, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF) * 10_000
    wide = elements({0x0020000D: b"\\".join([b"1.2"] * 20_000)})
    bomb = chance.choice((nested, wide, bytes((1 << 20) + 2)))
    head = command(0x20, 1, has_data=True, t00000002=STUDY_ROOT_FIND.encode())
    with _associated(doors, source) as sock:
        sock.sendall(fragments(_FIND, head, is_command=True) + fragments(_FIND, bomb, is_command=False))
        return _answer(sock)


def huge_lengths(doors: Doors, source: str, chance: random.Random) -> str:
    """Announce a PDU of 4 GiB, before an association or in one."""
    if chance.random() < 0.5:
        with _connected(doors.dimse, source) as sock:
            sock.sendall(_HEAD.pack(1, 0xFFFFFFFF))
            return _answer(sock)
    with _associated(doors, source) as sock:
        sock.sendall(_HEAD.pack(4, 0xFFFFFFFF))
        return _answer(sock)


def requests(doors: Doors, source: str, chance: random.Random) -> str:
    """Send C-ECHO and C-CANCEL without waiting for answers, and then read those."""
    pairs = [command(0x30, n + 1, has_data=False, t00000002=VERIFICATION.encode()) for n in range(_PIPELINED)]
    cancel = fragments(_ECHO, command(0x0FFF, 1, has_data=False, t00000120=b"\x01\0"), is_command=True)
    with _associated(doors, source) as sock:
        until, answer = time.monotonic() + 2.0 + chance.random(), ""
        while time.monotonic() < until:
            sock.sendall(b"".join(fragments(_ECHO, each, is_command=True) + cancel for each in pairs))
            for _ in pairs:
                answer = _answer(sock)
        return answer


@dataclass(frozen=True, slots=True)
class Attack:
    """One kind of attack: what one attacker does again and again, how many do it at a time from how many addresses, and
    the reactions of which at least one is to be seen."""

    name: str
    act: Act
    reactions: frozenset[str]
    attackers: int = 8
    addresses: int = 4


_TOO_MANY: Final = "A-ASSOCIATE-RJ 2/3/2"


def _attack(name: str, act: Act, reactions: Sequence[str], attackers: int = 8, addresses: int = 4) -> Attack:
    return Attack(name, act, frozenset(reactions), attackers, addresses)


ATTACKS: Final = (
    _attack("slow loris, DICOM", slow_dimse, ["closed"], 60, 4),
    _attack("slow loris, HTTP", slow_http, ["closed"], 100, 4),
    _attack("slow loris, TLS handshake", slow_tls, ["closed"], 100, 4),
    _attack("silent connections, as fast as they can be opened", connections, [_TOO_MANY], 100, 9),
    _attack("objects that are announced and drip, or do not come", objects_that_do_not_come, ["kept for a while"]),
    _attack("associations that are rejected", rejected, ["A-ASSOCIATE-RJ 1/1/2", _TOO_MANY]),
    _attack("TLS handshakes of noise", tls_handshakes, ["closed"]),
    _attack("requests for /metrics", http_requests, ["429"], addresses=1),
    _attack("deflate bombs, 64 MiB in 65 KB", deflate_bomb, ["0000"], 2),
    _attack("fuzzed command sets", fuzzed_commands, ["A-ABORT 2/6"]),
    _attack("foreign presentation contexts", foreign_contexts, ["A-ABORT 2/6", "A-ABORT 2/2"]),
    _attack("another transfer syntax than agreed", other_syntax, ["0000"]),
    _attack("identifier bombs", identifiers, ["A900", "A-ABORT 2/6"]),
    _attack("PDUs of 4 GiB", huge_lengths, ["A-ABORT 2/6"]),
    _attack("C-ECHO and C-CANCEL without a pause", requests, ["0000"]),
)  # fmt: skip


def attack_once(attack: Attack, doors: Doors, number: int, chance: random.Random) -> str:
    """One act of attacker `number`; what breaks off is "cut"."""
    source = f"127.0.66.{1 + number % attack.addresses}"
    try:
        return attack.act(doors, source, chance)
    except _AnsweredError as answered:
        return str(answered)
    except (BrokenPipeError, ConnectionError):
        return "cut"
    except TimeoutError:
        return "no answer"
