"""What every service of one association shares: the channel, who calls, the archive's services, and the answer.

Rule: an operation ends with exactly one final response, sent by `answer`, which also tells the observer.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from keys.errors import CofferError
from server.config import Config
from server.dimse import command as dimse
from server.dimse.channel import Channel, Context
from server.dimse.command import Command, Value
from server.dimse.pdu import INVALID_VALUE, ProtocolError
from server.dimse.services import Caller, Observer, Services
from server.dimse.status import offending_of, status_of

MAX_IDENTIFIER_BYTES: Final = 1 << 20
_LONGEST_UID: Final = 64  # PS3.5 9.1


@dataclass(frozen=True, slots=True)
class Session:
    """One association as its acceptor serves it."""

    channel: Channel
    caller: Caller
    services: Services
    observer: Observer
    config: Config

    def response(self, context: Context, request: Command, status: int, *, has_data: bool = False) -> dict[int, Value]:
        """The elements every response has (PS3.7 9.3)."""
        values: dict[int, Value] = {
            dimse.AFFECTED_CLASS: request.text(dimse.AFFECTED_CLASS) or context.abstract_syntax,
            dimse.FIELD: request.number(dimse.FIELD) | dimse.RESPONSE,
            dimse.RESPONDED_ID: request.number(dimse.MESSAGE_ID),
            dimse.DATA_SET_TYPE: 0 if has_data else dimse.NO_DATA_SET,
            dimse.STATUS: status,
        }
        # Optional in a response (PS3.7 9.1.1.1); an overlong one would make toolkits drop the whole message.
        if 0 < len(request.text(dimse.AFFECTED_INSTANCE)) <= _LONGEST_UID:
            values[dimse.AFFECTED_INSTANCE] = request.text(dimse.AFFECTED_INSTANCE)
        return values

    def answer(
        self,
        context: Context,
        request: Command,
        status: int,
        *,
        comment: str = "",
        offending: tuple[int, ...] = (),
        more: Mapping[int, Value] | None = None,
        data: bytes | None = None,
    ) -> None:
        """Send the final response of an operation."""
        values = self.response(context, request, status, has_data=data is not None)
        if comment:
            values[dimse.COMMENT] = comment
        if offending:
            values[dimse.OFFENDING] = offending
        values.update(more or {})
        self.channel.flush(self.channel.frames(context, values, data))

    def refuse(self, context: Context, request: Command, error: CofferError) -> int:
        """Answer an operation that failed before it began; returns the status sent."""
        status, comment = status_of(error)
        self.answer(context, request, status, comment=comment, offending=offending_of(error))
        return status

    def read_identifier(self, context: Context, request: Command) -> bytes:
        """The identifier that follows a request. Raises ProtocolError where it is absent or beyond 1 MiB."""
        collected = bytearray()

        def take(piece: memoryview) -> None:
            if len(collected) + len(piece) > MAX_IDENTIFIER_BYTES:
                raise ProtocolError("an identifier is too long", INVALID_VALUE)
            collected.extend(piece)

        if request.has_data_set:
            self.channel.read_data(context, take)
        return bytes(collected)

    def is_cancelled(self, request: Command) -> bool:
        """Whether the peer has asked to cancel this operation (PS3.7 9.3.2.3); reads what it has sent."""
        cancelled = False
        while self.channel.has_waiting():
            _, command = self.channel.read_command(self.config.dimse.gap_seconds)
            self.check_cancel(command)
            cancelled |= command.number(dimse.RESPONDED_ID) == request.number(dimse.MESSAGE_ID)
        return cancelled

    @staticmethod
    def check_cancel(command: Command) -> None:
        """Raise ProtocolError for anything but a C-CANCEL: one operation at a time was negotiated."""
        if command.number(dimse.FIELD) != dimse.C_CANCEL:
            raise ProtocolError("a second operation began before the first ended", INVALID_VALUE)

    def stopwatch(self, service: str) -> "Stopwatch":
        """Measures one operation for the observer."""
        return Stopwatch(self.observer, service)


class Stopwatch:
    """Tells the observer how an operation ended and how long it took."""

    __slots__ = ("_observer", "_service", "_started")

    def __init__(self, observer: Observer, service: str) -> None:
        self._observer = observer
        self._service = service
        self._started = time.perf_counter()

    def stop(self, status: int) -> None:
        """The operation ended with this status."""
        self._observer.answered(self._service, status, time.perf_counter() - self._started)
