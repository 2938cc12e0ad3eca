"""What a C-MOVE or C-GET has to send: the instances that its identifier names (PS3.4 C.4.2.2.1, C.4.3.2.1).

Rule: more sub-operations than the counters can hold are refused before the first one. Instances that a peer may be
unable to read go last, so that an association they break costs no sound one.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Final

from coffer.server.dimse.protocol import negotiation
from coffer.server.dimse.protocol.status import CANNOT_COUNT, DimseStatusError
from coffer.server.dimse.scp.doubtful import sound_first
from coffer.server.dimse.scp.session import Operation
from coffer.server.dimse.scp.suboperations import CANCEL_CHECK_SECONDS, Cancelled, SubOperations
from coffer.server.services.api import Instance

__all__ = ["plan"]

_MOST_SUB_OPERATIONS: Final = 0xFFFF  # the counters are US


def plan(
    operation: Operation, identifier: bytes, models: Mapping[str, str], destination: str = ""
) -> tuple[SubOperations, Sequence[Instance]]:
    """The sub-operations of a retrieval and the instances to send, in order of sending.

    `models` names the information model by SOP class; `destination` is the AE title that a C-MOVE sends to. Raises
    Cancelled when a C-CANCEL comes during the search, DimseStatusError for too many instances, and the errors of
    `RetrieveService.plan`.
    """
    session, context = operation.session, operation.context
    planned = session.services.retriever.plan(
        identifier,
        implicit=context.transfer_syntax == negotiation.IMPLICIT_LE,
        model=models[context.abstract_syntax],
        caller=session.caller,
        destination=destination,
        waiting=_CancelCheck(operation),
    )
    count = len(planned.instances)
    if count > _MOST_SUB_OPERATIONS:
        raise DimseStatusError(CANNOT_COUNT, f"{count} instances: ask for fewer than 65536 at once")
    return SubOperations(operation, count, planned.remark), sound_first(planned.instances)


class _CancelCheck:
    """Called during the search: raises Cancelled after a C-CANCEL, or the error that ended the association."""

    def __init__(self, operation: Operation) -> None:
        self._operation = operation
        self._checked = time.monotonic()

    def __call__(self) -> None:
        if time.monotonic() - self._checked >= CANCEL_CHECK_SECONDS:
            if self._operation.is_cancelled():
                raise Cancelled
            self._checked = time.monotonic()
