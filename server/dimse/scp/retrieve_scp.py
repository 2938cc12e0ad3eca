"""C-MOVE and C-GET as SCP (PS3.4 C.4.2, C.4.3): sub-operations one by one, stored bytes first.

Rule: an object goes out in its stored syntax where the peer accepts it, converted where both are uncompressed little
endian, and otherwise counts as failed. What goes wrong with one object costs that one only: a destination that breaks
the association is called again for the rest, unless it does so time after time. Objects that a peer may be unable to
read go last, so that what they break costs no sound one.
"""

import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import structlog

from coffer.keys.errors import AccessDeniedError, CofferError, UnavailableError
from coffer.server.access.action import Action, Resource
from coffer.server.config.settings import Peer
from coffer.server.dimse.protocol import command as dimse
from coffer.server.dimse.protocol import negotiation
from coffer.server.dimse.protocol.channel import Context
from coffer.server.dimse.protocol.command import Value
from coffer.server.dimse.protocol.pdu import INVALID_VALUE, ProtocolError
from coffer.server.dimse.protocol.requestor import Requestor
from coffer.server.dimse.protocol.status import CANCEL, CANNOT_COUNT, UNKNOWN_DESTINATION, DimseStatusError
from coffer.server.dimse.scp.batches import Batch, batches
from coffer.server.dimse.scp.doubtful import is_doubtful, sound_first
from coffer.server.dimse.scp.session import Operation
from coffer.server.dimse.scp.suboperations import LOOK_SECONDS, Cancelled, SubOperations
from coffer.server.services.api import Instance

_log = structlog.get_logger(__name__)

_MOST_SUB_OPERATIONS: Final = 0xFFFF  # the counters are US
_MOST_FAILURES: Final = 5  # of a destination, in a row
_LOST_SECONDS: Final = 60.0  # what sound objects in a row may cost that break the association of who took others
_DOUBTFUL_SECONDS: Final = 60.0  # what doubtful objects may cost that break the association, all of a C-MOVE together
# An object up to this size is read whole and checked before its first byte leaves; of a larger one, damage that is
# found on the way costs the association.
_CHECKED_FIRST_BYTES: Final = 16 << 20


def serve_move(operation: Operation) -> None:
    """Send what the identifier names to a configured destination."""
    identifier = operation.read_identifier()
    try:
        peer = _destination(operation)
        work, instances = _plan(operation, identifier, negotiation.MOVE)
    except Cancelled:
        operation.answer(CANCEL)
        return
    except CofferError as error:
        operation.refuse(error)
        return
    line = _Line(peer)
    with work:
        try:
            cancelled = any(_move_batch(work, line, batch) for batch in batches(instances))
        except Cancelled:
            cancelled = True
        work.finish(cancelled=cancelled)


def _destination(operation: Operation) -> Peer:
    """Where the instances are to go. Raises AccessDeniedError; DimseStatusError for a destination that is unknown."""
    session, ae_title = operation.session, operation.request.text(dimse.DESTINATION)
    peer = next((each for each in session.config.peers if each.ae_title == ae_title), None)
    try:
        session.policy.require(session.caller, Action.MOVE, Resource.destination(ae_title))
    except AccessDeniedError as error:
        if peer is None:
            raise DimseStatusError(UNKNOWN_DESTINATION, str(error)) from error
        raise
    assert peer is not None, "a destination that is permitted is configured"
    return peer


def _plan(operation: Operation, identifier: bytes, models: dict[str, str]) -> tuple[SubOperations, Sequence[Instance]]:
    session, context = operation.session, operation.context
    planned = session.services.retriever.plan(
        identifier,
        implicit=context.transfer_syntax == negotiation.IMPLICIT_LE,
        model=models[context.abstract_syntax],
        caller=session.caller,
        waiting=_Watch(operation),
    )
    count = len(planned.instances)
    if count > _MOST_SUB_OPERATIONS:
        raise DimseStatusError(CANNOT_COUNT, f"{count} instances: ask for fewer than 65536 at once")
    return SubOperations(operation, count, planned.remark), sound_first(planned.instances)


