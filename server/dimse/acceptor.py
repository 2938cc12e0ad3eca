"""One incoming association from its first byte to its last: negotiate, serve one message after another, close properly.

Rule: whatever the peer does, `serve` returns in bounded time, the connection is closed, and no other association is
affected. A violation of PS3.8 is answered with the A-ABORT of Table 9-26 that names it.
"""

import threading
import time
from collections import Counter
from typing import Final

from coffer.keys.errors import UnavailableError
from coffer.server.access.decision import Policy
from coffer.server.access.principal import Principal
from coffer.server.config.settings import Config
from coffer.server.dimse.dialling import Dial, dial_plain
from coffer.server.dimse.protocol import command as dimse
from coffer.server.dimse.protocol import negotiation, pdu
from coffer.server.dimse.protocol.associate import APPLICATION_CONTEXT
from coffer.server.dimse.protocol.channel import AssociationEnded, Channel, Context
from coffer.server.dimse.protocol.command import Command
from coffer.server.dimse.protocol.connection import Connection, ConnectionClosed, PeerSilent
from coffer.server.dimse.protocol.negotiation import AssociationRequest, Rejection
from coffer.server.dimse.protocol.pdu import ProtocolError
from coffer.server.dimse.protocol.status import CLASS_NOT_SUPPORTED, SUCCESS, UNRECOGNISED_OPERATION, DimseStatusError
from coffer.server.dimse.scp.echo_scp import serve_echo
from coffer.server.dimse.scp.find_scp import serve_find
from coffer.server.dimse.scp.get_scp import serve_get
from coffer.server.dimse.scp.move_scp import serve_move
from coffer.server.dimse.scp.session import Operation, Session
from coffer.server.dimse.scp.store_scp import serve_store
from coffer.server.host.headroom import refusal_of
from coffer.server.host.rate import Rates, source_of
from coffer.server.identity.claim import AssociationClaim, Refusal
from coffer.server.observe.logs import get_logger
from coffer.server.observe.reached import Abort, Limit
from coffer.server.services.api import Gate, Observer, Services

_log = get_logger()
_REFUSALS: Final = {Refusal.CALLING_AE: negotiation.UNKNOWN_CALLING_AE, Refusal.IDENTITY: negotiation.UNPROVED}
_NAMES: Final = {
    dimse.C_STORE: "stores",
    dimse.C_FIND: "finds",
    dimse.C_MOVE: "moves",
    dimse.C_GET: "gets",
    dimse.C_ECHO: "echoes",
}


