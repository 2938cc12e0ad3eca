"""C-STORE as SCP (PS3.4 B.2, PS3.7 9.1.1): stream the data set into a reception, then answer the outcome."""

from coffer.index.dicom.attributes import SOP_CLASS, SOP_INSTANCE
from coffer.keys.errors import CofferError, UnavailableError
from coffer.server.dimse.protocol import command as dimse
from coffer.server.dimse.protocol import negotiation
from coffer.server.dimse.protocol.status import (
    CANNOT_UNDERSTAND,
    CLASS_NOT_SUPPORTED,
    DOES_NOT_MATCH,
    SUCCESS,
    DimseStatusError,
)
from coffer.server.dimse.scp.session import Operation
from coffer.server.host.headroom import converting_shortage
from coffer.server.services.api import Reception, StoreRequest


def serve_store(operation: Operation) -> None:
    """Receive one object. The response with status 0x0000 is sent only after the object is durable.

    A failed store does not end the association: the rest of its data set is read and discarded.
    """
    try:
        with converting_shortage():
            reception = _begin(operation)
    except CofferError as error:
        operation.discard_data()
        operation.refuse(error)
        return
    failure = _receive(operation, reception)
    if failure is None:
        operation.answer(SUCCESS)
    else:
        operation.refuse(failure)


def _begin(operation: Operation) -> Reception:
    """A reception for the object that the request names. Raises DimseStatusError and the errors of
    `StoreService.begin`."""
    session, request = operation.session, operation.request
    sop_class, sop_instance = request.text(dimse.AFFECTED_CLASS), request.text(dimse.AFFECTED_INSTANCE)
    if not request.has_data_set:
        raise DimseStatusError(DOES_NOT_MATCH, "the C-STORE request announces no data set")
    if not sop_class or not sop_instance:
        missing = SOP_INSTANCE if sop_class else SOP_CLASS
        raise DimseStatusError(DOES_NOT_MATCH, "the C-STORE request lacks a SOP UID", (missing,))
    # A context that was accepted for one class must not let in another that would have been refused.
    if not negotiation.is_storage(sop_class, accept_unknown=session.config.storage.accept_unknown_sop_classes):
        raise DimseStatusError(CLASS_NOT_SUPPORTED, "objects of this SOP class are not stored", (SOP_CLASS,))
    return session.services.ingest.begin(
        StoreRequest(sop_class, sop_instance, operation.context.transfer_syntax, session.caller)
    )


def _receive(operation: Operation, reception: Reception) -> CofferError | None:
    """Receive the data set and store it; returns why it was not stored, or None."""
    failures: list[CofferError] = []
    received = 0

    def take(piece: memoryview) -> None:
        nonlocal received
        received += len(piece)
        if not failures:
            try:
                with converting_shortage():
                    reception.write(piece)
            except CofferError as error:
                failures.append(error)

    try:
        operation.session.channel.read_data(operation.context, take)
    except BaseException:
        reception.abort()
        raise
    if not received:  # PS3.7 9.1.1: a success would let the sender delete what has not arrived
        failures.append(DimseStatusError(CANNOT_UNDERSTAND, "the data set has no element"))
    if failures:
        reception.abort()
        return failures[0]
    try:
        with converting_shortage():
            return reception.finish().error
    except UnavailableError as error:
        return error
