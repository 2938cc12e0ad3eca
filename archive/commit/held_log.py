"""A log under the lease that allows to write it: whoever calls this has an answer, or may not go on.

Rule: an answer that was lost is asked for, once. What stays in doubt after that is decided by taking the log again, and
by nothing else.
"""

from collections.abc import Callable, Sequence

from coffer.archive.commit.commit_log import CommitLog, Group, LogEnd, Loss, Taken
from coffer.archive.tree.checkpoint import Checkpoint
from coffer.archive.tree.mark import Mark
from coffer.keys.errors import FencedError, OutcomeUnknownError, UnavailableError
from coffer.keys.lease.epoch_authority import Lease

__all__ = ["HeldLog", "is_undone"]


def is_undone(error: BaseException) -> bool:
    """Whether an error says that nothing was changed and that the log can still be written."""
    return isinstance(error, UnavailableError) and not isinstance(error, FencedError | OutcomeUnknownError)


class HeldLog:
    """A log and a lease of it. Errors are those of `CommitLog`."""

    def __init__(self, log: CommitLog, lease: Lease) -> None:
        self._log = log
        self._lease = lease

    def take(
        self, told: Callable[[], Sequence[Checkpoint]], accept: Callable[[LogEnd], None], outside: Mark | None
    ) -> Taken:
        """As `CommitLog.take`."""
        return self._log.take(self._lease, told, accept, outside)

    def append(self, at: LogEnd, group: Group) -> LogEnd:
        """As `CommitLog.append`, where a lost answer is not an error."""
        try:
            return self._log.append(self._lease, at, group)
        except OutcomeUnknownError as error:
            found = self._outcome(group.head, error)
            if found is None:
                raise UnavailableError("the group was not appended", hint="send the objects again") from error
            return found

    def seal(self, at: LogEnd, epoch: int | None = None) -> LogEnd:
        """As `CommitLog.seal`, where a lost answer is not an error."""
        try:
            return self._log.seal(self._lease, at, epoch)
        except OutcomeUnknownError as error:
            found = self._outcome(at.chain.head, error)
            if found is None or (found.segment, found.epoch) == (at.segment, at.epoch):
                raise UnavailableError("no segment was begun", hint="send the objects again") from error
            return found

    def _outcome(self, head: bytes, doubt: OutcomeUnknownError) -> LogEnd | None:
        """As `CommitLog.outcome`; without an answer, or for a lease that has ended meanwhile, the doubt stays."""
        try:
            return self._log.outcome(self._lease, head)
        except UnavailableError as error:
            raise doubt from error

    def lost(self, begin: LogEnd, end: LogEnd) -> Loss | None:
        """As `CommitLog.lost`."""
        return self._log.lost(begin, end)

    def close(self) -> None:
        """As `CommitLog.close`."""
        self._log.close()
