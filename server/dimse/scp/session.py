"""What the operations of one association share, and one operation: read what the peer sends, answer it once.

Rule: every operation ends with exactly one final response, sent by `Operation.answer`; the same call notifies the
observer and logs failures. So no refusal can go uncounted or unexplained.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from coffer.keys.errors import CofferError
from coffer.server.access.decision import Policy
from coffer.server.access.principal import Principal
from coffer.server.config.settings import Config
from coffer.server.dimse.dialling import Dial
from coffer.server.dimse.protocol import command as dimse
from coffer.server.dimse.protocol.channel import Channel, Context
from coffer.server.dimse.protocol.command import Command, Value
from coffer.server.dimse.protocol.pdu import INVALID_VALUE, ProtocolError
from coffer.server.dimse.protocol.status import CANCEL, SUCCESS, fit, offending_of, status_of
from coffer.server.observe.logs import get_logger
from coffer.server.observe.reached import Abort
from coffer.server.services.api import Observer, Services

_log = get_logger()

MAX_IDENTIFIER_BYTES: Final = 1 << 20
_LONGEST_UID: Final = 64  # PS3.5 9.1
_NAMES: Final = {
    dimse.C_STORE: "store",
    dimse.C_FIND: "find",
    dimse.C_MOVE: "move",
    dimse.C_GET: "get",
    dimse.C_ECHO: "echo",
}


@dataclass(frozen=True, slots=True)
class Session:
    """What all operations of one association use."""

    channel: Channel
    caller: Principal
    policy: Policy
    services: Services
    observer: Observer
    config: Config
    dial: Dial


class Operation:
    """One request until its final response; created when its command set has arrived."""

    def __init__(self, session: Session, context: Context, request: Command) -> None:
        self.session = session
        self.context = context
        self.request = request
        self.service = _NAMES.get(request.number(dimse.FIELD), "other")
        self.is_answered = False
        self.status: int | None = None  # of the final response
        self._started = time.perf_counter()

    def response(self, status: int, *, has_data: bool = False) -> dict[int, Value]:
        """The elements every response has (PS3.7 9.3)."""
        request = self.request
        values: dict[int, Value] = {
            dimse.AFFECTED_CLASS: request.text(dimse.AFFECTED_CLASS) or self.context.abstract_syntax,
            dimse.FIELD: request.number(dimse.FIELD) | dimse.RESPONSE,
            dimse.RESPONDED_ID: request.number(dimse.MESSAGE_ID),
            dimse.DATA_SET_TYPE: 0 if has_data else dimse.NO_DATA_SET,
            dimse.STATUS: status,
        }
        # Optional in a response (PS3.7 9.1.1.1); an overlong UID would make toolkits drop the whole message.
        if 0 < len(request.text(dimse.AFFECTED_INSTANCE)) <= _LONGEST_UID:
            values[dimse.AFFECTED_INSTANCE] = request.text(dimse.AFFECTED_INSTANCE)
        return values

    def answer(
        self,
        status: int,
        *,
        cause: str = "",
        remedy: str = "",
        offending: tuple[int, ...] = (),
        more: Mapping[int, Value] | None = None,
        data: bytes | None = None,
    ) -> None:
        """Send the final response. `cause` is logged completely; the Error Comment holds its first 64 characters.

        Raises ConnectionClosed; the outcome is counted and logged even so.
        """
        self.is_answered, self.status = True, status
        self._record(status, cause, remedy)
        values = self.response(status, has_data=data is not None)
        if cause:
            values[dimse.COMMENT] = fit(cause)
        if offending:
            values[dimse.OFFENDING] = offending
        values.update(more or {})
        self.session.channel.flush(self.session.channel.frames(self.context, values, data))

    def refuse(self, error: CofferError) -> None:
        """Answer with the status, comment and offending elements of the error that ended the operation."""
        status, _ = status_of(error)
        self.answer(status, cause=str(error), remedy=error.hint(), offending=offending_of(error))

    def _record(self, status: int, cause: str, remedy: str) -> None:
        session = self.session
        # A stored object is counted where it is committed: there its size and whether it is new are known.
        if (self.service, status) != ("store", SUCCESS):
            session.observer.answered(self.service, status, time.perf_counter() - self._started)
        if status not in (SUCCESS, CANCEL):
            _log.warning(
                "operation failed",
                name="operation.failed",
                service=self.service,
                status=f"{status:04X}",
                cause=cause,
                remedy=remedy,
                calling_ae=session.caller.ae_title,
                host=session.caller.host,
            )

    def read_identifier(self) -> bytes:
        """The identifier that follows the request. Raises ProtocolError if it is larger than 1 MiB."""
        collected = bytearray()

        def take(piece: memoryview) -> None:
            if len(collected) + len(piece) > MAX_IDENTIFIER_BYTES:
                raise ProtocolError("an identifier is too long", INVALID_VALUE, Abort.IDENTIFIER_LENGTH)
            collected.extend(piece)

        if self.request.has_data_set:
            self.session.channel.read_data(self.context, take)
        return bytes(collected)

    def discard_data(self) -> None:
        """Read the data set that follows the request, if there is one, and discard it."""
        if self.request.has_data_set:
            self.session.channel.read_data(self.context, lambda _: None)

    def is_cancelled(self) -> bool:
        """Whether the peer has cancelled this operation (PS3.7 9.3.2.3); reads what the peer has sent meanwhile.

        Raises the errors of `Channel.read_command`.
        """
        cancelled = False
        while self.session.channel.has_waiting():
            _, command = self.session.channel.read_command(self.session.config.dimse.gap_seconds)
            cancelled |= self.is_cancel(command)
        return cancelled

    def is_cancel(self, command: Command) -> bool:
        """Whether a command that arrived during this operation cancels it.

        Raises ProtocolError for anything but a C-CANCEL: one operation at a time was negotiated.
        """
        if command.number(dimse.FIELD) != dimse.C_CANCEL:
            raise ProtocolError("a second operation began before the first ended", INVALID_VALUE)
        return command.number(dimse.RESPONDED_ID) == self.request.number(dimse.MESSAGE_ID)
