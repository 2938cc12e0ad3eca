"""A TCP relay that stands between two DICOM peers and notes every C-STORE that passes, byte for byte.

DCMTK and Orthanc re-encode a file before they send it, so "what was sent" can only be known on the wire. The relay
parses PDUs (PS3.8 section 9.3) and command sets (PS3.7 section 6.3.1) by itself: no library of either side takes part.
It never changes, delays or answers anything.
"""

import contextlib
import hashlib
import socket
import struct
import threading
from dataclasses import dataclass, field

C_STORE_RQ, C_STORE_RSP = 0x0001, 0x8001
P_DATA, ASSOCIATE_RQ, ASSOCIATE_AC = 4, 1, 2


@dataclass(frozen=True, slots=True)
class Sent:
    """One data set that passed: who it is, in which transfer syntax, and the hash of exactly its bytes."""

    sop_class: str
    sop_instance: str
    transfer_syntax: str
    length: int
    sha256: str


@dataclass(slots=True)
class Answer:
    """One C-STORE response: the status, and the request it answers."""

    sop_instance: str
    status: int
    comment: str


def command_elements(data: bytes) -> dict[int, bytes]:
    """Decode a command set: Implicit VR Little Endian, group 0000 only."""
    out, at = {}, 0
    while at + 8 <= len(data):
        element, length = struct.unpack_from("<2xHI", data, at)
        out[element] = data[at + 8 : at + 8 + length]
        at += 8 + length
    return out


def text(value: bytes | None) -> str:
    """A UID or comment without its padding."""
    return (value or b"").rstrip(b"\0 ").decode("ascii", "replace")


@dataclass(slots=True)
class Conversation:
    """What both directions of one connection share: contexts, and requests that wait for their response."""

    syntaxes: dict[int, str] = field(default_factory=dict)
    requested: dict[int, str] = field(default_factory=dict)


class Stream:
    """One direction of one connection: bytes go in, C-STORE requests and responses come out."""

    def __init__(self, tap: "WireTap", conversation: Conversation, outward: bool) -> None:
        self.tap, self.conversation, self.outward = tap, conversation, outward
        self.buffer = bytearray()
        self.command = bytearray()
        self.request: dict[int, bytes] | None = None
        self.hash, self.length = hashlib.sha256(), 0

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the connection."""
        self.buffer += data
        at = 0
        while len(self.buffer) - at >= 6:
            kind, length = struct.unpack_from(">BxI", self.buffer, at)
            if len(self.buffer) - at - 6 < length:
                break
            body = bytes(memoryview(self.buffer)[at + 6 : at + 6 + length])
            at += 6 + length
            if kind == P_DATA:
                self._p_data(body)
            elif kind == ASSOCIATE_AC:
                self._accepted(body)
        del self.buffer[:at]

    def _accepted(self, body: bytes) -> None:
        at = 68
        while at + 4 <= len(body):
            kind, length = struct.unpack_from(">BxH", body, at)
            if kind == 0x21 and body[at + 6] == 0:  # presentation context item, accepted
                sub_length = struct.unpack_from(">H", body, at + 10)[0]
                self.conversation.syntaxes[body[at + 4]] = text(body[at + 12 : at + 12 + sub_length])
            at += 4 + length

    def _p_data(self, body: bytes) -> None:
        at = 0
        while at + 6 <= len(body):
            length, context, control = struct.unpack_from(">IBB", body, at)
            fragment = body[at + 6 : at + 4 + length]
            at += 4 + length
            if control & 1:
                self.command += fragment
                if control & 2:
                    self._command_complete()
            elif self.request is not None:
                self.hash.update(fragment)
                self.length += len(fragment)
                if control & 2:
                    self._data_complete(context)

    def _command_complete(self) -> None:
        command = command_elements(bytes(self.command))
        self.command.clear()
        kind = int.from_bytes(command.get(0x0100, b""), "little")
        if kind == C_STORE_RQ:
            self.request, self.hash, self.length = command, hashlib.sha256(), 0
            self.conversation.requested[int.from_bytes(command[0x0110], "little")] = text(command.get(0x1000))
        elif kind == C_STORE_RSP:
            message = int.from_bytes(command.get(0x0120, b""), "little")
            status = int.from_bytes(command.get(0x0900, b""), "little")
            name = self.conversation.requested.pop(message, "")
            self.tap.note_answer(Answer(name, status, text(command.get(0x0902))), self.outward)

    def _data_complete(self, context: int) -> None:
        assert self.request is not None
        sent = Sent(
            text(self.request.get(0x0002)),
            text(self.request.get(0x1000)),
            self.conversation.syntaxes.get(context, "?"),
            self.length,
            self.hash.hexdigest(),
        )
        self.request = None
        self.tap.note_sent(sent, self.outward)


class WireTap:
    """The relay: listens on `port` of the loopback, forwards to `target` port, notes what passes.

    `sent` and `answers` hold what the connecting side stored at the target; `received` holds what the target stored at
    the connecting side, as C-GET does.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.sent: list[Sent] = []
        self.received: list[Sent] = []
        self.answers: list[Answer] = []
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> "WireTap":
        return self

    def __exit__(self, *exc: object) -> None:
        for sock in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def note_sent(self, sent: Sent, outward: bool) -> None:
        """Remember one data set that is complete on the wire."""
        with self._lock:
            (self.sent if outward else self.received).append(sent)

    def note_answer(self, answer: Answer, outward: bool) -> None:
        """Remember one response; only the target's answers count, because they are what is under test."""
        if not outward:
            with self._lock:
                self.answers.append(answer)

    def acknowledged(self) -> set[str]:
        """The SOP Instance UIDs the target answered with success or a warning."""
        with self._lock:
            return {a.sop_instance for a in self.answers if a.status == 0 or a.status >> 12 == 0xB}

    def newest(self, way: str = "sent") -> dict[str, Sent]:
        """The last data set of every SOP Instance UID that passed (`sent` or `received`)."""
        with self._lock:
            return {s.sop_instance: s for s in getattr(self, way)}

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self.target))
                except OSError:
                    near.close()
                    continue
                for sock in (near, far):
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._open += [near, far]
                talk = Conversation()
                for source, sink, outward in ((near, far, True), (far, near, False)):
                    stream = Stream(self, talk, outward)
                    threading.Thread(target=self._pump, args=(source, sink, stream), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, stream: Stream) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 18):
                stream.feed(data)  # noted before it is passed on: an answer is known to us no later than to the client
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
