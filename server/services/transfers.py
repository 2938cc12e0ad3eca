"""What one line sends out, from its plan to its last object, for the audit trail.

Rule: that it begins is recorded by the plan, before any key is given. How it ended is what the worker says: how many
objects were sent, not which.
"""

from collections.abc import Sequence

from coffer.archive.events.accesses import Act
from coffer.index.query.locate import Located
from coffer.server.access.action import ARCHIVE, Action, Resource
from coffer.server.access.principal import Principal
from coffer.server.audit.acts import act, subjects_of
from coffer.server.services.retrieve import object_of

__all__ = ["SERVICES", "Transfer"]

SERVICES = frozenset({"get", "move"})  # as the observer names them


class Transfer:
    """Objects that are sent to the caller or, of a C-MOVE, to `destination`. Used by the coordinator's thread."""

    def __init__(self, caller: Principal, destination: str, planned: Sequence[Located]) -> None:
        self._caller = caller
        self._destination = destination
        self._planned = len(planned)
        self._subjects = subjects_of(map(object_of, planned))
        self.sent = 0

    def ended(self) -> Act:
        """The record of it, once it is over."""
        is_whole = self.sent >= self._planned
        return act(
            self._caller,
            Action.MOVE if self._destination else Action.RETRIEVE,
            resource=Resource.destination(self._destination) if self._destination else ARCHIVE,
            outcome=0 if is_whole else 4 if self.sent else 8,
            reason="" if is_whole else f"{self.sent} of {self._planned} objects were sent",
            subjects=self._subjects,
        )
