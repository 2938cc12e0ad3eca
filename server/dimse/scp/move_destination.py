"""The destination of a C-MOVE: which peer it is, and how well it has worked so far (PS3.4 C.4.2.1.2).

Rule: only configured peers are destinations. A destination that breaks the association is called again for the rest,
unless it fails repeatedly. It is given up when it was never reached, cannot be reached again, or fails time after time:
at once if it has taken nothing, otherwise when that has cost too much time. Not every object that a peer cannot read
looks doubtful.
"""

import time
from functools import partial
from typing import Final

from coffer.keys.errors import AccessDeniedError, CofferError, UnavailableError
from coffer.server.access.action import Action, Resource
from coffer.server.access.decision import FULFILLED
from coffer.server.config.settings import Peer
from coffer.server.dimse.protocol import command as dimse
from coffer.server.dimse.protocol.requestor import Requestor
from coffer.server.dimse.protocol.status import UNKNOWN_DESTINATION, DimseStatusError
from coffer.server.dimse.scp.batches import AssociationBatch
from coffer.server.dimse.scp.session import Operation

__all__ = ["Destination"]

_MOST_FAILURES: Final = 5  # in a row
_LOST_SECONDS: Final = 60.0  # spent in a row on sound objects that broke the association of a peer that took others
_DOUBTFUL_SECONDS: Final = 60.0  # spent on doubtful objects that broke the association, over the whole C-MOVE


class Destination:
    """A destination and its failures so far. Used by one thread."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.why = ""  # the latest failure
        self.has_answered = False
        self.failures = 0  # in a row, over objects
        self._was_reached = False
        self._calls = 0  # in a row, without an answer
        self._well_since = self._lost_seconds = 0.0
        self._doubtful_seconds = 0.0

    @classmethod
    def of(cls, operation: Operation) -> "Destination":
        """The destination that a C-MOVE request names.

        Raises DimseStatusError for one that is not configured, AccessDeniedError for one that the caller may not use.
        """
        session, ae_title = operation.session, operation.request.text(dimse.DESTINATION)
        peer = next((each for each in session.config.peers if each.ae_title == ae_title), None)
        try:
            # What is sent is narrowed where it is planned (`services.retrieve`).
            to = Resource.destination(ae_title)
            session.policy.require(session.caller, Action.MOVE, to, fulfils=FULFILLED[Action.MOVE])
        except AccessDeniedError as error:
            if peer is None:
                raise DimseStatusError(UNKNOWN_DESTINATION, str(error)) from error
            raise
        assert peer is not None, "a destination that is permitted is configured"
        return cls(peer)

    @property
    def is_given_up(self) -> bool:
        """Whether it is not to be tried any more."""
        is_failing = self.failures >= _MOST_FAILURES and not (self.has_answered and self._lost_seconds < _LOST_SECONDS)
        return is_failing or self._calls >= _MOST_FAILURES or self._doubtful_seconds >= _DOUBTFUL_SECONDS

    def call(self, operation: Operation, batch: AssociationBatch) -> Requestor:
        """Open a new association. Raises UnavailableError, after a pause if another try follows."""
        config = operation.session.config.dimse
        peer = self.peer
        self._well_since = time.monotonic()
        try:
            requestor = Requestor(
                peer.host,
                peer.port,
                config.ae_title,
                peer.ae_title,
                batch.offers,
                config.destination_seconds,
                partial(operation.session.dial, peer, config.destination_seconds),
            )
        except UnavailableError as error:
            self.why = str(error)
            self._calls = self._calls + 1 if self._was_reached else _MOST_FAILURES
            if not self.is_given_up:
                time.sleep(self._calls / 2)  # it may be restarting, or still busy with the association it broke
            raise
        self._was_reached = True
        self._calls = 0
        return requestor

    def failed(self, error: CofferError) -> None:
        """It failed once more, over an object that it should be able to read."""
        self.failures += 1
        self._lost_seconds += time.monotonic() - self._well_since
        self.why = str(error)

    def failed_on_doubtful(self, error: CofferError) -> None:
        """It failed over an object that it may be unable to read: only the time since it last worked counts."""
        self._doubtful_seconds += time.monotonic() - self._well_since
        self.why = str(error)

    def answered(self) -> None:
        """It answered: earlier failures no longer count."""
        self.has_answered = True
        self.failures = 0
        self._lost_seconds = 0.0
        self._well_since = time.monotonic()
