"""The services of an archive, as every door sees them: values and Protocols.

Rule: a door imports this, and no service imports a door. A failure is a CofferError; each door maps errors to its own
codes in one table. `server.services.store`, `server.services.find` and `server.services.retrieve` implement the
Protocols.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from coffer.keys.errors import CofferError
from coffer.server.access.principal import Principal
from coffer.server.identity.claim import AssociationClaim, Refusal

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """The identity of one incoming object (PS3.7 9.3.1.1) and, if it comes from a file, the file's own header."""

    sop_class: str
    sop_instance: str
    transfer_syntax: str
    caller: Principal
    file_meta: bytes | None = None
    preamble: bytes | None = None


@dataclass(frozen=True, slots=True)
class StoreOutcome:
    """How a store ended: whether the same bytes were stored already, or the error that prevented it."""

    duplicate: bool = False
    error: CofferError | None = None


class Reception(Protocol):
    """One object being received; used by one thread."""

    def write(self, data: Buffer) -> None:
        """Add the next bytes. Raises UnavailableError; the caller then calls `abort`."""

    def finish(self) -> StoreOutcome:
        """Store it. If the outcome has no error, it is durable and can be found. Never raises a CofferError."""

    def abort(self) -> None:
        """Discard what was received."""


class Gate(Protocol):
    """Says who calls."""

    def admit(self, claim: AssociationClaim) -> Principal | Refusal:
        """Who calls, if they were proved to be there and may associate. Raises UnavailableError."""


class StoreService(Protocol):
    """Receives objects."""

    def begin(self, request: StoreRequest) -> Reception:
        """Begin to receive one. Raises AccessDeniedError or UnavailableError."""


@dataclass(frozen=True, slots=True)
class Matches:
    """The answer to a query: encoded identifiers, and whether every key of it is supported (PS3.4 C.4.1.1.4).

    The rows yield None periodically while nothing matches, so that the caller can check for a C-CANCEL.
    """

    rows: Iterator[bytes | None]
    all_supported: bool = True


class FindService(Protocol):
    """Answers queries."""

    def find(self, identifier: bytes, *, implicit: bool, model: str, caller: Principal) -> Matches:
        """The matches, one by one. Raises InputError (with `offending` tags) before the first one."""


class Instance(Protocol):
    """One stored object to be sent."""

    @property
    def sop_class(self) -> str:
        """The SOP Class UID."""

    @property
    def sop_instance(self) -> str:
        """The SOP Instance UID."""

    @property
    def transfer_syntax(self) -> str:
        """The UID of the transfer syntax in which it is stored."""

    @property
    def length(self) -> int:
        """Bytes of the data set as stored."""

    @property
    def has_problem(self) -> bool:
        """Whether it could not be parsed to its end, or not all of its header could be kept."""

    def open(self, *, fast: bool = False) -> Iterator[bytes]:
        """The data set as stored, in pieces; `fast` checks it for faults only, not by SHA-256 once more. Raises
        CofferError if it cannot be returned whole."""

    def convertible_to(self, transfer_syntax: str) -> bool:
        """Whether `convert_to` supports this syntax."""

    def convert_to(self, transfer_syntax: str) -> Iterator[bytes]:
        """The data set in another syntax, in pieces. Raises InputError."""


I_co = TypeVar("I_co", bound=Instance, covariant=True)


@dataclass(frozen=True, slots=True)
class Planned(Generic[I_co]):
    """What a retrieval sends, and a remark for its final response, if there is one."""

    instances: Sequence[I_co]
    remark: str = ""


class RetrieveService(Protocol):
    """Resolves what a retrieval names."""

    def plan(
        self,
        identifier: bytes,
        *,
        implicit: bool,
        model: str,
        caller: Principal,
        destination: str,
        waiting: Callable[[], None],
    ) -> Planned[Instance]:
        """The instances, to be sent to the caller or, of a C-MOVE, to the AE title `destination`. `waiting` is called
        periodically during the search; what it raises ends the search.

        Raises InputError (with `offending` tags) or AccessDeniedError.
        """


class Services(Protocol):
    """The three services together, as in `server.services.bundle.WriterServices`."""

    @property
    def ingest(self) -> StoreService:
        """Receives objects."""

    @property
    def finder(self) -> FindService:
        """Answers queries."""

    @property
    def retriever(self) -> RetrieveService:
        """Resolves retrievals."""


class Observer(Protocol):
    """Counts what happens, as `server.observe.metrics.Metrics` does. No method raises or waits."""

    def association_opened(self) -> None:
        """An association was accepted."""

    def association_closed(self) -> None:
        """An accepted association ended."""

    def rejected(self, reason: str) -> None:
        """An association was rejected; `reason` is one of `server.observe.reached.Rejected`."""

    def aborted(self, reason: str) -> None:
        """We ended an association, or a connection before there was one; `reason` is one of `reached.Abort`."""

    def limited(self, limit: str) -> None:
        """A limit was reached, one of `server.observe.reached.Limit`."""

    def answered(self, service: str, status: int, seconds: float) -> None:
        """An operation got its final response with this DIMSE status, after so many seconds."""

    def sent(self, service: str, objects: int, size: int) -> None:
        """A retrieval sent objects with so many bytes of data sets in all."""
