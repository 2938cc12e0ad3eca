"""A DICOM peer without opinions: it sends and takes what toolkits refuse, and can misbehave where it is told to.

It opens associations and cuts PDUs with the product's own pieces; what comes in is decoded by the wire tap's code.
"""

import contextlib
import dataclasses
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Self

from coffer.server.dimse.protocol import command as dimse
from coffer.server.dimse.protocol import negotiation, pdu
from coffer.server.dimse.protocol.channel import Channel, Context
from coffer.server.dimse.protocol.command import Value
from coffer.server.dimse.protocol.connection import Connection, ConnectionClosed
from coffer.server.dimse.protocol.negotiation import Offer
from tests.peers.wiretap import command_elements, text

MAX_PDU = 128 << 10
SECONDS = 20.0


class Broken(Exception):
    """The other side ended the association: `pdu` is what it sent, empty where it only closed."""

    def __init__(self, kind: int = 0, body: bytes = b"") -> None:
        super().__init__(f"PDU {kind} {body.hex()}")
        self.kind, self.body = kind, body


@dataclasses.dataclass(frozen=True, slots=True)
class Message:
    """One DIMSE message as it came: command elements of group 0000, the data set, and its context."""

    context: Context
    elements: Mapping[int, bytes]
    data: bytes | None

    def number(self, element: int) -> int:
        """A US element; -1 where it is absent."""
        raw = self.elements.get(element)
        return -1 if raw is None else int.from_bytes(raw, "little")

    def text(self, element: int) -> str:
        """A text element without its padding."""
        return text(self.elements.get(element))

    @property
    def status(self) -> int:
        return self.number(dimse.STATUS)

    @property
    def comment(self) -> str:
        return self.text(dimse.COMMENT)

    @property
    def offending(self) -> list[int]:
        """The tags of (0000,0901)."""
        raw = self.elements.get(dimse.OFFENDING, b"")
        tags = [raw[at : at + 4] for at in range(0, len(raw), 4)]
        return [int.from_bytes(t[:2], "little") << 16 | int.from_bytes(t[2:], "little") for t in tags]

    @property
    def counters(self) -> tuple[int, int, int, int]:
        """Remaining, completed, failed, warning; -1 for one that is absent."""
        remaining, completed, failed, warning = map(
            self.number, (dimse.REMAINING, dimse.COMPLETED, dimse.FAILED, dimse.WARNING)
        )
        return remaining, completed, failed, warning


class Association:
    """Messages over an established association, in either role."""

    def __init__(self, connection: Connection, contexts: Mapping[int, Context], peer_max: int) -> None:
        self.contexts = contexts
        self.connection = connection
        self._channel = Channel(connection, contexts, peer_max_pdu=peer_max, gap_seconds=SECONDS)

    def context(self, abstract_syntax: str) -> Context:
        """The first accepted context for an abstract syntax."""
        return next(c for c in self.contexts.values() if c.abstract_syntax == abstract_syntax)

    def send(self, context: Context, command: Mapping[int, Value], data: bytes | Iterable[bytes] | None = None) -> None:
        """Send one message; its data set whole or in pieces."""
        kind = dimse.NO_DATA_SET if data is None else 0
        pieces = [data] if isinstance(data, bytes) else data
        self._channel.send(context, {dimse.DATA_SET_TYPE: kind, **command}, pieces)

    def receive(self) -> Message:
        """The next message. Raises Broken when the association ends instead."""
        command, data, has_data = bytearray(), bytearray(), False
        elements: dict[int, bytes] = {}
        while True:
            try:
                kind, body = self.connection.read_pdu(SECONDS)
            except ConnectionClosed as error:
                raise Broken from error
            if kind != pdu.P_DATA:
                raise Broken(kind, bytes(body))
            for pdv in pdu.split(body):
                (command if pdv.is_command else data).extend(pdv.data)
                if not pdv.is_last:
                    continue
                context = self.contexts[pdv.context_id]
                if not pdv.is_command:
                    return Message(context, elements, bytes(data))
                elements = command_elements(bytes(command))
                has_data = int.from_bytes(elements[dimse.DATA_SET_TYPE], "little") != dimse.NO_DATA_SET
                if not has_data:
                    return Message(context, elements, None)

    def answer_store(self, request: Message, status: int) -> None:
        """Answer a C-STORE request."""
        response = {
            dimse.AFFECTED_CLASS: request.text(dimse.AFFECTED_CLASS),
            dimse.FIELD: dimse.C_STORE | dimse.RESPONSE,
            dimse.RESPONDED_ID: request.number(dimse.MESSAGE_ID),
            dimse.STATUS: status,
        }
        self.send(request.context, response)