class _Watch:
    """Called while instances are looked for: raises Cancelled once the peer has asked for that, or what its end is."""

    def __init__(self, operation: Operation) -> None:
        self._operation = operation
        self._looked = time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self._looked >= LOOK_SECONDS:
            if self._operation.is_cancelled():
                raise Cancelled
            self._looked = time.monotonic()


class _Line:
    """How a destination behaves. It is given up when it was never reached, or cannot be reached again, or fails time
    after time: at once where it took nothing, and else when that has cost too much time. Not every object that a peer
    cannot read looks doubtful."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.why = ""
        self._reached = False
        self.has_answered = False
        self.failures = 0  # in a row, over objects
        self._calls = 0  # in a row, that were not answered
        self._well_since = self._lost_seconds = 0.0
        self._doubtful_seconds = 0.0

    @property
    def is_given_up(self) -> bool:
        """Whether to try no more."""
        is_failing = self.failures >= _MOST_FAILURES and not (self.has_answered and self._lost_seconds < _LOST_SECONDS)
        return is_failing or self._calls >= _MOST_FAILURES or self._doubtful_seconds >= _DOUBTFUL_SECONDS

    def call(self, operation: Operation, batch: Batch) -> Requestor:
        """A new association. Raises UnavailableError, after a pause where there is another try."""
        config = operation.session.config.dimse
        peer = self.peer
        self._well_since = time.monotonic()
        try:
            requestor = Requestor(
                peer.host, peer.port, config.ae_title, peer.ae_title, batch.offers, config.destination_seconds
            )
        except UnavailableError as error:
            self.why = str(error)
            self._calls = self._calls + 1 if self._reached else _MOST_FAILURES
            if not self.is_given_up:
                time.sleep(self._calls / 2)  # it may be starting again, or still busy with the association it broke
            raise
        self._reached = True
        self._calls = 0
        return requestor

    def fail(self, error: CofferError) -> None:
        """It failed once more over an object that it should be able to read."""
        self.failures += 1
        self._lost_seconds += time.monotonic() - self._well_since
        self.why = str(error)

    def broke_on_doubtful(self, error: CofferError) -> None:
        """It failed over an object that it need not be able to read: only the time since all was well counts."""
        self._doubtful_seconds += time.monotonic() - self._well_since
        self.why = str(error)

    def answered(self) -> None:
        """It answered: what was before is forgiven."""
        self.has_answered = True
        self.failures = 0
        self._lost_seconds = 0.0
        self._well_since = time.monotonic()


def _move_batch(work: SubOperations, line: _Line, batch: Batch) -> bool:
    """Send one batch, over a new association after each that breaks; True when the move was cancelled."""
    instances, at = batch.instances, 0
    if not batch.offers:
        for instance in instances:
            work.counters.fail(instance.sop_instance, "its SOP class or transfer syntax is no UID")
        return False
    while at < len(instances) and not line.is_given_up:
        rest, failures = map(instances.__getitem__, range(at, len(instances))), line.failures
        try:
            with line.call(work.operation, batch) as destination:
                ahead = _Ahead(rest, destination.contexts.values())
                for instance, found in ahead:
                    at += 1
                    _move_one(work, line, destination, instance, found, ahead)
                    if work.is_cancelled():
                        return True
        except CofferError as error:
            _log.info("a sub-operation broke off, the rest goes over a new association", cause=str(error))
            if work.is_cancelled():
                return True
            if line.failures > failures and not line.has_answered:  # its neighbours may be like it: try others first
                middle = (at + len(instances)) // 2
                instances = instances[:at] + sound_first(instances[middle:] + instances[at:middle])
    for instance in instances[at:]:
        work.counters.fail(instance.sop_instance, line.why)
    return False


def _move_one(  # noqa: PLR0917  # one of many
    work: SubOperations,
    line: _Line,
    destination: Requestor,
    instance: Instance,
    found: "_Ready | str",
    ahead: "_Ahead",
) -> None:
    """One sub-operation. Raises CofferError when it broke the association, and Cancelled; it is counted even so."""
    counters, operation = work.counters, work.operation
    originator: dict[int, Value] = {
        dimse.ORIGINATOR_AE: operation.session.caller.ae_title,
        dimse.ORIGINATOR_ID: operation.request.number(dimse.MESSAGE_ID),
    }
    if isinstance(found, str):
        counters.fail(instance.sop_instance, found)
        return
    try:
        status = destination.store(
            found.context,
            instance.sop_instance,
            work.watched(found.data),
            originator,
            meanwhile=ahead.prepare,
            waiting=work.pulse,
        )
    except CofferError as error:
        counters.fail(instance.sop_instance, str(error))
        if isinstance(error, UnavailableError):
            (line.broke_on_doubtful if is_doubtful(instance) else line.fail)(error)
        raise
    except Cancelled:
        counters.fail(instance.sop_instance, "cancelled on its way")
        raise
    line.answered()
    counters.count(instance.sop_instance, status)
    work.sent(instance.length)


class _Ready(NamedTuple):
    """What is sent next: the context and the bytes."""

    context: Context
    data: Iterable[bytes]


class _Ahead:
    """Each instance with what to send of it, or why nothing. Used by one thread.

    Threads that open the next ones were slower: each short call of numpy gives the global lock away, and to get it back
    from the thread that sends takes longer than the call.
    """

    def __init__(self, instances: Iterable[Instance], contexts: Collection[Context]) -> None:
        self._rest = iter(instances)
        self._contexts = contexts
        self._next: tuple[Instance, _Ready | str] | None = None

    def __iter__(self) -> Iterator[tuple[Instance, "_Ready | str"]]:
        while True:
            self.prepare()
            ready, self._next = self._next, None
            if ready is None:
                return
            yield ready

    def prepare(self) -> None:
        """Open the next one, while the peer is busy with the one before."""
        if self._next is None and (instance := next(self._rest, None)) is not None:
            self._next = instance, _content(instance, self._contexts)


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
    except Exception as error:  # noqa: BLE001  # one object must not take the others with it
        _log.exception("an object cannot be sent: a fault of ours")
        return f"a fault of the archive: {type(error).__name__}"
    return _Ready(context, data)


def serve_get(operation: Operation) -> None:
    """Send what the identifier names back on the same association, where its requestor takes C-STORE requests."""
    identifier = operation.read_identifier()
    try:
        work, instances = _plan(operation, identifier, negotiation.GET)
    except Cancelled:
        operation.answer(CANCEL)
        return
    except CofferError as error:
        operation.refuse(error)
        return
    cancelled = False
    usable = [c for c in operation.session.channel.contexts.values() if c.requestor_is_scp]
    ahead = _Ahead(instances, usable)
    with work:
        for number, (instance, found) in enumerate(ahead):
            cancelled = _get_one(work, instance, found, number, ahead)
            if cancelled:
                break
        work.finish(cancelled=cancelled)


def _get_one(work: SubOperations, instance: Instance, found: _Ready | str, number: int, ahead: _Ahead) -> bool:
    """One sub-operation; True when a C-CANCEL came before its answer."""
    operation, counters = work.operation, work.counters
    session = operation.session
    if isinstance(found, str):
        counters.fail(instance.sop_instance, found)
        return work.is_cancelled()
    message_id = (operation.request.number(dimse.MESSAGE_ID) + number) % 0xFFFF + 1
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
    work.sent(instance.length)
    ahead.prepare()
    cancelled = False
    while True:
        _, answer = session.channel.read_command(session.config.dimse.destination_seconds)
        if answer.number(dimse.FIELD) == dimse.C_STORE | dimse.RESPONSE:
            counters.count(instance.sop_instance, answer.number(dimse.STATUS))
            if not cancelled:
                work.report()
            return cancelled
        cancelled |= operation.is_cancel(answer)
