"""DIMSE messages over one established association: command sets and data sets in and out (PS3.7 6.3, 8; PS3.8 E).

Rule: a data set is passed on piece by piece and never collected here; only command sets are, up to a limit. The order
of fragments is enforced: command before data, one message at a time, one context per message.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from coffer.server.dimse.protocol import pdu
from coffer.server.dimse.protocol.command import MAX_COMMAND_BYTES, Command, Value, encode_command, parse_command
from coffer.server.dimse.protocol.connection import Connection, PeerSilent
from coffer.server.dimse.protocol.pdu import Pdv, ProtocolError
from coffer.server.observe.reached import Abort

_SEND_BYTES: Final = 1 << 20  # about what is handed to the kernel at once
_MOST_FRAMES: Final = 4096
_LEAST_BYTES: Final = 256  # what even the smallest piece takes in memory
_LARGEST_PDU: Final = 128 << 10  # of ours, if the peer sets no limit
LEAST_BYTES_A_SECOND: Final = 16 << 10  # of a message that takes longer than it may at first
_FOREVER: Final = float("inf")


Frames = list[bytes | memoryview]


class AssociationEnded(Exception):  # noqa: N818  # the ordinary end: the peer released or aborted
    """The peer has ended the association; `is_release`: by a release, not by an abort."""

    def __init__(self, *, is_release: bool) -> None:
        super().__init__("released" if is_release else "aborted by the peer")
        self.is_release = is_release


class Context(NamedTuple):
    """One accepted presentation context; `requestor_is_scp`: its requestor takes C-STORE requests (C-GET)."""

    context_id: int
    abstract_syntax: str
    transfer_syntax: str
    requestor_is_scp: bool = False


class Channel:
    """The messages of one association, for its acceptor or its requestor. Used by one thread."""

    def __init__(
        self,
        connection: Connection,
        contexts: Mapping[int, Context],
        *,
        peer_max_pdu: int,
        gap_seconds: float,
        message_seconds: float = _FOREVER,
    ) -> None:
        """A message may take `message_seconds`, and a second more for each `LEAST_BYTES_A_SECOND` that have arrived."""
        self._connection = connection
        self.contexts = contexts
        limit = min(peer_max_pdu or _LARGEST_PDU, _LARGEST_PDU)
        self._fragment = max(limit - pdu.PDV_OVERHEAD, 2) & ~1
        self._gap_seconds = gap_seconds
        self._message_seconds = message_seconds
        self._until = 0.0  # when the message that is arriving must be complete; 0: none is
        self._waiting: deque[Pdv] = deque()
        self._held: Frames = []

    def read_command(self, wait_seconds: float) -> tuple[Context, Command]:
        """The next message's command set. Raises AssociationEnded, ConnectionClosed, ProtocolError."""
        collected = bytearray()
        context_id = None
        self._until = 0.0
        while True:
            pdv = self._next(wait_seconds if context_id is None else self._gap_seconds)
            if not pdv.is_command or context_id not in (None, pdv.context_id):
                raise ProtocolError("a data fragment where a command was expected", pdu.UNEXPECTED_PDU)
            self._until = self._until or time.monotonic() + self._message_seconds
            context_id = pdv.context_id
            collected += pdv.data
            if len(collected) > MAX_COMMAND_BYTES:
                raise ProtocolError("a command set is too long", pdu.INVALID_VALUE, Abort.COMMAND_LENGTH)
            if pdv.is_last:
                return self.contexts[context_id], parse_command(collected)

    def read_data(self, context: Context, take: Callable[[memoryview], None]) -> None:
        """Pass the data set that follows a command to `take`, piece by piece. Raises the errors of `read_command`."""
        while True:
            pdv = self._next(self._gap_seconds)
            if pdv.is_command or pdv.context_id != context.context_id:
                raise ProtocolError("a data set is interrupted", pdu.UNEXPECTED_PDU)
            take(pdv.data)
            if pdv.is_last:
                return

    def has_waiting(self, seconds: float = 0.0) -> bool:
        """Whether anything that the peer has sent is unread, or arrives within `seconds`."""
        return bool(self._waiting) or self._connection.is_readable(seconds)

    def _next(self, wait_seconds: float) -> Pdv:
        while not self._waiting:
            kind, body = self._read_pdu(wait_seconds)
            if kind == pdu.P_DATA:
                self._waiting.extend(pdu.split(body))
            elif kind == pdu.RELEASE_RQ:
                raise AssociationEnded(is_release=True)
            elif kind == pdu.ABORT:
                raise AssociationEnded(is_release=False)
            else:
                raise ProtocolError("an unexpected PDU", pdu.UNEXPECTED_PDU)
        pdv = self._waiting.popleft()
        if pdv.context_id not in self.contexts:
            raise ProtocolError("a presentation context that was not accepted", pdu.INVALID_VALUE, Abort.CONTEXTS)
        return pdv

    def _read_pdu(self, wait_seconds: float) -> tuple[int, memoryview]:
        """The next PDU, which belongs to the message that is arriving, if one is."""
        try:
            kind, body = self._connection.read_pdu(wait_seconds)
        except PeerSilent as error:
            if self._until:  # between two PDUs of a message
                error.counted = Abort.GAP
            raise
        if self._until:
            self._until += len(body) / LEAST_BYTES_A_SECOND
            if time.monotonic() > self._until:
                raise PeerSilent("a message took too long", Abort.MESSAGE)
        return kind, body

    def send(self, context: Context, command: Mapping[int, Value], data: Iterable[bytes] | None = None) -> int:
        """Send one message; `data` yields the data set in pieces of any size. Returns the length of the data set.

        Raises ConnectionClosed. If `data` itself raises, the message stays unfinished: only an abort may follow.
        """
        frames = self._held + self.frames(context, command)
        self._held = []
        if data is None:
            self._connection.send(frames)
            return 0
        return self._send_data(context, data, frames)

    def frames(self, context: Context, command: Mapping[int, Value], data: bytes | None = None) -> Frames:
        """The PDUs of a small message, which `flush` sends together with others."""
        frames = self._fragments(context, memoryview(encode_command(command)), is_command=True)
        if data is not None:
            frames += self._fragments(context, memoryview(data), is_command=False)
        return frames

    def flush(self, frames: Frames) -> None:
        """Send PDUs that `frames` made. Raises ConnectionClosed."""
        frames, self._held = self._held + frames, []
        self._connection.send(frames)

    def hold(self, frames: Frames) -> None:
        """Send PDUs that `frames` made together with the next ones; the caller is about to send some."""
        self._held += frames

    def _fragments(self, context: Context, data: memoryview, *, is_command: bool) -> Frames:
        out: Frames = []
        starts = range(0, max(len(data), 1), self._fragment)
        for start in starts:
            piece = data[start : start + self._fragment]
            is_last = start == starts[-1]
            out += pdu.data_header(context.context_id, len(piece), is_command=is_command, is_last=is_last), piece
        return out

    def _send_data(self, context: Context, data: Iterable[bytes], frames: Frames) -> int:
        """Cut the pieces into full fragments; the newest one is held back, because only the last is marked as such."""
        total, gathered, room = 0, 0, self._fragment
        newest: list[memoryview] = []

        def close(*, is_last: bool) -> None:
            size = self._fragment - room
            frames.append(pdu.data_header(context.context_id, size, is_command=False, is_last=is_last))
            frames.extend(newest)
            newest.clear()

        for piece in data:
            total += len(piece)
            gathered += max(len(piece), _LEAST_BYTES)
            view = memoryview(piece)
            while view:
                if not room:
                    close(is_last=False)
                    room = self._fragment
                    if len(frames) >= _MOST_FRAMES:  # to a peer that takes tiny PDUs, one piece is millions of them
                        self._connection.send(frames)
                        frames = []
                newest.append(view[:room])
                view = view[room:]
                room -= len(newest[-1])
            if gathered >= _SEND_BYTES:
                self._connection.send(frames)
                frames, gathered = [], 0
        close(is_last=True)
        self._connection.send(frames)
        return total
