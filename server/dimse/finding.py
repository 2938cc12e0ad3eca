"""C-FIND as SCP (PS3.4 C.4.1, PS3.7 9.1.2): one pending response a match, C-CANCEL honoured between rows."""

from typing import Final

from keys.errors import CofferError
from server.dimse import negotiation
from server.dimse.channel import Context, Frames
from server.dimse.command import Command
from server.dimse.session import Session
from server.dimse.status import CANCEL, PENDING, PENDING_UNSUPPORTED, SUCCESS

_ROWS_AT_ONCE: Final = 32  # so many responses in one write; the first goes alone, for whoever looks at a screen


def serve_find(session: Session, context: Context, request: Command) -> None:
    """Answer a query with its matches and a final status."""
    watch = session.stopwatch("find")
    identifier = session.read_identifier(context, request)
    try:
        status = _send_matches(session, context, request, identifier)
    except CofferError as error:
        watch.stop(session.refuse(context, request, error))
        return
    session.answer(context, request, status)
    watch.stop(status)


def _send_matches(session: Session, context: Context, request: Command, identifier: bytes) -> int:
    matches = session.services.finder.find(
        identifier,
        implicit=context.transfer_syntax == negotiation.IMPLICIT_LE,
        model=negotiation.FIND[context.abstract_syntax],
        caller=session.caller,
    )
    status = PENDING if matches.all_supported else PENDING_UNSUPPORTED
    pending = session.response(context, request, status, has_data=True)
    gathered: Frames = []
    count, room = 0, 1
    for row in matches.rows:
        gathered += session.channel.frames(context, pending, row)
        count += 1
        if count >= room:
            session.channel.flush(gathered)
            gathered, count, room = [], 0, _ROWS_AT_ONCE
            if session.is_cancelled(request):
                return CANCEL
    if gathered:
        session.channel.flush(gathered)
    return SUCCESS
