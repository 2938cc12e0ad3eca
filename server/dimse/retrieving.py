"""C-MOVE and C-GET as SCP (PS3.4 C.4.2, C.4.3): sub-operations one by one, honest counters, stored bytes first.

Rule: an object goes out in its stored syntax where the peer accepts it, converted where both are uncompressed little
endian, and otherwise counts as failed. Completed counts successes only; every failed instance is listed at the end.
"""

from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import structlog

from keys.errors import CofferError, UnavailableError
from server.config import Peer
from server.convert import CONVERTIBLE
from server.dimse import command as dimse
from server.dimse import negotiation
from server.dimse.channel import Context
from server.dimse.command import Command, Value
from server.dimse.negotiation import Offer
from server.dimse.pdu import INVALID_VALUE, ProtocolError
from server.dimse.requestor import Requestor
from server.dimse.services import Instance
from server.dimse.session import Session
from server.dimse.status import (
    CANCEL,
    CANNOT_COUNT,
    CANNOT_PERFORM,
    PENDING,
    SUCCESS,
    UNKNOWN_DESTINATION,
    WARNING,
    DimseStatusError,
)
from server.identifier import encode_identifier

_log = structlog.get_logger(__name__)

_FAILED_LIST: Final = 0x00080058  # Failed SOP Instance UID List
_MOST_SUB_OPERATIONS: Final = 0xFFFF  # the counters are US
_MOST_CONTEXTS: Final = 128
# An object up to this size is read whole and checked before its first byte leaves; of a larger one, damage that is
# found on the way costs the association.
_CHECKED_FIRST_BYTES: Final = 16 << 20


@dataclass(slots=True)
class Counters:
    """Where a retrieval stands (PS3.4 C.4.2.1.6). `failed` lists SOP Instance UIDs."""

    remaining: int
    completed: int = 0
    warned: int = 0
    failed: list[str] = field(default_factory=list)
    why: str = ""

    def count(self, sop_instance: str, status: int) -> None:
        """Take in how one sub-operation ended."""
        self.remaining -= 1
        if status == SUCCESS:
            self.completed += 1
        elif status >> 12 == 0xB or status in (0x0001, 0x0107, 0x0116):
            self.warned += 1
        else:
            self.failed.append(sop_instance)
            self.why = self.why or f"a C-STORE sub-operation ended with {status:04X}"

    def fail(self, sop_instance: str, why: str) -> None:
        """Count one that could not be tried or broke off."""
        self.remaining -= 1
        self.failed.append(sop_instance)
        self.why = self.why or why

    def values(self, *, with_remaining: bool) -> dict[int, Value]:
        """The counter elements of a response."""
        values: dict[int, Value] = {
            dimse.COMPLETED: self.completed,
            dimse.FAILED: len(self.failed),
            dimse.WARNING: self.warned,
        }
        if with_remaining:
            values[dimse.REMAINING] = self.remaining
        return values

    def final_status(self) -> int:
        """PS3.4 Table C.4-2: success, warning when some arrived, failure when none did."""
        if not self.failed and not self.warned:
            return SUCCESS
        return WARNING if self.completed or self.warned else CANNOT_PERFORM


class _Retrieval:
    """One C-MOVE or C-GET on its way."""

    def __init__(self, session: Session, context: Context, request: Command, instances: Sequence[Instance]) -> None:
        self.session = session
        self.counters = Counters(len(instances))
        self._context = context
        self._request = request

    def is_cancelled(self) -> bool:
        """Send a pending response with the counters; then see whether the peer wants to stop."""
        values = self.session.response(self._context, self._request, PENDING)
        values.update(self.counters.values(with_remaining=True))
        self.session.channel.flush(self.session.channel.frames(self._context, values))
        return self.session.is_cancelled(self._request)

    def finish(self, *, cancelled: bool) -> int:
        """Send the final response; returns its status."""
        counters = self.counters
        status = CANCEL if cancelled else counters.final_status()
        data = None
        if counters.failed:
            implicit = self._context.transfer_syntax == negotiation.IMPLICIT_LE
            data = encode_identifier({_FAILED_LIST: tuple(counters.failed)}, (), implicit=implicit)
        self.session.answer(
            self._context,
            self._request,
            status,
            comment=counters.why[:64] if counters.failed else "",
            more=counters.values(with_remaining=cancelled),
            data=data,
        )
        return status


