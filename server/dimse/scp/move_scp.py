"""C-MOVE as SCP (PS3.4 C.4.2): the objects go to a configured destination as C-STORE sub-operations.

Rule: what goes wrong with one object costs that object only. After a broken association the rest goes over a new one,
as long as the destination is not given up (`server.dimse.scp.move_destination`).
"""

from coffer.keys.errors import CofferError, UnavailableError
from coffer.server.dimse.protocol import command as dimse
from coffer.server.dimse.protocol import negotiation
from coffer.server.dimse.protocol.command import Value
from coffer.server.dimse.protocol.requestor import Requestor
from coffer.server.dimse.protocol.status import CANCEL
from coffer.server.dimse.scp.batches import AssociationBatch, batches
from coffer.server.dimse.scp.doubtful import is_doubtful, sound_first
from coffer.server.dimse.scp.move_destination import Destination
from coffer.server.dimse.scp.read_ahead import Content, ReadAhead
from coffer.server.dimse.scp.retrieve_plan import plan
from coffer.server.dimse.scp.session import Operation
from coffer.server.dimse.scp.suboperations import Cancelled, SubOperations
from coffer.server.observe.logs import get_logger
from coffer.server.services.api import Instance

__all__ = ["serve_move"]

_log = get_logger()


def serve_move(operation: Operation) -> None:
    """Send the instances that the identifier names to the destination that the request names."""
    identifier = operation.read_identifier()
    try:
        destination = Destination.of(operation)
        work, instances = plan(operation, identifier, negotiation.MOVE, destination.peer.ae_title)
    except Cancelled:
        operation.answer(CANCEL)
        return
    except CofferError as error:
        operation.refuse(error)
        return
    with work:
        try:
            cancelled = any(_move_batch(work, destination, batch) for batch in batches(instances))
        except Cancelled:
            cancelled = True
        work.finish(cancelled=cancelled)


def _move_batch(work: SubOperations, destination: Destination, batch: AssociationBatch) -> bool:
    """Send one batch, over a new association after each that breaks; True when the move was cancelled."""
    instances, at = batch.instances, 0
    if not batch.offers:
        for instance in instances:
            work.counters.fail(instance.sop_instance, "its SOP class or transfer syntax is no UID")
        return False
    while at < len(instances) and not destination.is_given_up:
        rest, failures = map(instances.__getitem__, range(at, len(instances))), destination.failures
        try:
            with destination.call(work.operation, batch) as association:
                ahead = ReadAhead(rest, association.contexts.values())
                for instance, content in ahead:
                    at += 1
                    _move_one(work, destination, association, instance, content, ahead)
                    if work.is_cancelled(seldom=True):
                        return True
        except CofferError as error:
            _log.info(
                "a sub-operation broke off; the rest is sent over a new association",
                name="suboperation.broken_off",
                cause=str(error),
            )
            if work.is_cancelled():
                return True
            if destination.failures > failures and not destination.has_answered:
                # The neighbours of this object may be like it: try others first.
                middle = (at + len(instances)) // 2
                instances = instances[:at] + sound_first(instances[middle:] + instances[at:middle])
    for instance in instances[at:]:
        work.counters.fail(instance.sop_instance, destination.why)
    return False


def _move_one(  # noqa: PLR0917  # one of many
    work: SubOperations,
    destination: Destination,
    association: Requestor,
    instance: Instance,
    content: Content | str,
    ahead: ReadAhead,
) -> None:
    """One sub-operation. Raises CofferError when it broke the association, and Cancelled; it is counted even so."""
    counters, operation = work.counters, work.operation
    originator: dict[int, Value] = {
        dimse.ORIGINATOR_AE: operation.session.caller.ae_title,
        dimse.ORIGINATOR_ID: operation.request.number(dimse.MESSAGE_ID),
    }
    if isinstance(content, str):
        counters.fail(instance.sop_instance, content)
        return
    try:
        status = association.store(
            content.context,
            instance.sop_instance,
            work.watched(content.data),
            originator,
            meanwhile=ahead.prepare,
            waiting=work.pulse,
        )
    except CofferError as error:
        counters.fail(instance.sop_instance, str(error))
        if isinstance(error, UnavailableError):
            (destination.failed_on_doubtful if is_doubtful(instance) else destination.failed)(error)
        raise
    except Cancelled:
        counters.fail(instance.sop_instance, "cancelled on its way")
        raise
    destination.answered()
    counters.count(instance.sop_instance, status)
    work.sent(instance.length)
