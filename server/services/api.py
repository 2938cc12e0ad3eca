"""The services of an archive, as every door sees them: values and Protocols.

Rule: a door imports this, and no service imports a door. A failure is an error of ours; each door has one table from
errors to its own codes. `server.services.store`, `server.services.find` and `server.services.retrieve` fulfil the
Protocols.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from coffer.keys.errors import CofferError
from coffer.server.access.principal import Principal

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class StoreRequest:
    """The identity of one incoming object (PS3.7 9.3.1.1) and, where it comes from a file, the file's own header."""

    sop_class: str
    sop_instance: str
    transfer_syntax: str
    caller: Principal
    file_meta: bytes | None = None
    preamble: bytes | None = None


@dataclass(frozen=True, slots=True)
class StoreOutcome:
    """How a store ended: whether the same bytes were there already, or the error for which nothing was stored."""

    duplicate: bool = False
    error: CofferError | None = None


class Reception(Protocol):
    """One object on its way in; used by one thread."""

    def write(self, data: Buffer) -> None:
        """Take the next bytes. Raises UnavailableError; then `abort` follows."""

    def finish(self) -> StoreOutcome:
        """Store it. Without an error in the outcome it is durable and can be found. Never raises a CofferError."""

    def abort(self) -> None:
        """Forget it."""


class StoreService(Protocol):
    """Lets objects in."""

    def begin(self, request: StoreRequest) -> Reception:
        """Start one. Raises AccessDeniedError or UnavailableError."""


@dataclass(frozen=True, slots=True)
class Matches:
    """The answer to a query: encoded identifiers, and whether every key of it is supported (PS3.4 C.4.1.1.4).

    None stands among them now and then while nothing matches, so that who waits can look for a C-CANCEL.
    """

    rows: Iterator[bytes | None]
    all_supported: bool = True


class FindService(Protocol):
    """Answers queries."""

    def find(self, identifier: bytes, *, implicit: bool, model: str, caller: Principal) -> Matches:
        """The matches, one by one. Raises InputError (with `offending` tags) before the first one."""


class Instance(Protocol):
    """One stored object that may leave."""

    @property
    def sop_class(self) -> str: ...
    @property
    def sop_instance(self) -> str: ...
    @property
    def transfer_syntax(self) -> str: ...
    @property
    def length(self) -> int: ...
    @property
    def has_problem(self) -> bool: ...

    def open(self) -> Iterator[bytes]:
        """The data set as stored, in pieces. Raises CofferError when it cannot be given whole."""

    def convertible_to(self, transfer_syntax: str) -> bool:
        """Whether `convert_to` serves this syntax."""

    def convert_to(self, transfer_syntax: str) -> Iterator[bytes]:
        """The data set in another syntax, in pieces. Raises InputError."""


I_co = TypeVar("I_co", bound=Instance, covariant=True)


@dataclass(frozen=True, slots=True)
class Planned(Generic[I_co]):
    """What a retrieval sends, and what its final response has to remark about it, if anything."""

    instances: Sequence[I_co]
    remark: str = ""


class RetrieveService(Protocol):
    """Resolves what a retrieval names."""

    def plan(
        self, identifier: bytes, *, implicit: bool, model: str, caller: Principal, waiting: Callable[[], None]
    ) -> Planned[Instance]:
        """The instances. `waiting` is called now and then while they are looked for; what it raises ends that.

        Raises InputError (with `offending` tags) or AccessDeniedError.
        """


class Services(Protocol):
    """The three together: `server.services.bundle.WriterServices` has them."""

    @property
    def ingest(self) -> StoreService: ...
    @property
    def finder(self) -> FindService: ...
    @property
    def retriever(self) -> RetrieveService: ...


class Observer(Protocol):
    """Is told what happens: `server.observe.metrics.Metrics`."""

    def association_opened(self) -> None: ...
    def association_closed(self) -> None: ...
    def rejected(self, reason: str) -> None: ...
    def answered(self, service: str, status: int, seconds: float) -> None: ...
    def sent(self, service: str, objects: int, size: int) -> None: ...