def serve_move(session: Session, context: Context, request: Command) -> None:
    """Send what the identifier names to a configured destination."""
    watch = session.stopwatch("move")
    identifier = session.read_identifier(context, request)
    try:
        peer = _destination(session, request.text(dimse.DESTINATION))
        retrieval, instances = _plan(session, context, request, identifier, negotiation.MOVE)
    except CofferError as error:
        watch.stop(session.refuse(context, request, error))
        return
    cancelled = any(_move_batch(retrieval, peer, batch, request) for batch in _batches(instances))
    watch.stop(retrieval.finish(cancelled=cancelled))


def _destination(session: Session, ae_title: str) -> Peer:
    for peer in session.config.peers:
        if peer.ae_title == ae_title:
            return peer
    raise DimseStatusError(UNKNOWN_DESTINATION, f"move destination {ae_title!r} is not configured")


def _plan(
    session: Session, context: Context, request: Command, identifier: bytes, models: dict[str, str]
) -> tuple[_Retrieval, Sequence[Instance]]:
    instances = session.services.retriever.plan(
        identifier,
        implicit=context.transfer_syntax == negotiation.IMPLICIT_LE,
        model=models[context.abstract_syntax],
        caller=session.caller,
    )
    if len(instances) > _MOST_SUB_OPERATIONS:
        raise DimseStatusError(CANNOT_COUNT, f"{len(instances)} instances: ask for fewer than 65536 at once")
    return _Retrieval(session, context, request, instances), instances


def _pairs(instance: Instance) -> set[tuple[str, str]]:
    """The presentation contexts an instance may use: its own syntax, and those it can be converted to."""
    others = {s for s in CONVERTIBLE if instance.convertible_to(s)}
    return {(instance.sop_class, syntax) for syntax in {instance.transfer_syntax, *others}}


def _batches(instances: Iterable[Instance]) -> Iterator[tuple[list[Instance], list[Offer]]]:
    """Cut the instances so that each part's contexts fit into one association (PS3.8 9.3.2.2: 128)."""
    batch: list[Instance] = []
    pairs: set[tuple[str, str]] = set()
    for instance in instances:
        more = pairs | _pairs(instance)
        if len(more) > _MOST_CONTEXTS:
            yield batch, _offers(pairs)
            batch, more = [], _pairs(instance)
        batch.append(instance)
        pairs = more
    if batch:
        yield batch, _offers(pairs)


def _offers(pairs: set[tuple[str, str]]) -> list[Offer]:
    return [Offer(2 * i + 1, sop_class, (syntax,)) for i, (sop_class, syntax) in enumerate(sorted(pairs))]


def _move_batch(retrieval: _Retrieval, peer: Peer, batch: tuple[list[Instance], list[Offer]], request: Command) -> bool:
    """Send one batch over one association; True when the move was cancelled."""
    instances, offers = batch
    session = retrieval.session
    config = session.config.dimse
    left = list(instances)
    try:
        with (
            Requestor(
                peer.host, peer.port, config.ae_title, peer.ae_title, offers, config.destination_seconds
            ) as destination,
            closing(_ahead(instances, destination.contexts.values())) as ready,
        ):
            for instance, found in ready:
                left.pop(0)
                _move_one(retrieval, destination, instance, found, request)
                if retrieval.is_cancelled():
                    return True
    except UnavailableError as error:
        for instance in left:
            retrieval.counters.fail(instance.sop_instance, str(error))
    except CofferError:
        # Damage was found in the middle of an object: that association was aborted, the rest gets another.
        return _move_batch(retrieval, peer, (left, offers), request) if left else False
    return False


def _move_one(
    retrieval: _Retrieval, destination: Requestor, instance: Instance, found: "_Ready | str", request: Command
) -> None:
    counters = retrieval.counters
    originator: dict[int, Value] = {
        dimse.ORIGINATOR_AE: retrieval.session.caller.calling_ae,
        dimse.ORIGINATOR_ID: request.number(dimse.MESSAGE_ID),
    }
    if isinstance(found, str):
        counters.fail(instance.sop_instance, found)
        return
    try:
        status = destination.store(found.context, instance.sop_instance, found.data, originator)
    except CofferError as error:
        counters.fail(instance.sop_instance, str(error))
        raise
    counters.count(instance.sop_instance, status)
    retrieval.session.observer.sent("move", instance.length)


