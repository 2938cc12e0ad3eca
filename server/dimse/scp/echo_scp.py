"""C-ECHO as SCP (PS3.4 A, PS3.7 9.1.5): whoever may ask is told that this is served."""

from coffer.keys.errors import AccessDeniedError
from coffer.server.access.action import Action
from coffer.server.dimse.protocol.status import SUCCESS
from coffer.server.dimse.scp.session import Operation


def serve_echo(operation: Operation) -> None:
    """Answer a verification."""
    try:
        operation.session.policy.require(operation.session.caller, Action.ECHO)
    except AccessDeniedError as error:
        operation.refuse(error)
        return
    operation.answer(SUCCESS)
