"""C-GET as SCP (PS3.4 C.4.3): the objects come back as C-STORE sub-operations on the association of the request.

Rule: only contexts whose requestor takes C-STORE requests are used. An error in the middle of a data set ends the
association, because half a data set cannot be taken back.
"""

from coffer.keys.errors import CofferError
from coffer.server.dimse.protocol import command as dimse
from coffer.server.dimse.protocol import negotiation
from coffer.server.dimse.protocol.command import Value
from coffer.server.dimse.protocol.pdu import INVALID_VALUE, ProtocolError
from coffer.server.dimse.protocol.status import CANCEL
from coffer.server.dimse.scp.read_ahead import Content, ReadAhead
from coffer.server.dimse.scp.retrieve_plan import plan
from coffer.server.dimse.scp.session import Operation
from coffer.server.dimse.scp.suboperations import Cancelled, SubOperations
from coffer.server.services.api import Instance

__all__ = ["serve_get"]


def serve_get(operation: Operation) -> None:
    """Send the instances that the identifier names back to the requestor."""
    identifier = operation.read_identifier()
    try:
        work, instances = plan(operation, identifier, negotiation.GET)
    except Cancelled:
        operation.answer(CANCEL)
        return
    except CofferError as error:
        operation.refuse(error)
        return
    cancelled = False
    usable = [c for c in operation.session.channel.contexts.values() if c.requestor_is_scp]
    ahead = ReadAhead(instances, usable)
    with work:
        for number, (instance, content) in enumerate(ahead):
            cancelled = _get_one(work, instance, content, number, ahead)
            if cancelled:
                break
        work.finish(cancelled=cancelled)


def _get_one(work: SubOperations, instance: Instance, content: Content | str, number: int, ahead: ReadAhead) -> bool:
    """One sub-operation; True when a C-CANCEL came before its answer."""
    operation, counters = work.operation, work.counters
    session = operation.session
    if isinstance(content, str):
        counters.fail(instance.sop_instance, content)
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
        session.channel.send(content.context, command, content.data)
    except CofferError as error:
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