class _Ready(NamedTuple):
    """What is sent next: the context and the bytes."""

    context: Context
    data: Iterable[bytes]


def _ahead(instances: Iterable[Instance], contexts: Collection[Context]) -> Generator[tuple[Instance, _Ready | str]]:
    """Each instance with what to send of it, or why nothing; one is opened while the one before it is on its way."""
    with ThreadPoolExecutor(1, thread_name_prefix="retrieve") as opener:
        before: tuple[Instance, Future[_Ready | str]] | None = None
        for instance in instances:
            following = opener.submit(_content, instance, contexts)
            if before is not None:
                yield before[0], before[1].result()
            before = instance, following
        if before is not None:
            yield before[0], before[1].result()


def _content(instance: Instance, contexts: Iterable[Context]) -> _Ready | str:
    """The context and the bytes to send on it, or why it cannot be sent."""
    usable = [c for c in contexts if c.abstract_syntax == instance.sop_class]
    context = next((c for c in usable if c.transfer_syntax == instance.transfer_syntax), None)
    try:
        if context is not None:
            data: Iterable[bytes] = instance.open()
        else:
            context = next((c for c in usable if instance.convertible_to(c.transfer_syntax)), None)
            if context is None:
                return f"not accepted: syntax {instance.transfer_syntax}"
            data = instance.convert_to(context.transfer_syntax)
        if instance.length <= _CHECKED_FIRST_BYTES:
            data = list(data)
    except CofferError as error:
        _log.error("an object cannot be sent", cause=str(error), way_out=error.hint())
        return str(error)
    return _Ready(context, data)


def serve_get(session: Session, context: Context, request: Command) -> None:
    """Send what the identifier names back on the same association, where its requestor takes C-STORE requests."""
    watch = session.stopwatch("get")
    identifier = session.read_identifier(context, request)
    try:
        retrieval, instances = _plan(session, context, request, identifier, negotiation.GET)
    except CofferError as error:
        watch.stop(session.refuse(context, request, error))
        return
    cancelled = False
    usable = [c for c in session.channel.contexts.values() if c.requestor_is_scp]
    with closing(_ahead(instances, usable)) as ready:
        for number, (instance, found) in enumerate(ready):
            cancelled = _get_one(retrieval, instance, found, number, request) or retrieval.is_cancelled()
            if cancelled:
                break
    watch.stop(retrieval.finish(cancelled=cancelled))


def _get_one(retrieval: _Retrieval, instance: Instance, found: _Ready | str, number: int, request: Command) -> bool:
    """One sub-operation; True when a C-CANCEL came while its answer was awaited."""
    session, counters = retrieval.session, retrieval.counters
    if isinstance(found, str):
        counters.fail(instance.sop_instance, found)
        return False
    message_id = (request.number(dimse.MESSAGE_ID) + number) % 0xFFFF + 1
    command: dict[int, Value] = {
        dimse.AFFECTED_CLASS: instance.sop_class,
        dimse.FIELD: dimse.C_STORE,
        dimse.MESSAGE_ID: message_id,
        dimse.PRIORITY: dimse.MEDIUM,
        dimse.DATA_SET_TYPE: 0,
        dimse.AFFECTED_INSTANCE: instance.sop_instance,
    }
    try:
        session.channel.send(found.context, command, found.data)
    except CofferError as error:
        # Half a data set is out and cannot be taken back.
        raise ProtocolError(str(error), INVALID_VALUE) from error
    session.observer.sent("get", instance.length)
    cancelled = False
    while True:
        _, answer = session.channel.read_command(session.config.dimse.destination_seconds)
        if answer.number(dimse.FIELD) == dimse.C_STORE | dimse.RESPONSE:
            counters.count(instance.sop_instance, answer.number(dimse.STATUS))
            return cancelled
        session.check_cancel(answer)
        cancelled = True
