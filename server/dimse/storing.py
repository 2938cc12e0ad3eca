"""C-STORE as SCP (PS3.4 B.2, PS3.7 9.1.1): stream the data set into a reception, answer what became of it."""

from keys.errors import CofferError
from server.dimse import command as dimse
from server.dimse.channel import Context
from server.dimse.command import Command
from server.dimse.services import Reception, StoreOutcome, StoreRequest
from server.dimse.session import Session
from server.dimse.status import DOES_NOT_MATCH, offending_of, status_of

_SOP_CLASS, _SOP_INSTANCE = 0x00080016, 0x00080018


def serve_store(session: Session, context: Context, request: Command) -> None:
    """Receive one object. The response with status 0x0000 leaves only after the object is durable.

    A failed store does not end the association: the rest of its data set is read and forgotten.
    """
    outcome = _outcome(session, context, request)
    session.answer(context, request, outcome.status, comment=outcome.comment, offending=outcome.offending)


def _outcome(session: Session, context: Context, request: Command) -> StoreOutcome:
    sop_class, sop_instance = request.text(dimse.AFFECTED_CLASS), request.text(dimse.AFFECTED_INSTANCE)
    if not request.has_data_set:
        return StoreOutcome(DOES_NOT_MATCH, "the C-STORE request announces no data set")
    if not sop_class or not sop_instance:
        session.channel.read_data(context, lambda _: None)
        missing = _SOP_INSTANCE if sop_class else _SOP_CLASS
        return StoreOutcome(DOES_NOT_MATCH, "the C-STORE request lacks a SOP UID", (missing,))
    try:
        reception = session.services.ingest.begin(
            StoreRequest(sop_class, sop_instance, context.transfer_syntax, session.caller)
        )
    except CofferError as error:
        session.channel.read_data(context, lambda _: None)
        return _failure(error)
    return _receive(session, context, reception)


def _receive(session: Session, context: Context, reception: Reception) -> StoreOutcome:
    failures: list[CofferError] = []

    def take(piece: memoryview) -> None:
        if not failures:
            try:
                reception.write(piece)
            except CofferError as error:
                failures.append(error)

    try:
        session.channel.read_data(context, take)
    except BaseException:
        reception.abort()
        raise
    if failures:
        reception.abort()
        return _failure(failures[0])
    return reception.finish()


def _failure(error: CofferError) -> StoreOutcome:
    status, comment = status_of(error)
    return StoreOutcome(status, comment, offending_of(error))
