"""The sub-operations of one C-MOVE or C-GET: counted, reported while they run, then summed up (PS3.4 C.4.2, C.4.3).

Rule: Completed counts successes only; every failed instance is listed at the end. Whoever asked hears of it after each
sub-operation and, while one takes long, every two seconds; a C-CANCEL is seen as often. What was sent is told to the
observer every second and when the retrieval ends in whatever way.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

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

_FAILED_LIST: Final = 0x00080058  # Failed SOP Instance UID List
_PENDING_SECONDS: Final = 2.0
LOOK_SECONDS: Final = 0.25
_TELL_SECONDS: Final = 1.0


class Cancelled(Exception):  # noqa: N818  # what was asked for, not an error
    """A C-CANCEL came in the middle of a sub-operation."""


@dataclass(slots=True)
class Counters:
    """Where a retrieval stands (PS3.4 C.4.2.1.6). `failed` lists SOP Instance UIDs, `why` is the first cause."""

    remaining: int
    completed: int = 0
    warned: int = 0
    failed: list[str] = field(default_factory=list)
    why: str = ""

    def count(self, sop_instance: str, status: int) -> None:
        """Take in the status that ended one sub-operation."""
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
        """Count one that could not be tried, broke off, or was refused."""
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
    """What one C-MOVE or C-GET has to do, and where it stands; a context manager."""

    def __init__(self, operation: Operation, count: int, remark: str = "") -> None:
        """`remark` stands in the final response where no failure has to be explained there."""
        self.operation = operation
        self._remark = remark
        self.counters = Counters(count)
        self._reported = self._looked = self._told = time.monotonic()
        self._objects = self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._tell()

    def sent(self, size: int) -> None:
        """One object of `size` bytes has left."""
        self._objects += 1
        self._bytes += size
        if time.monotonic() - self._told >= _TELL_SECONDS:
            self._tell()

    def _tell(self) -> None:
        if self._objects:
            self.operation.session.observer.sent(self.operation.service, self._objects, self._bytes)
        self._objects = self._bytes = 0
        self._told = time.monotonic()

    def report(self) -> None:
        """Between two: let a pending response with the counters go together with what is sent next."""
        operation = self.operation
        values = operation.response(PENDING)
        values.update(self.counters.values(with_remaining=True))
        operation.session.channel.hold(operation.session.channel.frames(operation.context, values))
        self._reported = time.monotonic()

    def is_cancelled(self) -> bool:
        """Between two: send a pending response with the counters, then see whether the peer wants to stop."""
        self.report()
        self.operation.session.channel.flush([])
        self._looked = time.monotonic()
        return self.operation.is_cancelled()

    def pulse(self) -> None:
        """In the middle of one: report when that is due. Raises Cancelled. Cheap: call it often."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        due = now - self._reported >= _PENDING_SECONDS
        if self.is_cancelled() if due else self.operation.is_cancelled():
            raise Cancelled

    def watched(self, data: Iterable[bytes]) -> Iterator[bytes]:
        """The pieces of an object on its way, with a pulse before each. Raises Cancelled."""
        for piece in data:
            self.pulse()
            yield piece

    def finish(self, *, cancelled: bool) -> None:
        """Send the final response."""
        self._tell()
        counters = self.counters
        data = None
        if counters.failed:
            implicit = self.operation.context.transfer_syntax == negotiation.IMPLICIT_LE
            data = encode_identifier({_FAILED_LIST: tuple(counters.failed)}, (), implicit=implicit)
        self.operation.answer(
            CANCEL if cancelled else counters.final_status(),
            cause=counters.why or self._remark,
            more=counters.values(with_remaining=cancelled),
            data=data,
        )
