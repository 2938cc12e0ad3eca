"""The sub-operations of one C-MOVE or C-GET: counted, reported while they run, then summed up (PS3.4 C.4.2, C.4.3).

Rule: Completed counts successes only; every failed instance is listed at the end. A pending response is sent after each
sub-operation of a C-GET, in a C-MOVE after the first one and then at most ten times a second; while one takes long,
every two seconds. A C-CANCEL is looked for as often, and every 250 ms during a long one. The observer learns
what was sent every second, and when the retrieval ends for whatever reason.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from coffer.index.dicom.attributes import FAILED_SOP_INSTANCES
from coffer.index.dicom.identifier import encode_identifier
from coffer.server.dimse.protocol import command as dimse
from coffer.server.dimse.protocol import negotiation
from coffer.server.dimse.protocol.command import Value
from coffer.server.dimse.protocol.status import (
    CANCEL,
    CANNOT_PERFORM,
    PENDING,
    SUCCESS,
    WARNING,
    is_warning,
)
from coffer.server.dimse.scp.session import Operation

_PENDING_SECONDS: Final = 2.0
_APART_SECONDS: Final = 0.1  # two pending responses of a C-MOVE: each is two system calls and a wake-up of the peer
CANCEL_CHECK_SECONDS: Final = 0.25
_OBSERVER_SECONDS: Final = 1.0


class Cancelled(Exception):  # noqa: N818  # requested by the peer, not an error
    """A C-CANCEL arrived in the middle of a search or sub-operation."""


@dataclass(slots=True)
class Counters:
    """The progress of a retrieval (PS3.4 C.4.2.1.6). `failed` lists SOP Instance UIDs, `why` is the first cause."""

    remaining: int
    completed: int = 0
    warned: int = 0
    failed: list[str] = field(default_factory=list)
    why: str = ""

    def count(self, sop_instance: str, status: int) -> None:
        """Count the status that ended one sub-operation."""
        if status == SUCCESS:
            self.remaining -= 1
            self.completed += 1
            return
        why = f"a C-STORE sub-operation ended with {status:04X}"
        if is_warning(status):
            self.remaining -= 1
            self.warned += 1
            self.why = self.why or why
        else:
            self.fail(sop_instance, why)

    def fail(self, sop_instance: str, why: str) -> None:
        """Count a sub-operation that could not be tried, broke off, or was refused."""
        self.remaining -= 1
        self.failed.append(sop_instance)
        self.why = self.why or why

    def values(self, *, with_remaining: bool) -> dict[int, Value]:
        """The counter elements of a response."""
        values: dict[int, Value] = {
            dimse.COMPLETED: self.completed,
            dimse.FAILED: len(self.failed),
            dimse.WARNING: self.warned,
        }
        if with_remaining:
            values[dimse.REMAINING] = self.remaining
        return values

    def final_status(self) -> int:
        """PS3.4 Table C.4-2: success, warning when some arrived, failure when none did."""
        if not self.failed and not self.warned:
            return SUCCESS
        return WARNING if self.completed or self.warned else CANNOT_PERFORM


class SubOperations:
    """The sub-operations of one C-MOVE or C-GET and their progress; a context manager that notifies the observer."""

    def __init__(self, operation: Operation, count: int, remark: str = "") -> None:
        """`remark` becomes the comment of the final response unless a failure has to be explained there."""
        self.operation = operation
        self._remark = remark
        self.counters = Counters(count)
        self._reported = self._checked = self._observed = time.monotonic()
        self._has_reported = False
        self._objects = self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._notify_observer()

    def sent(self, size: int) -> None:
        """One object of `size` bytes was sent."""
        self._objects += 1
        self._bytes += size
        if time.monotonic() - self._observed >= _OBSERVER_SECONDS:
            self._notify_observer()

    def _notify_observer(self) -> None:
        if self._objects:
            self.operation.session.observer.sent(self.operation.service, self._objects, self._bytes)
        self._objects = self._bytes = 0
        self._observed = time.monotonic()

    def report(self) -> None:
        """Between two sub-operations: send a pending response with the counters together with what is sent next."""
        operation = self.operation
        values = operation.response(PENDING)
        values.update(self.counters.values(with_remaining=True))
        operation.session.channel.hold(operation.session.channel.frames(operation.context, values))
        self._reported = time.monotonic()
        self._has_reported = True

    def is_cancelled(self, *, seldom: bool = False) -> bool:
        """Between two sub-operations: send a pending response with the counters, then look for a C-CANCEL. With
        `seldom` do neither if a response was sent a moment ago."""
        if seldom and self._has_reported and time.monotonic() - self._reported < _APART_SECONDS:
            return False
        self.report()
        self.operation.session.channel.flush([])
        self._checked = time.monotonic()
        return self.operation.is_cancelled()

    def pulse(self) -> None:
        """In the middle of a sub-operation: report if that is due. Raises Cancelled. Cheap: call it often."""
        now = time.monotonic()
        if now - self._checked < CANCEL_CHECK_SECONDS:
            return
        self._checked = now
        due = now - self._reported >= _PENDING_SECONDS
        if self.is_cancelled() if due else self.operation.is_cancelled():
            raise Cancelled

    def watched(self, data: Iterable[bytes]) -> Iterator[bytes]:
        """The pieces of an object being sent, with a pulse before each. Raises Cancelled."""
        for piece in data:
            self.pulse()
            yield piece

    def finish(self, *, cancelled: bool) -> None:
        """Send the final response."""
        self._notify_observer()
        counters = self.counters
        data = None
        if counters.failed:
            implicit = self.operation.context.transfer_syntax == negotiation.IMPLICIT_LE
            data = encode_identifier({FAILED_SOP_INSTANCES: tuple(counters.failed)}, (), implicit=implicit)
        self.operation.answer(
            CANCEL if cancelled else counters.final_status(),
            cause=counters.why or self._remark,
            more=counters.values(with_remaining=cancelled),
            data=data,
        )
