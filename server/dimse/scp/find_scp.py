"""C-FIND as SCP (PS3.4 C.4.1, PS3.7 9.1.2): one pending response per match, C-CANCEL honoured between rows."""

import time
from typing import Final

from coffer.keys.errors import CofferError
from coffer.server.dimse.protocol import negotiation
from coffer.server.dimse.protocol.channel import Frames
from coffer.server.dimse.protocol.status import CANCEL, PENDING, PENDING_UNSUPPORTED, SUCCESS
from coffer.server.dimse.scp.session import Operation

_ROWS_AT_ONCE: Final = 32  # responses in one write; the first goes alone, because a user is waiting for it
_CANCEL_CHECK_SECONDS: Final = 0.25  # how often to look for a C-CANCEL, also while nothing matches


def serve_find(operation: Operation) -> None:
    """Answer a query with its matches and a final status."""
    identifier = operation.read_identifier()
    try:
        status = _send_matches(operation, identifier)
    except CofferError as error:
        operation.refuse(error)
        return
    operation.answer(status)


def _send_matches(operation: Operation, identifier: bytes) -> int:
    session, context = operation.session, operation.context
    matches = session.services.finder.find(
        identifier,
        implicit=context.transfer_syntax == negotiation.IMPLICIT_LE,
        model=negotiation.FIND[context.abstract_syntax],
        caller=session.caller,
    )
    pending = operation.response(PENDING if matches.all_supported else PENDING_UNSUPPORTED, has_data=True)
    gathered: Frames = []
    count, room, checked = 0, 1, time.monotonic()
    try:
        for row in matches.rows:
            if row is not None:
                gathered += session.channel.frames(context, pending, row)
                count += 1
            if count >= room or time.monotonic() - checked >= _CANCEL_CHECK_SECONDS:
                session.channel.flush(gathered)
                if count:
                    gathered, count, room = [], 0, _ROWS_AT_ONCE
                if operation.is_cancelled():
                    return CANCEL
                checked = time.monotonic()
    except CofferError:  # the matches found so far are sent before the failure
        session.channel.flush(gathered)
        raise
    if gathered:
        session.channel.flush(gathered)
    return SUCCESS
