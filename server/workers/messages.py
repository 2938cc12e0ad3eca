"""The messages between a worker and the committing process, as msgpack.

Rule: both ends are the same version of Coffer on one machine, started by one process: there is no negotiation, and a
message that does not decode is an internal error. Every request except `Stop` and `ObserverCall` has one reply.
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec
from msgspec import Struct

from coffer.index.instance.identity import PartId
from coffer.index.query.locate import Located
from coffer.keys import errors
from coffer.keys.errors import CofferError
from coffer.server.access.principal import Principal
from coffer.server.engine.commit import Committed, Sealed
from coffer.server.identity.claim import AssociationClaim, Refusal
from coffer.server.services.api import Observer


class _Message(Struct, frozen=True, array_like=True, tag=True):
    """Any message. Its repr names only the types of its values, which are keys, UIDs and patient data."""

    def __repr__(self) -> str:
        values = (getattr(self, name) for name in self.__struct_fields__)
        return f"{type(self).__name__}({', '.join(f'<{type(value).__name__}>' for value in values)})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:  # msgspec's own shows the values
        return [(name, type(getattr(self, name))) for name in self.__struct_fields__]


class Setup(_Message, frozen=True):
    """First on a worker's control socket: the configuration as JSON, the users without their passwords as
    `users.toml` (empty: none), the archive's id, the key of short ids in logs, and among how many workers memory is
    divided. With TLS, the outlet (`server.dimse.outlet`) is attached."""

    config: bytes
    users: bytes
    archive_id: bytes
    log_id_key: bytes
    share: int


class Users(_Message, frozen=True):
    """The users as in `Setup`, changed: they hold for the associations that begin from now on."""

    users: bytes


class Serve(_Message, frozen=True):
    """Serve an association with this number. Its connection and the worker's end of a new line are attached as file
    descriptors."""

    host: str
    number: int


class End(_Message, frozen=True):
    """End the association with this number unless it is busy: another one needs its place."""

    number: int


class Withdraw(_Message, frozen=True):
    """End the association with this number, because what let its peer in does so no longer: now, or after the operation
    under way, which has so many seconds."""

    number: int
    seconds: float


class Quit(_Message, frozen=True):
    """Let running operations finish, for at most this many seconds, then exit."""

    grace_seconds: float


class Ready(_Message, frozen=True):
    """The worker's answer to `Setup`: what the kernel could not forbid it (`server.confine`)."""

    unconfined: tuple[str, ...]


class Pulse(_Message, frozen=True):
    """Sent by a worker twice a second: what it is short of, how many of its log lines were lost since it began, and its
    idle associations: number, seconds idle, and whether it was ever used."""

    short_of: str
    lost_lines: int
    idle: list[tuple[int, float, bool]]


class Identify(_Message, frozen=True):
    """Who calls, as far as the association request says it; answered by `Identified`. First on every line, and once."""

    claim: AssociationClaim


class Identified(_Message, frozen=True):
    """Who calls, as far as it was proved, or why nobody is let in."""

    found: Principal | None
    refusal: Refusal | None = None


class StudyKeyFor(_Message, frozen=True):
    """The key of one patient's objects of a study, created if there is none; answered by `Key`."""

    part: PartId


class KeyOf(_Message, frozen=True):
    """The key with this id; answered by `Key`."""

    key_id: bytes


class Renew(_Message, frozen=True):
    """May the key with this id, which this line was given, still be used? Answered by `Renewed`."""

    key_id: bytes


class Commit(_Message, frozen=True):
    """Commit an object; answered by `Done`. Its body is in shared memory, or in file `path` if that is not empty."""

    sealed: Sealed
    body_bytes: int
    path: str


class Find(_Message, frozen=True):
    """Answer a query; answered by `Rows`."""

    identifier: bytes
    implicit: bool
    model: str


class Plan(_Message, frozen=True):
    """Resolve a retrieval; answered by `Places`. `destination` is the AE title that a C-MOVE sends to."""

    identifier: bytes
    implicit: bool
    model: str
    destination: str = ""


class More(_Message, frozen=True):
    """The next part of the answer to the last `Find` or `Plan`."""


class Stop(_Message, frozen=True):
    """No further part is wanted."""


class ObserverCall(_Message, frozen=True):
    """A call of one method of `server.services.api.Observer`: one class for each, whose fields are the arguments."""

    def make(self, observer: Observer) -> None:
        """Call the method of `observer`."""
        raise NotImplementedError