class RawRequestor(Association):
    """An association that it asks for; established on return. Raises Broken where it is refused."""

    def __init__(
        self,
        port: int,
        offers: Sequence[Offer],
        calling: str = "TESTER",
        called: str = "COFFER",
        source: str = "",
        sock: socket.socket | None = None,
    ) -> None:
        """`source` is the address that it comes from; `sock` a connection that is there already, then `port` counts
        for nothing."""
        if sock is None:
            sock = socket.create_connection(("127.0.0.1", port), SECONDS, (source, 0) if source else None)
        connection = Connection(sock, max_pdu=MAX_PDU, gap_seconds=SECONDS)
        connection.send([negotiation.request(calling, called, offers, MAX_PDU)])
        kind, body = connection.read_pdu(SECONDS)
        if kind != pdu.ASSOCIATE_AC:
            raise Broken(kind, bytes(body))
        super().__init__(connection, *negotiation.parse_accept(bytes(body), offers))
        self._message_id = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(ConnectionClosed):
            self.connection.send([pdu.release(pdu.RELEASE_RQ)])
        self.connection.cut()

    def request(
        self,
        context: Context,
        field: int,
        data: bytes | Iterable[bytes] | None = None,
        *,
        sop_class: str = "",
        **more: Value,
    ) -> int:
        """Send a request; `more` names elements as in `server.dimse.protocol.command`. Returns its Message ID."""
        self._message_id += 1
        named = {getattr(dimse, name): value for name, value in more.items()}
        command = {
            dimse.AFFECTED_CLASS: sop_class or context.abstract_syntax,
            dimse.FIELD: field,
            dimse.MESSAGE_ID: self._message_id,
            dimse.PRIORITY: dimse.MEDIUM,
            **named,
        }
        self.send(context, command, data)
        return self._message_id

    def cancel(self, context: Context, message_id: int) -> None:
        """Send a C-CANCEL for a request."""
        self.send(context, {dimse.FIELD: dimse.C_CANCEL, dimse.RESPONDED_ID: message_id})

    def responses(self, keep: Callable[[Message], int] = lambda _: 0) -> Iterator[Message]:
        """The responses up to the final one; C-STORE requests in between go to `keep`, which gives their status."""
        while True:
            message = self.receive()
            if message.number(dimse.FIELD) == dimse.C_STORE:
                self.answer_store(message, keep(message))
                continue
            yield message
            if message.status not in (0xFF00, 0xFF01):
                return

    def final(self, keep: Callable[[Message], int] = lambda _: 0) -> Message:
        """The final response."""
        return list(self.responses(keep))[-1]


class RawDestination:
    """A storage SCP on `port` (0: any) of the loopback that takes every transfer syntax, or those of `syntaxes`.

    `came` holds every C-STORE request with the number of its association, from 0. `answer` decides the status; None
    aborts the association.
    """

    def __init__(
        self,
        answer: Callable[[Message], int | None] = lambda _: 0,
        syntaxes: Sequence[str] | None = None,
        port: int = 0,
    ) -> None:
        self._answer, self._syntaxes = answer, syntaxes
        self.came: list[tuple[int, Message]] = []
        self.associations = 0
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    @property
    def data(self) -> dict[str, bytes]:
        """The data sets that came, by SOP Instance UID."""
        return {m.text(dimse.AFFECTED_INSTANCE): m.data or b"" for _, m in self.came}

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            number, self.associations = self.associations, self.associations + 1
            connection = Connection(sock, max_pdu=MAX_PDU, gap_seconds=SECONDS)
            try:
                self._one(connection, number)
            except (Broken, ConnectionClosed):
                pass
            finally:
                connection.cut()

    def _one(self, connection: Connection, number: int) -> None:
        kind, body = connection.read_pdu(SECONDS)
        if kind != pdu.ASSOCIATE_RQ:
            raise Broken(kind)
        request = negotiation.parse_request(bytes(body))
        if self._syntaxes is not None:
            wanted = self._syntaxes
            offers = tuple(
                dataclasses.replace(o, transfer_syntaxes=tuple(t for t in o.transfer_syntaxes if t in wanted))
                for o in request.offers
            )
            request = dataclasses.replace(request, offers=offers)
        accepted, contexts = negotiation.accept(request, accept_unknown=True, max_pdu=MAX_PDU)
        connection.send([accepted])
        association = Association(connection, contexts, request.max_pdu)
        while True:
            try:
                message = association.receive()
            except Broken as ended:
                if ended.kind == pdu.RELEASE_RQ:
                    connection.send([pdu.release(pdu.RELEASE_RP)])
                return
            self.came.append((number, message))
            status = self._answer(message)
            if status is None:
                connection.send([pdu.abort(pdu.USER, pdu.NOT_SPECIFIED)])
                return
            association.answer_store(message, status)