class Acceptor:
    """Serves one connection. `serve` runs in the connection's own thread; `abort`, `withdraw` and `end_overdue` may
    be called from another."""

    def __init__(  # noqa: PLR0917  # what an association needs
        self,
        connection: Connection,
        host: str,
        config: Config,
        policy: Policy,
        services: Services | None,
        observer: Observer,
        gate: Gate | None,
        dial: Dial = dial_plain,
        rates: Rates | None = None,
    ) -> None:
        """Without `services` and `gate` the association is rejected because there are too many. C-MOVE destinations are
        called by `dial`. `rates` bounds the requests of a caller, over all associations of this process."""
        self._connection = connection
        self._host = host
        self._dial = dial
        self._config = config
        self._policy = policy
        self._services = services
        self._observer = observer
        self._gate = gate
        self._rates = rates
        self._over = threading.Event()  # set by `abort`
        self._ended_for = Abort.ORDERED
        self._ends_at: float | None = None  # set by `withdraw`
        self._is_established = False
        self.is_used = False  # whether the peer has sent any request
        self.idle_since: float | None = time.monotonic()  # None during an operation

    def serve(self) -> None:
        """Serve until the association ends. Raises no exception that a peer can cause."""
        gracefully = False
        try:
            request = self._read_request()
            caller = self._rejection(request) or self._caller(request)
            if isinstance(caller, Rejection):
                self._reject(request, caller)
                gracefully = True
                return
            assert self._services is not None
            self._serve(request, caller, self._services)
        except AssociationEnded as ended:
            if ended.is_release:
                self._send_last(pdu.release(pdu.RELEASE_RP))
                gracefully = True
        except ProtocolError as error:
            _log.warning("association aborted", name="association.aborted", cause=str(error), host=self._host)
            self._observer.aborted(error.counted)
            self._send_last(pdu.abort(error.source, error.reason))
            gracefully = True
        except PeerSilent as error:
            _log.info("association aborted", name="association.aborted", cause=str(error), host=self._host)
            self._observer.aborted(error.counted)
            self._send_last(pdu.abort(pdu.PROVIDER, pdu.NOT_SPECIFIED))
            gracefully = True
        except ConnectionClosed as error:
            if self._over.is_set():
                self._observer.aborted(self._ended_for)
            _log.info("association lost", name="association.lost", cause=str(error), host=self._host)
        except Exception:
            self._observer.aborted(Abort.INTERNAL)
            self._send_last(pdu.abort(pdu.PROVIDER, pdu.NOT_SPECIFIED))  # our own fault: the peer must not wait
            gracefully = True
            raise
        finally:
            self._connection.close(gracefully=gracefully)

    @property
    def is_idle(self) -> bool:
        """Whether no operation is running."""
        return self.idle_since is not None

    def abort(self) -> None:
        """End the association at once: the server is stopping, or another association needs the place more."""
        self._over.set()
        if self._is_established:
            self._send_last(pdu.abort(pdu.PROVIDER, pdu.NOT_SPECIFIED))
        self._connection.cut()

    def withdraw(self, seconds: float) -> None:
        """End the association, whose peer would not be let in any more: now, or after the operation under way if that
        ends within `seconds`; `end_overdue` does the rest."""
        self._ended_for, self._ends_at = Abort.WITHDRAWN, time.monotonic() + seconds
        if self.is_idle:
            self.abort()

    def end_overdue(self) -> None:
        """Cut the connection if the operation under way has taken longer than `withdraw` gave it: a PDU may be half
        sent, so none can follow."""
        if self._ends_at is not None and time.monotonic() > self._ends_at:
            self._over.set()
            self._connection.cut()

    def _read_request(self) -> AssociationRequest:
        try:
            kind, body = self._connection.read_pdu(self._config.dimse.handshake_seconds, whole=True)
        except PeerSilent as error:  # PS3.8 AA-2: there is no association to abort yet
            self._observer.aborted(Abort.FIRST_PDU)
            raise ConnectionClosed(str(error)) from error
        if kind == pdu.ABORT:
            raise AssociationEnded(is_release=False)
        if kind != pdu.ASSOCIATE_RQ:
            raise ProtocolError("the first PDU is not an association request", pdu.UNEXPECTED_PDU)
        return negotiation.parse_request(bytes(body))

    def _rejection(self, request: AssociationRequest) -> Rejection | None:
        settings = self._config.dimse
        if request.application_context != APPLICATION_CONTEXT:
            return negotiation.WRONG_APPLICATION_CONTEXT
        if not request.calling_ae:  # blank, or no title: nobody could tell later who sent what
            return negotiation.UNKNOWN_CALLING_AE
        if settings.require_called_ae and request.called_ae != settings.ae_title:
            return negotiation.UNKNOWN_CALLED_AE
        return negotiation.TOO_MANY if self._gate is None else None

    def _caller(self, request: AssociationRequest) -> Principal | Rejection:
        """Who calls, as the gate says, or the rejection of one whom it does not let in."""
        assert self._gate is not None
        try:
            found = self._gate.admit(AssociationClaim(request.calling_ae, request.called_ae, request.identity))
        except UnavailableError:
            return negotiation.CONGESTED
        return _REFUSALS[found] if isinstance(found, Refusal) else found

    def _reject(self, request: AssociationRequest, rejection: Rejection) -> None:
        _log.warning(
            "association rejected",
            name="association.rejected",
            reason=rejection.word,
            calling_ae=request.calling_ae,
            host=self._host,
        )
        self._observer.rejected(rejection.word)
        self._send_last(negotiation.reject(rejection))

    def _serve(self, request: AssociationRequest, caller: Principal, services: Services) -> None:
        settings = self._config.dimse
        answer, contexts = negotiation.accept(
            request, accept_unknown=self._config.storage.accept_unknown_sop_classes, max_pdu=settings.max_pdu
        )
        self._connection.send([answer])
        self._is_established = True
        channel = Channel(
            self._connection, contexts, peer_max_pdu=request.max_pdu, gap_seconds=settings.gap_seconds,
            message_seconds=settings.message_seconds,
        )  # fmt: skip
        until = time.monotonic() + settings.association_seconds
        session = Session(channel, caller, self._policy, services, self._observer, self._config, self._dial)
        self._observer.association_opened()
        served: Counter[str] = Counter()
        try:
            while True:
                self.idle_since = time.monotonic()
                context, command = self._next_command(channel, until)
                self.idle_since, self.is_used = None, True
                operation = Operation(session, context, command)
                # PS3.7 9.3.2.3: a cancel that arrives after the final response is no error
                if command.number(dimse.FIELD) != dimse.C_CANCEL:
                    _answer_one(operation)
                    served[_NAMES.get(command.number(dimse.FIELD), "other")] += 1
                self._slow_down(operation, caller)
        finally:
            self._observer.association_closed()
            _log.info(
                "association ended", name="association.ended", calling_ae=request.calling_ae, host=self._host, **served
            )

    def _next_command(self, channel: Channel, until: float) -> tuple[Context, Command]:
        """The next message's command set, before the association's life is over at `until` (monotonic, s)."""
        idle, left = self._config.dimse.idle_seconds, until - time.monotonic()
        if self._ends_at is not None:  # since `withdraw` looked whether an operation was under way
            raise PeerSilent("what let the peer in does so no longer", Abort.WITHDRAWN)
        try:
            if left > 0:
                return channel.read_command(min(idle, left))
        except PeerSilent as error:
            if left >= idle or error.counted is not Abort.IDLE:
                raise
        raise PeerSilent("the association has lasted as long as one may", Abort.LIFETIME)

    def _slow_down(self, operation: Operation, caller: Principal) -> None:
        """Wait before the next request is read, if the caller sends too many. An object that was stored is none: it
        costs its sender as much as us."""
        if self._rates is None or (operation.service == "store" and operation.status == SUCCESS):
            return
        wait = self._rates.wait_seconds(f"user {caller.user}" if caller.user else source_of(self._host))
        if wait > 0:
            self._observer.limited(Limit.REQUEST_RATE)
            self._over.wait(wait)

    def _send_last(self, data: bytes) -> None:
        try:
            self._connection.send([data])
        except ConnectionClosed:
            _log.debug("the peer was gone before our last PDU", name="association.peer_gone", host=self._host)