class AssociationOpened(ObserverCall, frozen=True):
    """`Observer.association_opened`."""

    def make(self, observer: Observer) -> None:
        """As `ObserverCall.make`."""
        observer.association_opened()


class AssociationClosed(ObserverCall, frozen=True):
    """`Observer.association_closed`."""

    def make(self, observer: Observer) -> None:
        """As `ObserverCall.make`."""
        observer.association_closed()


class Rejected(ObserverCall, frozen=True):
    """`Observer.rejected`."""

    reason: str

    def make(self, observer: Observer) -> None:
        """As `ObserverCall.make`."""
        observer.rejected(self.reason)


class Aborted(ObserverCall, frozen=True):
    """`Observer.aborted`."""

    reason: str

    def make(self, observer: Observer) -> None:
        """As `ObserverCall.make`."""
        observer.aborted(self.reason)


class Limited(ObserverCall, frozen=True):
    """`Observer.limited`."""

    limit: str

    def make(self, observer: Observer) -> None:
        """As `ObserverCall.make`."""
        observer.limited(self.limit)


class Answered(ObserverCall, frozen=True):
    """`Observer.answered`."""

    service: str
    status: int
    seconds: float

    def make(self, observer: Observer) -> None:
        """As `ObserverCall.make`."""
        observer.answered(self.service, self.status, self.seconds)


class Sent(ObserverCall, frozen=True):
    """`Observer.sent`."""

    service: str
    objects: int
    size: int

    def make(self, observer: Observer) -> None:
        """As `ObserverCall.make`."""
        observer.sent(self.service, self.objects, self.size)


class Key(_Message, frozen=True):
    """A study key, and for how long after the request it may be used: it is kept until then at most, unless it is
    renewed (`server.workers.held_key`). The key itself comes in a pipe beside the message
    (`server.workers.transport`)."""

    key_id: bytes
    lease_seconds: float


class Renewed(_Message, frozen=True):
    """The key may be used for so long after the request."""

    lease_seconds: float


class Done(_Message, frozen=True):
    """How a commit ended."""

    committed: Committed


class Rows(_Message, frozen=True):
    """Encoded identifiers, whether they are the last, and whether every key of the query is supported."""

    rows: list[bytes]
    is_last: bool
    all_supported: bool


class Places(_Message, frozen=True):
    """Instances and their locations, whether they are the last, and a remark for the final response."""

    places: list[Located]
    is_last: bool
    remark: str = ""


class Failed(_Message, frozen=True):
    """The error that a request raised."""

    kind: str
    message: str
    hint: str
    offending: tuple[int, ...]


Order = Setup | Users | Serve | End | Withdraw | Quit
Request = (
    Identify | StudyKeyFor | KeyOf | Renew | Commit | Find | Plan | More | Stop
    | AssociationOpened | AssociationClosed | Rejected | Aborted | Limited | Answered | Sent
)  # fmt: skip
Reply = Identified | Key | Renewed | Done | Rows | Places | Failed

_ENCODER: Final = msgspec.msgpack.Encoder()
encode = _ENCODER.encode
T = TypeVar("T")


def _decoding(decoder: msgspec.msgpack.Decoder[T]) -> Callable[[bytes], T]:
    def decode(data: bytes) -> T:
        """The message. Raises msgspec.DecodeError for bytes that are none."""
        try:
            return decoder.decode(data)
        except (UnicodeError, RecursionError, OverflowError) as error:  # msgspec lets these through
            raise msgspec.DecodeError(type(error).__name__) from None  # the error itself would hold the bytes

    return decode


decode_order: Final = _decoding(msgspec.msgpack.Decoder(Order))
decode_request: Final = _decoding(msgspec.msgpack.Decoder(Request))
decode_ready: Final = _decoding(msgspec.msgpack.Decoder(Ready))
decode_pulse: Final = _decoding(msgspec.msgpack.Decoder(Pulse))
decode_reply: Final = _decoding(msgspec.msgpack.Decoder(Reply))


def failed(error: CofferError) -> Failed:
    """The reply that represents an error."""
    offending = error.offending if isinstance(error, errors.InputError) else ()
    return Failed(type(error).__name__, str(error), error.hint(), offending)


def error_of(failure: Failed) -> CofferError:
    """The error that a reply represents."""
    kind: type[CofferError] = getattr(errors, failure.kind, errors.UnavailableError)
    if issubclass(kind, errors.InputError):
        return kind(failure.message, hint=failure.hint, offending=failure.offending)
    return kind(failure.message, hint=failure.hint)
