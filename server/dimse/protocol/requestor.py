"""An association that we request: with a C-MOVE destination, and from the command line and tests.

Rule: opening one either gives a usable association or raises an UnavailableError that names the peer and the cause.
"""

import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Final, Self

from coffer.keys.errors import UnavailableError
from coffer.server.dimse.dialling import connect
from coffer.server.dimse.protocol import command as dimse
from coffer.server.dimse.protocol import negotiation, pdu
from coffer.server.dimse.protocol.channel import AssociationEnded, Channel, Context
from coffer.server.dimse.protocol.command import Value
from coffer.server.dimse.protocol.connection import Connection, ConnectionClosed, PeerSilent
from coffer.server.dimse.protocol.negotiation import Offer
from coffer.server.dimse.protocol.pdu import ProtocolError

_MAX_PDU: Final = 128 << 10
_WAIT_SECONDS: Final = 0.5
_BROKEN: Final = (ConnectionClosed, ProtocolError, AssociationEnded)


class Requestor:
    """An established association as its requestor; a context manager that releases, or aborts after an error."""

    def __init__(  # noqa: PLR0917
        self,
        host: str,
        port: int,
        calling_ae: str,
        called_ae: str,
        offers: Sequence[Offer],
        seconds: float,
        dial: Callable[[], socket.socket] | None = None,
    ) -> None:
        """Connect, by `dial` if it is given, and negotiate; `seconds` bounds every wait. Raises UnavailableError."""
        self._name = f"{called_ae} at {host}:{port}"
        self._seconds = seconds
        self._message_id = 0
        sock = connect(called_ae, host, port, seconds) if dial is None else dial()
        self._connection = Connection(sock, max_pdu=_MAX_PDU, gap_seconds=seconds)
        try:
            self._connection.send([negotiation.request(calling_ae, called_ae, offers, _MAX_PDU)])
            kind, body = self._connection.read_pdu(seconds)
            if kind != pdu.ASSOCIATE_AC:
                raise self._unavailable("refuses the association")
            contexts, peer_max = negotiation.parse_accept(bytes(body), offers)
        except _BROKEN as error:
            self._connection.cut()
            raise self._unavailable("does not answer as DICOM") from error
        except UnavailableError:
            self._connection.cut()
            raise
        self._channel = Channel(self._connection, contexts, peer_max_pdu=peer_max, gap_seconds=seconds)

    @property
    def contexts(self) -> Mapping[int, Context]:
        """The accepted presentation contexts by id."""
        return self._channel.contexts

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:
            self.release()
        else:
            self.abort()

    def store(
        self,
        context: Context,
        sop_instance: str,
        data: Iterable[bytes],
        more: Mapping[int, Value] | None = None,
        *,
        meanwhile: Callable[[], None] = lambda: None,
        waiting: Callable[[], None] = lambda: None,
    ) -> int:
        """C-STORE one data set and return the status that the peer answers. `more` adds elements to the command;
        `meanwhile` is called once when all is sent, `waiting` every half second until the answer arrives.

        Raises UnavailableError if the association breaks, and whatever `data` and the callbacks raise: then only
        `abort` may follow.
        """
        self._message_id = self._message_id % 0xFFFF + 1
        request: dict[int, Value] = {
            dimse.AFFECTED_CLASS: context.abstract_syntax,
            dimse.FIELD: dimse.C_STORE,
            dimse.MESSAGE_ID: self._message_id,
            dimse.PRIORITY: dimse.MEDIUM,
            dimse.DATA_SET_TYPE: 0,
            dimse.AFFECTED_INSTANCE: sop_instance,
            **(more or {}),
        }
        return self._exchange(context, request, data, meanwhile, waiting)

    def echo(self) -> int:
        """C-ECHO on the first accepted context, and return the status that the peer answers (PS3.7 9.1.5). Raises
        UnavailableError if no context was accepted, or the association breaks."""
        context = next(iter(self.contexts.values()), None)
        if context is None:
            raise self._unavailable("accepts no Verification")
        self._message_id = self._message_id % 0xFFFF + 1
        request: dict[int, Value] = {
            dimse.AFFECTED_CLASS: context.abstract_syntax,
            dimse.FIELD: dimse.C_ECHO,
            dimse.MESSAGE_ID: self._message_id,
            dimse.DATA_SET_TYPE: dimse.NO_DATA_SET,
        }
        return self._exchange(context, request, None)

    def _exchange(
        self,
        context: Context,
        request: Mapping[int, Value],
        data: Iterable[bytes] | None,
        meanwhile: Callable[[], None] = lambda: None,
        waiting: Callable[[], None] = lambda: None,
    ) -> int:
        """Send a request and return the status of the response to it."""
        try:
            self._channel.send(context, request, data)
            meanwhile()
            deadline = time.monotonic() + self._seconds
            while not self._channel.has_waiting(_WAIT_SECONDS) and time.monotonic() < deadline:
                waiting()
            _, answer = self._channel.read_command(max(deadline - time.monotonic(), _WAIT_SECONDS))
        except PeerSilent as error:
            raise self._unavailable("does not answer in time") from error
        except _BROKEN as error:
            raise self._unavailable("broke the association") from error
        if answer.number(dimse.FIELD) != int(str(request[dimse.FIELD])) | dimse.RESPONSE:
            raise self._unavailable("sent an unexpected response")
        return answer.number(dimse.STATUS)

    def release(self) -> None:
        """Release the association; closes the connection in any case."""
        try:
            self._connection.send([pdu.release(pdu.RELEASE_RQ)])
            self._connection.read_pdu(self._seconds)
        except _BROKEN:
            pass
        finally:
            self._connection.cut()

    def abort(self) -> None:
        """End the association at once."""
        try:
            self._connection.send([pdu.abort(pdu.USER, pdu.NOT_SPECIFIED)])
        except ConnectionClosed:
            pass
        finally:
            self._connection.cut()

    def _unavailable(self, what: str) -> UnavailableError:
        return UnavailableError(f"{self._name} {what}", hint="check AE titles and what the peer accepts")