def _answer_one(operation: Operation) -> None:
    """Run one operation to its final response, even if the process runs out of something that it needs."""
    try:
        _serve_one(operation)
    except (OSError, RuntimeError, MemoryError) as error:
        refusal = refusal_of(error)
        if refusal is None or operation.is_answered:
            raise
        operation.refuse(refusal)


def _serve_one(operation: Operation) -> None:
    """Run one operation to its final response."""
    field, syntax = operation.request.number(dimse.FIELD), operation.context.abstract_syntax
    if field & dimse.RESPONSE:
        raise ProtocolError("a response without a request", pdu.INVALID_VALUE)
    if field == dimse.C_STORE and syntax not in negotiation.SERVICES:
        serve_store(operation)
    elif field == dimse.C_ECHO and syntax == negotiation.VERIFICATION:
        serve_echo(operation)
    elif field == dimse.C_FIND and syntax in negotiation.FIND:
        serve_find(operation)
    elif field == dimse.C_MOVE and syntax in negotiation.MOVE:
        serve_move(operation)
    elif field == dimse.C_GET and syntax in negotiation.GET:
        serve_get(operation)
    else:
        operation.discard_data()
        if field in _NAMES:
            raised = DimseStatusError(CLASS_NOT_SUPPORTED, "another service was negotiated on this context")
        else:
            raised = DimseStatusError(UNRECOGNISED_OPERATION, f"no such operation here: {field:04X}")
        operation.refuse(raised)
